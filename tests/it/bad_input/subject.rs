//! The daemons that bad input from an MTA is tried on, and a conversation by hand up to the place
//! where it begins.

use bytes::BytesMut;
use milter_proto::net::Address;
use milter_proto::testkit::{FilterScript, FilterServer};
use milter_proto::wire::{Command, Offer};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A daemon, and a configuration with which it takes any ordinary message.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    configuration: &'static str,
    /// Where its limits are configured: `stall_timeout`.
    limits: &'static str,
}

pub(super) const CLAMAV: Subject = Subject {
    name: "milter-clamav",
    configuration: r#"
        server.socket = "unix:{folder}/milter.sock"
        clamd.servers = ["unix:/nonexistent/clamd"]
        policy.on_error = "accept"
    "#,
    limits: "server",
};

pub(super) const DKIM: Subject = Subject {
    name: "milter-dkim",
    configuration: r#"server.socket = "unix:{folder}/milter.sock""#,
    limits: "server",
};

/// With a filter that lets everything pass.
pub(super) const ORCHESTRATOR: Subject = Subject {
    name: "milter-orchestrator",
    configuration: r#"
        listen.test.socket = "unix:{folder}/milter.sock"
        control.socket = "unix:{folder}/control.sock"
        supervisor.directory = "{folder}/children"
        milter.good.socket = "GOOD"
        route = [{ chain = ["good"] }]
    "#,
    limits: "limits",
};

pub(super) const SPAM: Subject = Subject {
    name: "milter-spam",
    configuration: r#"server.socket = "unix:{folder}/milter.sock""#,
    limits: "server",
};

pub(super) const SUBJECTS: [&Subject; 4] = [&CLAMAV, &DKIM, &ORCHESTRATOR, &SPAM];

/// One of them, running; with its filter, if it is one that has filters.
pub(super) struct Running {
    pub(super) daemon: Daemon,
    _good: FilterServer,
    _directory: TempDir,
}

impl Subject {
    pub(super) async fn start(&self) -> Running {
        self.with_stall_timeout("1m").await
    }

    /// With so much time for a peer that has begun a frame.
    pub(super) async fn with_stall_timeout(&self, time: &str) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let socket = Address::Unix(directory.path().join("good"));
        let good = FilterServer::start(&socket, FilterScript::new("good")).await;
        let configuration = self.configuration.replace("GOOD", &socket.to_string());
        let limits = format!("\n{}.stall_timeout = \"{time}\"\n", self.limits);
        Running {
            daemon: Daemon::configured(self.name, &(configuration + &limits)).unwrap(),
            _good: good.unwrap(),
            _directory: directory,
        }
    }
}

/// How far a conversation is when the bad bytes come.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    Nothing,
    Negotiation,
    /// A message with a recipient, its header begun.
    Header,
}

/// A frame with this code and payload.
pub(super) fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[code], payload].concat()
}

/// The negotiation as an MTA begins it.
pub(super) fn offer() -> Vec<u8> {
    let mut out = BytesMut::new();
    Command::Negotiate(Offer::full()).encode(&mut out).unwrap();
    out.to_vec()
}

/// What comes before the header of a message.
pub(super) fn envelope() -> Vec<u8> {
    let frames = [
        frame(b'C', b"client.example.net\x004\x61\xc1192.0.2.1\0"),
        frame(b'H', b"client.example.net\0"),
        frame(b'M', b"<a@example.net>\0"),
        frame(b'R', b"<b@example.org>\0"),
        frame(b'T', b""),
    ];
    frames.concat()
}

/// A connection. The queue of a socket may be full for a moment.
pub(super) async fn connect(address: &Address) -> UnixStream {
    let path = address.path().unwrap();
    let connected = timeout(PATIENCE, async {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                connected => return connected.unwrap(),
            }
        }
    });
    connected.await.expect("room in the queue of the socket")
}

/// A conversation by hand, up to the place where the case begins.
pub(super) async fn begin(address: &Address, after: After) -> UnixStream {
    let mut stream = connect(address).await;
    if matches!(after, After::Nothing) {
        return stream;
    }
    stream.write_all(&offer()).await.unwrap();
    let answer = read_frame(&mut stream, "negotiation").await;
    let code = answer.as_deref().and_then(|answer| answer.first());
    assert_eq!(code, Some(&b'O'));
    if matches!(after, After::Header) {
        let bytes = [envelope(), frame(b'L', b"Subject\0 x\0")].concat();
        stream.write_all(&bytes).await.unwrap();
    }
    stream
}

/// The next frame without its length; `None` at the end of the stream.
pub(super) async fn read_frame(stream: &mut UnixStream, what: &str) -> Option<Vec<u8>> {
    let read = async {
        let length = stream.read_u32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut frame).await.ok()?;
        Some(frame)
    };
    let read = timeout(PATIENCE, read).await;
    read.unwrap_or_else(|_| panic!("{what}: neither an answer nor an end of the connection"))
}
