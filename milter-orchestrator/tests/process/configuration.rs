//! Mistakes in the configuration file: each with its line, what is wrong, and what to write.

use std::fs;
use std::process::Output;

use super::house::{command, configuration};

/// What `check` says of these sections.
fn check(sections: &str) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let text = configuration(directory.path(), sections);
    fs::write(directory.path().join("orchestrator.toml"), text).unwrap();
    let output = command(directory.path()).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// Line of the first line of the sections in the file.
const FIRST: usize = 13;

#[test]
fn mistakes_are_shown_with_line_and_advice() {
    let good = "[milter.a]\ncommand = [\"true\"]\n[[route]]\n";
    for (sections, line, words) in [
        ("[milter.a]\ncomand = [\"true\"]\n", 1, "command"),
        ("[milter.a]\ncommand = \"true\"\n", 1, "list"),
        ("[milter.a]\non_failure = \"tempfial\"\n", 1, "tempfail"),
        ("[milter.a]\nsocket = \"10025\"\n", 1, "inet:port@host"),
        ("[milter.a]\n[milter.a]\n", 1, "duplicate"),
        ("[milter.a]\nstart_timeout = 5\n", 1, "\"5s\""),
        (
            "[milter.a]\nshadow = true\n[[route]]\nchain = []\n",
            0,
            "neither a command nor",
        ),
        (&format!("{good}chain = [\"b\"]\n"), 3, "no milter \"b\""),
        (
            &format!("{good}chain = [\"a\", [\"aa\"]]\n"),
            3,
            "did you mean \"a\"?",
        ),
        (&format!("{good}chain = \"a\"\n"), 3, "list"),
        (
            &format!("{good}chain = [3]\n"),
            3,
            "a name in quotes or a list of names",
        ),
        (&format!("{good}chain = [\"a\", [\"a\"]]\n"), 3, "already"),
        (
            &format!("{good}match = {{ listen = \"inbund\" }}\nchain = []\n"),
            3,
            "inbound",
        ),
        (
            &format!("{good}match = {{ client = \"10.0.0.0/40\" }}\nchain = []\n"),
            3,
            "192.0.2.0/24",
        ),
        (
            &format!("{good}match = {{ lisen = \"x\" }}\nchain = []\n"),
            3,
            "listen",
        ),
        (good, 2, "no chain"),
    ] {
        let (output, said) = check(sections);
        assert_eq!(output.status.code(), Some(78), "{sections}: {said}");
        assert!(said.contains(words), "{sections}: {said}");
        let place = format!("orchestrator.toml:{}:", FIRST + line);
        assert!(said.contains(&place), "{sections}: no {place} in {said}");
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    let (output, said) = check(
        "[milter.a]\ncommand = [\"true\"]\n[milter.idle]\ncommand = [\"true\"]\n\
         [[route]]\nchain = [\"a\"]\n[[route]]\nname = \"late\"\nchain = []\n",
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("[milter.idle] is in no chain"), "{said}");
    assert!(said.contains("\"late\" never matches"), "{said}");
}

#[test]
fn the_default_file_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let output = command(directory.path())
        .arg("default-config")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["[supervisor]", "probe_interval", "[control]", "[process]"] {
        assert!(text.contains(words), "no {words} in\n{text}");
    }
    fs::write(directory.path().join("orchestrator.toml"), text).unwrap();
    let output = command(directory.path()).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It lacks what only the operator knows, and nothing else is wrong with it.
    assert!(said.contains("[listen.NAME]"), "{said}");
}
