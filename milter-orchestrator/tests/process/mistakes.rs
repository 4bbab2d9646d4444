//! Every kind of mistake in the configuration, as `check` tells it: rows of what is written, and
//! what is said of it, by line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::house::{command, configuration};

/// What is written before the rows' own sections, so that nothing else is wrong.
const SOUND: &str = "[milter.a]\ncommand = [\"true\"]\n[milter.b]\ncommand = [\"true\"]\n";

/// Line of the first line of a row in the file.
const FIRST: usize = 17;

/// What `check` says: whether it is content, and every title with its line, counted from the row's
/// first, and its help.
fn check(directory: &Path, sections: &str) -> (bool, Vec<(isize, String, String)>) {
    let text = configuration(directory, &format!("{SOUND}{sections}"));
    fs::write(directory.join("orchestrator.toml"), text).unwrap();
    let output = command(directory).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut found = Vec::new();
    let mut title = "";
    for line in said.lines() {
        let line = line.trim();
        if let Some((_, place)) = line.split_once("orchestrator.toml:")
            && line.starts_with("-->")
        {
            let number: usize = place.split(':').next().unwrap().parse().unwrap();
            let number = number.cast_signed() - FIRST.cast_signed();
            found.push((number, title.to_owned(), String::new()));
        } else if let (Some(help), Some(last)) = (line.strip_prefix("= help: "), found.last_mut()) {
            last.2 = help.to_owned();
        }
        title = line;
    }
    (output.status.success(), found)
}

/// What is written, and what is said of it.
type Row<'a> = (&'a str, &'a [(isize, &'a str, &'a str)]);

/// Each row: what is written, then for every mistake its line, words of it, and words of the
/// advice.
fn mistakes(rows: &[Row<'_>], sound: bool) {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::write(
        here.join("bad-list"),
        "192.0.2.0/24\n# ours\n192.0.2.0/33\n",
    )
    .unwrap();
    fs::write(here.join("plain"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(here.join("plain"), fs::Permissions::from_mode(0o644)).unwrap();
    for (text, expected) in rows {
        let text = text.replace("HERE", here.to_str().unwrap());
        let (content, found) = check(here, &text);
        assert_eq!(content, sound, "{text}\n{found:#?}");
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for ((line, title, help), (at, words, advice)) in found.iter().zip(*expected) {
            assert_eq!(line, at, "{text}\n{title}");
            assert!(title.contains(words), "{text}\n{title}: no {words}");
            assert!(
                help.contains(advice),
                "{text}\n{title}\n{help}: no {advice}"
            );
        }
    }
}

/// A route with that condition, before one that takes the rest.
macro_rules! route {
    ($condition:expr) => {
        concat!(
            "[[route]]\nmatch = ",
            $condition,
            "\nchain = [\"a\", \"b\"]\n[[route]]\nname = \"rest\"\nchain = []\n"
        )
    };
}

#[test]
fn mistakes_in_conditions() {
    mistakes(
        &[
            (
                route!("{ client = \"192.0.2.0/33\" }"),
                &[(1, "neither a network", "192.0.2.0/24")],
            ),
            (
                route!("{ client = [\"10.0.0.0/8\", \"x\"], sender = \"a b\" }"),
                &[
                    (1, "\"x\" is neither", "path of a list"),
                    (1, "holds ' '", "example.com"),
                ],
            ),
            (
                route!("{ host = \"a..b\" }"),
                &[(1, "no name of a host", ".example.com")],
            ),
            (
                route!("{ recipient = \"@\" }"),
                &[(1, "no address", "list-*")],
            ),
            (
                route!("{ time = \"25:00-26:00\" }"),
                &[(1, "no time of day", "22:00-06:00")],
            ),
            (
                route!("{ time = 5 }"),
                &[(1, "`time`: expected a name in quotes", "")],
            ),
            (
                route!("{ size = \"large\" }"),
                &[(1, "no number", ">=10MB")],
            ),
            (route!("{ load = \"=>5\" }"), &[(1, "no number", ">=200")]),
            (route!("{ load = true }"), &[(1, "expected a number", "")]),
            (
                route!("{ macro = { \"{a b}\" = \"x\" } }"),
                &[(1, "is no macro", "cipher_bits")],
            ),
            (
                route!("{ macro = { x = [] } }"),
                &[(1, "empty list", "\"*\"")],
            ),
        ],
        false,
    );
}

#[test]
fn mistakes_in_conditions_within_conditions_and_lists() {
    mistakes(
        &[
            (
                route!("{ listen = \"inbund\" }"),
                &[(1, "no listener \"inbund\"", "\"inbound\"?")],
            ),
            (
                route!("{ verdict = { a = \"accept\" } }"),
                &[(1, "before any filter", "milter.NAME")],
            ),
            (
                route!("{ any = [{ tls = true }, {}] }"),
                &[(1, "empty condition", "leave it out")],
            ),
            (
                route!("{ not = { sendr = \"x\" } }"),
                &[(1, "unknown key `sendr`", "sender")],
            ),
            (
                route!("{ all = [{ client = \"1.2.3\" }, { any = [{ time = \"x\" }] }] }"),
                &[(1, "\"1.2.3\"", ""), (1, "\"x\" is no time", "")],
            ),
            (
                route!("{ client = \"HERE/absent\" }"),
                &[(1, "absent: No such file", "one value a line")],
            ),
            (
                route!("{ client = \"HERE/bad-list\" }"),
                &[(1, "bad-list:3: \"192.0.2.0/33\"", "")],
            ),
        ],
        false,
    );
}

#[test]
fn mistakes_between_filters() {
    mistakes(
        &[
            (
                "[milter.c]\ncommand = [\"true\"]\nmatch = { verdict = { d = \"accept\" } }\n\
                 [milter.d]\ncommand = [\"true\"]\nunless = { verdict = { c = \"accept\" } }\n\
                 [[route]]\nchain = []\n",
                &[(
                    0,
                    "a circle: c asks for the word of d, which asks",
                    "take one of these",
                )],
            ),
            (
                "[milter.c]\ncommand = [\"true\"]\nmatch = { verdict = { dkim = \"accept\" } }\n\
                 [[route]]\nchain = [\"c\"]\n",
                &[(2, "no milter \"dkim\"", "there are: a, b, c")],
            ),
            (
                "[milter.c]\ncommand = [\"true\"]\nmatch = { verdict = { a = \"acept\" } }\n\
                 [[route]]\nchain = [\"a\", \"c\"]\n",
                &[(2, "nothing that a filter says", "\"accept\"?")],
            ),
            (
                "[milter.c]\ncommand = [\"true\"]\nmatch = { verdict = { a = \"accept\" } }\n\
                 [[route]]\nchain = [\"c\", \"a\"]\n[[route]]\nchain = [[\"a\", \"c\"]]\n",
                &[
                    (4, "which does not run before it", "\"a\" before \"c\""),
                    (6, "which does not run before it", "not in one inner list"),
                ],
            ),
            (
                "[milter.c]\ncommand = [\"true\"]\nshadow = true\n\
                 [milter.d]\ncommand = [\"true\"]\nmatch = { verdict = { c = \"accept\" } }\n\
                 [[route]]\nchain = [\"c\", \"d\"]\n",
                &[(5, "c is a shadow", "ask another")],
            ),
        ],
        false,
    );
}

#[test]
fn mistakes_in_listeners_and_commands() {
    let rest = "[[route]]\nchain = [\"a\", \"b\"]\n";
    let with = |text: &str| format!("{text}{rest}");
    let twin = with("[listen.x]\nsocket = \"unix:HERE/x\"\n[listen.y]\nsocket = \"unix:HERE/x\"\n");
    let plain = with("[milter.c]\ncommand = [\"HERE/plain\"]\n");
    let absent = with("[milter.c]\ncommand = [\"HERE/absent\"]\n");
    let unknown = with("[milter.c]\ncommand = [\"no-such-filter\", \"-f\"]\n");
    let folder = with("[milter.c]\ncommand = [\"HERE\"]\ndirectory = \"HERE/plain\"\n");
    mistakes(
        &[
            (
                &twin,
                &[(3, "is the socket of [listen.x] already", "of its own")],
            ),
            (&plain, &[(1, "plain is not executable", "chmod +x")]),
            (&absent, &[(1, "there is no program", "install it")]),
            (
                &unknown,
                &[(1, "in the directories of PATH", "write its path")],
            ),
            (
                &folder,
                &[
                    (1, "is no program", "words of their own"),
                    (2, "is no directory", ""),
                ],
            ),
        ],
        false,
    );
}

#[test]
fn all_of_them_at_once() {
    mistakes(
        &[(
            "[milter.c]\ncomand = [\"true\"]\n\
             [milter.d]\ncommand = [\"no-such-filter\"]\non_failure = \"tempfial\"\n\
             [[route]]\nchain = [\"a\", \"x\", \"c\"]\nmatch = { client = \"10/8\", tls = 1 }\n\
             [[route]]\nstrict = true\n\
             [limits]\nheader_fields = 0\nspool = 5\n",
            &[
                (1, "unknown key `comand`", "`command`"),
                (3, "no program \"no-such-filter\"", ""),
                (4, "unknown value \"tempfial\"", "\"tempfail\""),
                (6, "no milter \"x\"", ""),
                (7, "\"10/8\"", ""),
                (7, "`tls`: expected true or false", ""),
                (8, "no chain", "chain = []"),
                (11, "no message at all", "4096"),
                (12, "unknown key `spool`", ""),
            ],
        )],
        false,
    );
}

#[test]
fn routes_that_nothing_comes_to_are_warned_of() {
    let rest = "[[route]]\nname = \"rest\"\nchain = [\"b\"]\n";
    let with = |text: &str| format!("{text}{rest}");
    let never = "route \"never\" never matches";
    let case = |first: &str, second: &str| {
        with(&format!(
            "[[route]]\nname = \"first\"\nmatch = {first}\nchain = [\"a\"]\n\
             [[route]]\nname = \"never\"\nmatch = {second}\nchain = [\"a\"]\n"
        ))
    };
    let impossible = |first: &str, second: &str| {
        let text = case(first, second);
        mistakes(&[(&text, &[(4, never, "change its match")])], true);
    };
    let only = case("{ listen = \"inbound\" }", "{ tls = true }");
    let behind = (8, "\"rest\" never matches: route \"first\" before it", "");
    mistakes(&[(&only, &[(4, never, "change its match"), behind])], true);
    impossible(
        "{ client = \"10.0.0.0/8\" }",
        "{ client = \"10.1.0.0/16\", tls = true }",
    );
    impossible("{ sender = [\"a@x\", \"b@x\"] }", "{ sender = \"A@x\" }");
    impossible("{ authenticated = true }", "{ login = \"alice\" }");
    impossible("{ size = \">=10MB\" }", "{ size = \">20MB\" }");
    impossible(
        "{ time = \"22:00-06:00\" }",
        "{ time = \"sat 23:00-24:00\" }",
    );
    impossible("{ tls = true }", "{ tls = true, authenticated = false }");
    impossible("{ helo = \"a\" }", "{ tls = true, not = { tls = true } }");
    impossible(
        "{ helo = \"a\" }",
        "{ load = \"<5\", all = [{ load = \">=5\" }] }",
    );
    impossible(
        "{ helo = \"a\" }",
        "{ client = \"10.0.0.0/8\", not = { client = \"10.0.0.0/7\" } }",
    );
    impossible(
        "{ any = [{ tls = true }, { helo = \"a\" }] }",
        "{ helo = \"a\" }",
    );
    for (first, second) in [
        (
            "{ client = \"10.1.0.0/16\" }",
            "{ client = \"10.0.0.0/8\" }",
        ),
        ("{ sender = \"a@x\" }", "{ sender = \"x\" }"),
        ("{ tls = true, authenticated = true }", "{ tls = true }"),
        (
            "{ time = \"sat 22:00-06:00\" }",
            "{ time = \"22:00-06:00\" }",
        ),
        ("{ size = \"<5\" }", "{ not = { size = \">5\" } }"),
        ("{ login = \"alice\" }", "{ authenticated = true }"),
    ] {
        mistakes(&[(&case(first, second), &[])], true);
    }
    // Both halves together take everything.
    let halves = "[[route]]\nname = \"yes\"\nmatch = { tls = true }\nchain = [\"a\"]\n\
                  [[route]]\nname = \"no\"\nmatch = { tls = false }\nchain = [\"b\"]\n";
    let text = with(halves);
    mistakes(
        &[(&text, &[(8, "the routes before it take everything", "")])],
        true,
    );
    mistakes(&[(halves, &[])], true);
    let own = "[milter.c]\ncommand = [\"true\"]\nmatch = { tls = true }\nunless = { tls = true }\n\
               [[route]]\nchain = [\"a\", \"b\", \"c\"]\n";
    mistakes(&[(own, &[(0, "c never sees a message", "unless")])], true);
}
