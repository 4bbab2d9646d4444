//! In the configuration: the program does not start, and says where the mistake is and what to
//! write, with an exit code of sysexits(3).

use std::ffi::OsStr;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use milter_tests::programs::{DAEMONS, run};

/// A configuration that cannot be used, with what to expect of it.
struct Mistake {
    daemons: &'static [&'static str],
    text: String,
    /// Of sysexits(3).
    code: i32,
    says: &'static [&'static str],
}

fn mistake(
    daemons: &'static [&'static str],
    text: &str,
    code: i32,
    says: &'static [&'static str],
) -> Mistake {
    Mistake {
        daemons,
        text: text.to_owned(),
        code,
        says,
    }
}

const ALL: &[&str] = &DAEMONS;
const WITH_SERVER: &[&str] = &["milter-clamav", "milter-dkim", "milter-spam"];

fn mistakes() -> Vec<Mistake> {
    let level = "[log]\n\nlevel = 5\n";
    let mode = "[server]\nmode = \"rw\"\n";
    let socket = "[server]\nsocket = \"tcp:1\"\n";
    let nowhere = "[server]\nsocket = \"unix:/nonexistent/x\"\n";
    let server = "[clamd]\nserver = [\"unix:/x\"]\n";
    let text = "[policy]\nreject_text = \"{virus}\"\n";
    let policy = "[policy]\non_error = \"acept\"\n";
    let clamav = &["milter-clamav"];
    let orchestrator = &["milter-orchestrator"];
    let pool = "listen.a.socket = \"unix:/nonexistent/a\"\nroute = [{ chain = [\"m\"] }]\n\
        [milter.m]\nsocket = \"unix:/x\"\nshadow = true\npool = 4\n";
    vec![
        mistake(
            ALL,
            "[logg]\n",
            78,
            &["unknown key `logg`", "config.toml:1:2", "`log`"],
        ),
        mistake(ALL, "[log\n", 78, &["unclosed table", "config.toml:1:"]),
        mistake(
            ALL,
            level,
            78,
            &["`level`", "config.toml:3:9", "level = \"info\""],
        ),
        mistake(WITH_SERVER, mode, 78, &["config.toml:2:8", "\"0660\""]),
        mistake(
            WITH_SERVER,
            socket,
            78,
            &["config.toml:2:10", "inet:port@host"],
        ),
        mistake(WITH_SERVER, nowhere, 73, &["/nonexistent", "create it"]),
        mistake(
            clamav,
            server,
            78,
            &["config.toml:2:1", "did you mean `servers`"],
        ),
        mistake(clamav, text, 78, &["config.toml:2:", "{signature}"]),
        mistake(clamav, policy, 78, &["config.toml:2:", "acept", "accept"]),
        mistake(
            orchestrator,
            pool,
            78,
            &["config.toml:6:8", "shadow", "leave pool out"],
        ),
    ]
}

/// Runs `daemon` with `text` as its configuration in `directory`.
fn try_to_start(daemon: &str, directory: &Path, text: &str) -> (i32, String) {
    let file = directory.join("config.toml");
    std::fs::write(&file, text).unwrap();
    run(daemon, &["--config".as_ref(), file.as_os_str()]).unwrap()
}

fn check(daemon: &str, directory: &Path, mistake: &Mistake) {
    let (code, output) = try_to_start(daemon, directory, &mistake.text);
    assert_eq!(code, mistake.code, "{daemon}: {}\n{output}", mistake.text);
    let plain = output.replace("\\\"", "\"");
    for says in mistake.says {
        assert!(
            plain.contains(says),
            "{daemon}: {says:?} is not in\n{output}"
        );
    }
}

#[test]
fn every_daemon_explains_every_mistake() {
    let directory = tempfile::tempdir().unwrap();
    for mistake in mistakes() {
        for daemon in mistake.daemons {
            check(daemon, directory.path(), &mistake);
        }
    }
}

#[test]
fn a_missing_file_and_a_port_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = Mistake {
        daemons: WITH_SERVER,
        text: format!("[server]\nsocket = \"inet:{port}@127.0.0.1\"\n"),
        code: 69,
        says: &["the port is in use", "set another `socket`"],
    };
    for daemon in ALL {
        let arguments = ["--config", "/nonexistent/x.toml"].map(OsStr::new);
        let (code, output) = run(daemon, &arguments).unwrap();
        assert_eq!(code, 66, "{daemon}: {output}");
        assert!(output.contains("/nonexistent/x.toml"), "{daemon}: {output}");
        assert!(output.contains("default-config"), "{daemon}: {output}");
    }
    for daemon in WITH_SERVER {
        check(daemon, directory.path(), &in_use);
    }
}

#[test]
fn keys_that_are_no_keys_or_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let check_key = |content: &str, mode: u32, code, says: &'static [&'static str]| {
        let key = directory.path().join("key.pem");
        let _ = std::fs::remove_file(&key);
        std::fs::write(&key, content).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let text = format!(
            "[[sign]]\ndomain = \"example.org\"\nselector = \"s\"\nkey = \"{}\"\n",
            key.display()
        );
        let mistake = Mistake {
            daemons: &["milter-dkim"],
            text,
            code,
            says,
        };
        check("milter-dkim", directory.path(), &mistake);
    };
    check_key("hello\n", 0o600, 78, &["key.pem", "config.toml:4:"]);
    let empty = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n";
    check_key(empty, 0o600, 78, &["key.pem", "config.toml:4:"]);
    check_key(empty, 0o644, 78, &["mode 0644", "chmod", "config.toml:4:"]);
    let missing = mistake(
        &["milter-dkim"],
        "[[sign]]\ndomain = \"example.org\"\nselector = \"s\"\nkey = \"/nonexistent/k\"\n",
        78,
        &["/nonexistent/k", "config.toml:4:"],
    );
    check("milter-dkim", directory.path(), &missing);
}
