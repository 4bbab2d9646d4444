//! Sockets as configurations ask for them, and what may stand in their way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

/// What a test does to the path of the socket before it is bound.
type Before = fn(&Path) -> Option<UnixListener>;

fn listener(socket: &str) -> Listener {
    Listener {
        name: "milter".to_owned(),
        section: "server".to_owned(),
        socket: socket.parse().unwrap(),
        mode: FileMode::from_bits(0o660),
        group: None,
    }
}

fn unix_listener(path: &Path) -> Listener {
    listener(&format!("unix:{}", path.display()))
}

/// Whether what is sent to the socket arrives.
fn serves(bound: &Bound, mut client: impl Write) -> bool {
    client.write_all(b"x").unwrap();
    let accept = || match &bound.socket {
        Socket::Tcp(tcp) => tcp.accept().map(|(stream, _)| {
            stream.set_nonblocking(false).unwrap();
            Box::new(stream) as Box<dyn Read>
        }),
        Socket::Unix(unix) => unix.accept().map(|(stream, _)| {
            stream.set_nonblocking(false).unwrap();
            Box::new(stream) as Box<dyn Read>
        }),
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Ok(mut stream) = accept() {
            let mut byte = [0];
            return stream.read_exact(&mut byte).is_ok() && byte == *b"x";
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_tcp_socket_serves_and_its_port_cannot_be_had_twice() {
    let bound = bind_one(&listener("inet:0@127.0.0.1")).unwrap();
    assert!(serves(&bound, TcpStream::connect(&bound.address).unwrap()));

    let port = bound.address.rsplit(':').next().unwrap();
    let again = bind_one(&listener(&format!("inet:{port}@127.0.0.1"))).unwrap_err();
    assert_eq!(again.code, EX_UNAVAILABLE);
    for part in [port, "in use by another process", "ss -ltnp", "set another"] {
        assert!(again.message.contains(part), "{again}");
    }
}

#[test]
fn an_address_that_is_not_ours() {
    let failure = all(&[listener("inet:0@192.0.2.1")]).unwrap_err();
    assert_eq!(failure.code, EX_UNAVAILABLE, "{failure}");
    assert!(failure.message.starts_with("[server] "), "{failure}");
    assert!(failure.message.contains("no such address"), "{failure}");
}

#[test]
fn a_unix_socket_has_its_mode_and_goes_with_us() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("milter.sock");
    for bits in [0o600, 0o660, 0o666] {
        let mut wanted = unix_listener(&path);
        wanted.mode = FileMode::from_bits(bits);
        let bound = bind_one(&wanted).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, bits);
        assert!(serves(&bound, UnixStream::connect(&path).unwrap()));
        drop(bound);
        assert!(!path.exists());
    }
}

#[test]
fn a_unix_socket_has_its_group() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("milter.sock");
    let mut wanted = unix_listener(&path);
    let own = nix::unistd::getegid();
    wanted.group = Some(own.to_string());
    let _bound = bind_one(&wanted).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), own.as_raw());

    wanted.group = Some("no-such-group".to_owned());
    wanted.socket = Address::Unix(folder.path().join("other.sock"));
    let failure = bind_one(&wanted).unwrap_err();
    assert!(
        failure.message.contains("\"no-such-group\" does not exist"),
        "{failure}"
    );
}

#[test]
fn case_087_what_stands_in_the_way() {
    let cases: &[(&str, Before, Result<(), &str>)] = &[
        ("nothing", |_| None, Ok(())),
        (
            "a stale socket",
            |path| {
                drop(UnixListener::bind(path).unwrap());
                None
            },
            Ok(()),
        ),
        (
            "a live socket",
            |path| Some(UnixListener::bind(path).unwrap()),
            Err("in use by a running process"),
        ),
        (
            "a file",
            |path| {
                fs::write(path, "precious").unwrap();
                None
            },
            Err("something else than a socket"),
        ),
        (
            "a folder",
            |path| {
                fs::create_dir(path).unwrap();
                None
            },
            Err("something else than a socket"),
        ),
        (
            "a link",
            |path| {
                symlink("/nonexistent", path).unwrap();
                None
            },
            Err("something else than a socket"),
        ),
    ];
    for (what, before, expected) in cases {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("milter.sock");
        let kept = before(&path);
        let bound = bind_one(&unix_listener(&path));
        match (expected, bound) {
            (Ok(()), Ok(bound)) => {
                assert!(
                    serves(&bound, UnixStream::connect(&path).unwrap()),
                    "{what}"
                );
            }
            (Err(says), Err(failure)) => {
                assert!(failure.message.contains(says), "{what}: {failure}");
                assert!(fs::symlink_metadata(&path).is_ok(), "{what} was removed");
            }
            (expected, bound) => panic!("{what}: {bound:?}, expected {expected:?}"),
        }
        drop(kept);
    }
}

#[test]
fn a_live_socket_with_a_full_queue_is_in_use() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("milter.sock");
    let address = UnixAddr::new(&path).unwrap();
    let socket = stream_socket(AddressFamily::Unix).unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let client = stream_socket(AddressFamily::Unix).unwrap();
            let _ = connect(client.as_raw_fd(), &address);
            client
        })
        .collect();
    let failure = bind_one(&unix_listener(&path)).unwrap_err();
    assert!(
        failure.message.contains("in use by a running process"),
        "{failure}"
    );
    drop(clients);
}

#[test]
fn places_where_no_socket_can_be() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [
        folder.path().join("none/milter.sock"),
        file.join("milter.sock"),
    ] {
        let failure = bind_one(&unix_listener(&path)).unwrap_err();
        assert_eq!(failure.code, EX_CANTCREAT, "{failure}");
        assert!(failure.message.contains("there is no folder"), "{failure}");
    }
}

#[test]
fn a_file_that_is_no_longer_ours_stays() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("milter.sock");
    let bound = bind_one(&unix_listener(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists());
    drop(successor);
}
