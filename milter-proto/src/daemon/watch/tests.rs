//! The listener under well-behaved and hostile clients, on real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::serve::CONNECTIONS_MAX;
use super::*;
use crate::daemon::config::{FileMode, Listener};
use crate::daemon::listen::bind_one;
use crate::net::Address;
use crate::testkit::exposition;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ready or not, with a label that needs escaping.
struct Thing(Arc<AtomicBool>);

impl Watched for Thing {
    fn measure(&self, page: &mut Exposition) {
        page.counter("milter_things", "Things.")
            .sample(&[("name", "a \"quoted\"\nname\\")], 3);
    }

    fn health(&self) -> Health {
        let blocks = !self.0.load(Ordering::Relaxed);
        Health::from(vec![Reason {
            about: "filter spam".to_owned(),
            state: "down".to_owned(),
            since: 1,
            blocks,
            breaker_open: false,
            message: "gone".to_owned(),
        }])
    }
}

struct Site {
    ready: Arc<AtomicBool>,
    address: SocketAddr,
    _watching: Watching,
    _runtime: Runtime,
}

impl Site {
    fn open() -> Self {
        let listener = Listener {
            name: "metrics".to_owned(),
            section: "metrics".to_owned(),
            socket: "inet:0@127.0.0.1".parse::<Address>().unwrap(),
            mode: FileMode::from_bits(0o600),
            group: None,
        };
        let bound = bind_one(&listener).unwrap();
        let address = bound.address.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        let thing = Arc::new(Thing(Arc::clone(&ready)));
        let watching = {
            let _inside = runtime.enter();
            start(bound, "test", thing).unwrap()
        };
        Self {
            ready,
            address,
            _watching: watching,
            _runtime: runtime,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back for these bytes.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A refusal may come, and the connection go, before all is written.
        let _ = stream.write_all(bytes);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn get(&self, path: &str) -> (String, String) {
        let answer = self.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

#[test]
fn metrics_are_clean_in_both_syntaxes() {
    let site = Site::open();
    for (accept, open, kind) in [
        ("*/*", false, "text/plain; version=0.0.4"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            true,
            "application/openmetrics-text",
        ),
    ] {
        let request = format!("GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n");
        let answer = site.say(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(kind), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        let metrics = exposition::read(body, open).unwrap();
        let value = |name, labels: &[_]| exposition::value(&metrics, name, labels);
        let name = [("name", "a \"quoted\"\nname\\")];
        assert_eq!(value("milter_things_total", &name), Some(3.0));
        assert_eq!(value("milter_ready", &[]), Some(1.0));
        assert_eq!(
            value("milter_build_info", &[("program", "test")]),
            Some(1.0)
        );
        for name in ["milter_fds_open", "process_resident_memory_bytes"] {
            assert!(value(name, &[]).unwrap() > 1.0, "{name}");
        }
    }
}

#[test]
fn health_has_reasons_and_the_status_says_it_too() {
    let site = Site::open();
    let (status, body) = site.get("/readyz");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.contains("\"ready\":true"), "{body}");
    site.ready.store(false, Ordering::Relaxed);
    let (status, body) = site.get("/readyz?verbose");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    let health: Health = serde_json::from_str(&body).unwrap();
    assert_eq!((health.ready, health.reasons[0].since), (false, 1));
    let (status, body) = site.get("/livez");
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    assert!(body.contains("event_loop_lag_seconds"), "{body}");
    assert_eq!(site.get("/").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn a_hostile_client_gets_a_refusal_or_nothing() {
    let site = Site::open();
    let long = [
        b"GET /metrics HTTP/1.1\r\nX: ".as_slice(),
        &vec![b'x'; 100_000],
    ]
    .concat();
    let many = [
        b"GET / HTTP/1.1\r\n".as_slice(),
        &b"a: b\r\n".repeat(500),
        b"\r\n",
    ]
    .concat();
    for (sent, status) in [
        (&long[..], "HTTP/1.1 431 "),
        (&many, "HTTP/1.1 431 "),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n",
            "HTTP/1.1 405 ",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "HTTP/1.1 400 ",
        ),
        (b"\x00\x00\x00\x0dO\x00\x00\x00\x06", "HTTP/1.1 400 "),
        (b"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 505 "),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let answer = site.say(sent);
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(40)]);
        // What is still unread when it closes may take the refusal with it.
        let cut = answer.is_empty() && sent.len() > 60_000;
        assert!(cut || answer.starts_with(status), "{shown:?}: {answer:?}");
    }
    assert_eq!(site.get("/livez").0, "HTTP/1.1 200 OK");
}

#[test]
fn whoever_holds_connections_open_keeps_nobody_out_and_is_cut_off() {
    let site = Site::open();
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = site.connect();
            let _ = stream.write_all(b"GET /metrics HT");
            stream
        })
        .collect();
    assert_eq!(site.get("/readyz").0, "HTTP/1.1 200 OK");
    // A byte now and then does not give it more time.
    let mut last = slow.pop().unwrap();
    let mut dripping = last.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        while begun.elapsed() < PATIENCE && dripping.write_all(b"T").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let mut text = Vec::new();
    let _ = last.read_to_end(&mut text);
    assert!(begun.elapsed() < PATIENCE, "still open");
    drop(last);
    drip.join().unwrap();
    // The first ones had to make room at once.
    let mut text = Vec::new();
    let _ = slow[0].read_to_end(&mut text);
    assert!(text.is_empty(), "{text:?}");
}
