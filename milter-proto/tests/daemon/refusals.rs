//! Everything that must not start, and what it says; the commands that start nothing.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Output};

use crate::process::{Room, greeting, hand_over};

/// The command ends with `code` and says all of `says` on stderr, once.
fn ended_with(mut command: Command, code: i32, says: &[&str]) {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for part in says {
        assert_eq!(errors.matches(part).count(), 1, "{part:?} in\n{errors}");
    }
}

/// Runs the program to its end.
fn run(room: &Room, arguments: &[&str]) -> Output {
    room.command(arguments).output().unwrap()
}

/// The program ends with `code` and says all of `says` on stderr, once.
fn refused(room: &Room, arguments: &[&str], code: i32, says: &[&str]) {
    ended_with(room.command(arguments), code, says);
}

#[test]
fn configurations_with_mistakes() {
    let room = Room::new();
    let file = room.path("greeter.toml");
    let shown = file.display().to_string();
    for arguments in [&[][..], &["run"], &["check"]] {
        let create = format!("`greeter default-config > {shown}`");
        let _ = fs::remove_file(&file);
        refused(&room, arguments, 66, &["no configuration file", &create]);

        room.configure("", "mod = \"0600\"");
        let place = format!("--> {shown}:4:1");
        refused(
            &room,
            arguments,
            78,
            &[
                "greeter: unknown key `mod` in [server]",
                &place,
                "did you mean `mode`?",
            ],
        );

        room.configure("greeting = \"a\\u0000b\"", "");
        let place = format!("{shown}:1:12");
        refused(&room, arguments, 78, &["holds a line break or NUL", &place]);
        assert!(!room.socket().exists());
    }
}

#[test]
fn sockets_that_cannot_be_had() {
    let room = Room::new();
    room.configure("", "");
    let daemon = room.start();
    refused(
        &room,
        &[],
        69,
        &["in use by a running process", "[server] unix:"],
    );
    assert_eq!(greeting(&room.address()), "hello");
    drop(daemon);

    fs::remove_file(room.socket()).unwrap();
    fs::write(room.socket(), "precious").unwrap();
    refused(&room, &[], 73, &["something else than a socket is there"]);
    assert_eq!(fs::read_to_string(room.socket()).unwrap(), "precious");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = format!("[server]\nsocket = \"inet:{port}@127.0.0.1\"\n");
    fs::write(room.path("greeter.toml"), text).unwrap();
    refused(
        &room,
        &["--log-level", "error"],
        69,
        &[
            "the port is in use by another process",
            "or set another `socket`",
        ],
    );
}

#[test]
fn users_groups_and_limits_that_cannot_be() {
    let room = Room::new();
    for (server, says) in [
        ("user = \"no-such-user\"", "\"no-such-user\" does not exist"),
        (
            "group = \"no-such-group\"",
            "\"no-such-group\" does not exist",
        ),
        ("max_connections = 0", "0 lets nobody in"),
        ("idle_timeout = \"0s\"", "in no time"),
        ("stall_timeout = \"0s\"", "in no time"),
    ] {
        for (arguments, place) in [
            (&[][..], "greeter.toml:4:"),
            (&["check"], "greeter.toml:4:"),
        ] {
            room.configure("", server);
            refused(&room, arguments, 78, &[says, place]);
            assert!(!room.socket().exists());
        }
    }
}

#[test]
fn inherited_sockets_that_do_not_listen() {
    let room = Room::new();
    room.configure("", "");
    let says = "inherited socket 0 for milter:";
    let datagrams = UnixDatagram::unbound().unwrap();
    let mut command = room.command(&[]);
    hand_over(&mut command, vec![datagrams.into()]);
    ended_with(command, 71, &[says, "not a valid unix stream socket"]);

    let (connected, _peer) = UnixStream::pair().unwrap();
    let mut command = room.command(&[]);
    hand_over(&mut command, vec![connected.into()]);
    ended_with(command, 71, &[says, "it does not listen"]);
}

#[test]
fn wrong_command_lines() {
    let room = Room::new();
    refused(
        &room,
        &["--colour"],
        64,
        &["unexpected argument '--colour'"],
    );
    refused(
        &room,
        &["chek"],
        64,
        &["unrecognized subcommand 'chek'", "'check'"],
    );
    refused(
        &room,
        &["--log-level", "loud"],
        64,
        &["invalid value 'loud'"],
    );
}

#[test]
fn commands_that_start_nothing() {
    let room = Room::new();
    let said = |arguments: &[&str]| {
        let output = run(&room, arguments);
        assert!(output.status.success(), "{arguments:?} {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let defaults = said(&["default-config"]);
    assert!(defaults.contains("#greeting = \"hello\"\n"), "{defaults}");
    fs::write(room.path("greeter.toml"), &defaults).unwrap();
    assert!(said(&["check"]).ends_with("greeter.toml: no mistakes\n"));

    room.configure("greeting = \"x\"", "");
    let printed = said(&["check", "--print"]);
    assert!(printed.contains("greeting = \"x\"  # "), "{printed}");
    assert!(
        printed.contains("mode = \"0660\"  # default\n"),
        "{printed}"
    );
    assert!(said(&["--version"]).starts_with("greeter "));
    assert!(said(&["--help"]).contains("[default: /etc/milter/greeter.toml]"));
    assert!(!room.socket().exists());
}
