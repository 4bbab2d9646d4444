//! Start, service, reload, stop.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use milter_proto::net::Address;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::process::{LIMIT, Mta, Room, greeting, hand_over, program};

#[test]
fn serves_and_stops() {
    let room = Room::new();
    room.configure("", "mode = \"0600\"");
    let mut daemon = room.start();
    let mode = fs::metadata(room.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(greeting(&room.address()), "hello");

    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_log("\"message\":\"running\"");
    daemon.signal(Signal::SIGTERM);
    room.hear("STOPPING=1\n", &daemon);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(!room.socket().exists());
    let log = daemon.log();
    for line in log.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "no JSON: {line}");
    }
    assert_eq!(log.matches("\"decision\":\"greet\"").count(), 1, "{log}");
}

#[test]
fn a_reload_counts_for_new_connections() {
    let room = Room::new();
    room.configure("greeting = \"first\"", "");
    let daemon = room.start();
    let mut old = Mta::connect(&room.address());
    old.begin();

    room.configure("greeting = \"second\"", "");
    daemon.signal(Signal::SIGHUP);
    room.hear("RELOADING=1\nMONOTONIC_USEC=", &daemon);
    room.hear("READY=1\n", &daemon);
    daemon.wait_for_log("configuration reloaded");
    assert_eq!(old.end(), "first");
    assert_eq!(greeting(&room.address()), "second");
}

#[test]
fn a_bad_file_changes_nothing() {
    let room = Room::new();
    room.configure("greeting = \"first\"", "");
    let daemon = room.start();
    for (top, says) in [
        ("greting = \"second\"", "did you mean `greeting`?"),
        ("greeting = \"a\\nb\"", "holds a line break"),
        ("greeting = ", "greeter.toml:1:12"),
    ] {
        room.configure(top, "");
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log(says);
        room.hear("RELOADING=1\n", &daemon);
        room.hear("READY=1\n", &daemon);
        assert_eq!(greeting(&room.address()), "first");
    }
    fs::remove_file(room.path("greeter.toml")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("no configuration file");
    assert_eq!(greeting(&room.address()), "first");
}

#[test]
fn a_message_in_hand_is_finished_before_the_end() {
    let room = Room::new();
    room.configure("", "");
    let mut daemon = room.start();
    let mut mta = Mta::connect(&room.address());
    mta.begin();
    daemon.signal(Signal::SIGTERM);
    room.hear("STOPPING=1\n", &daemon);
    assert_eq!(mta.end(), "hello");
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
}

#[test]
fn a_message_in_hand_is_not_waited_for_longer_than_told() {
    let room = Room::new();
    for (server, signals) in [
        ("stop_timeout = \"100ms\"", 1),
        ("stop_timeout = \"1h\"", 2),
    ] {
        room.configure("", server);
        let mut daemon = room.start();
        let mut mta = Mta::connect(&room.address());
        mta.begin();
        for _ in 0..signals {
            daemon.signal(Signal::SIGTERM);
            // A second signal of a kind that is still pending would be lost.
            daemon.wait_for_log("stopping");
        }
        assert_eq!(daemon.ended().code(), Some(0), "{server}\n{}", daemon.log());
        room.hear("STOPPING=1\n", &daemon);
        assert!(!room.socket().exists(), "{server}");
    }
}

#[test]
fn a_socket_left_behind_is_taken_over() {
    let room = Room::new();
    room.configure("", "");
    let mut daemon = room.start();
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    assert!(room.socket().exists());
    let daemon = room.start();
    assert!(daemon.log().contains("removing a stale socket"));
    assert_eq!(greeting(&room.address()), "hello");
}

#[test]
fn an_inherited_socket_goes_before_the_configured_one() {
    let room = Room::new();
    room.configure("", "");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut command = room.command(&["run"]);
    hand_over(&mut command, vec![socket.into()]);
    let daemon = room.spawn(command);
    let address = Address::Inet {
        host: "127.0.0.1".to_owned(),
        port,
    };
    assert_eq!(greeting(&address), "hello");
    assert!(!room.socket().exists(), "{}", daemon.log());
}

#[test]
fn an_inherited_socket_is_found_by_its_name() {
    let room = Room::new();
    room.configure("", "");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = room.path("inherited.sock");
    let ours = UnixListener::bind(&path).unwrap();
    let mut command = room.command(&["run"]);
    command.env("LISTEN_FDNAMES", "other:milter");
    hand_over(&mut command, vec![other.into(), ours.into()]);
    let mut daemon = room.spawn(command);
    daemon.wait_for_log("an inherited socket is not used");
    assert_eq!(greeting(&Address::Unix(path.clone())), "hello");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(path.exists(), "not ours to remove");
}

#[test]
fn the_watchdog_is_fed() {
    let room = Room::new();
    room.configure("", "");
    let mut command = room.command(&["run"]);
    command.env("WATCHDOG_USEC", "20000");
    let daemon = room.spawn(command);
    for _ in 0..3 {
        room.hear("WATCHDOG=1\n", &daemon);
    }
}

#[test]
fn a_filter_can_be_watched() {
    let room = Room::new();
    let socket = room.path("metrics.sock");
    let metrics = format!("[metrics]\nsocket = \"unix:{}\"\n", socket.display());
    room.configure("", &metrics);
    let mut daemon = room.start();
    assert_eq!(greeting(&room.address()), "hello");
    let get = |path: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = get("/metrics");
    for line in ["milter_sessions_total 1\n", "program=\"greeter\""] {
        assert!(page.contains(line), "{line} in {page}");
    }
    for path in ["/livez", "/readyz"] {
        assert!(get(path).starts_with("HTTP/1.1 200 "), "{path}");
    }
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().success());
    assert!(!socket.exists(), "the file of the socket stays");
}

#[test]
fn root_is_given_up() {
    if !geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let room = Room::new();
    room.configure("", "user = \"nobody\"");
    let daemon = room.start();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        words.join(" ")
    };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid, nobody.gid);
    assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(field("Gid:"), format!("{gid} {gid} {gid} {gid}"));
    assert_eq!(field("Groups:"), gid.to_string());
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(greeting(&room.address()), "hello");
}

/// How many of these get their first word, when `expected` should.
fn answered(waiting: &mut [(UnixStream, bool)], expected: usize) -> usize {
    let deadline = Instant::now() + LIMIT;
    // A little longer than it takes, so that one too many would show.
    let mut grace = 10;
    loop {
        for (stream, answered) in waiting.iter_mut() {
            *answered |= stream.read(&mut [0; 64]).is_ok_and(|count| count > 0);
        }
        let count = waiting.iter().filter(|(_, answered)| *answered).count();
        if count >= expected {
            grace -= 1;
        }
        if grace == 0 || Instant::now() > deadline {
            return count;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn case_085_more_connections_than_are_allowed() {
    let room = Room::new();
    room.configure("", "max_connections = 512");
    let _daemon = room.start();
    let mut all = Vec::new();
    for _ in 0..600 {
        let mut stream = UnixStream::connect(room.socket()).unwrap();
        let offer = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
        stream.write_all(offer).unwrap();
        stream.set_nonblocking(true).unwrap();
        all.push((stream, false));
    }
    assert_eq!(answered(&mut all, 512), 512);
    let mut gone = 88;
    all.retain(|(_, answered)| {
        let stays = !answered || gone == 0;
        gone -= usize::from(!stays);
        stays
    });
    assert_eq!(all.len(), 512);
    assert_eq!(answered(&mut all, 512), 512);
}

#[test]
fn the_example_of_the_other_side() {
    let room = Room::new();
    room.configure("greeting = \"good day\"", "");
    let _daemon = room.start();
    let message = room.path("message.eml");
    fs::write(&message, "Subject: a\r\n\tfold\r\nTo: b\r\n\r\nbody\r\n").unwrap();
    let mut mta = Command::new(program("mta"));
    mta.arg(room.address().to_string()).arg(&message);
    let output = mta
        .args(["a@client.example", "b@here.example"])
        .output()
        .unwrap();
    let expected = "verdict: Continue\n\
         Received: from client.example by this example\n\
         Subject: a\n\tfold\nTo: b\nX-Greeting: good day\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
    let nobody = Command::new(program("mta"))
        .args(["unix:/nonexistent/milter.sock", "/dev/null"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(2));
}
