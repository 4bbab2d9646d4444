//! Server and client over real sockets on ports of their own: hostile peers, failing filters,
//! limits, stopping. What one connection suffers, another does not notice.

mod client;
mod counting;
mod filter;
mod hostile;
mod milter_cases;
mod mta_cases;
mod server;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use filter::Probe;

use crate::net::{Address, Limits, Listener, Served, serve};
use crate::wire::Steps;

/// Longer than anything here takes, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of [`Probe`] on a port of its own.
struct Server {
    address: Address,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Served>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        Self::negotiating(Steps::SKIP, limits).await
    }

    async fn negotiating(steps: Steps, limits: Limits) -> Self {
        let any: Address = "inet:0@127.0.0.1".parse().unwrap();
        let listener = Listener::bind(&any).await.unwrap();
        let address = listener.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let filter = move || Arc::new(Probe(steps));
        let task = tokio::spawn(serve(vec![listener], filter, limits, shutdown));
        Self {
            address,
            stop,
            task,
        }
    }

    async fn mta(&self) -> Mta {
        let Address::Inet { host, port } = &self.address else {
            panic!("{}", self.address);
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        Mta { stream }
    }

    async fn stop(self) -> Served {
        self.stop.send(()).unwrap();
        patient(self.task).await.unwrap()
    }
}

async fn patient<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

fn frames(bodies: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for body in bodies {
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}

/// The offer of every MTA, and what [`Probe`] answers.
const OFFER: &[u8] = b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
const ANSWER: &[u8] = b"O\0\0\0\x06\0\0\0\x01\0\0\x05\0";

/// An MTA's end, byte by byte.
struct Mta {
    stream: TcpStream,
}

impl Mta {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends frames, and expects these in return.
    async fn turn(&mut self, sent: &[&[u8]], expected: &[&[u8]]) {
        self.send(&frames(sent)).await;
        self.expect(expected).await;
    }

    async fn expect(&mut self, expected: &[&[u8]]) {
        let expected = frames(expected);
        let mut got = vec![0; expected.len()];
        patient(self.stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(
            got.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    /// Expects the end, after nothing.
    async fn expect_close(&mut self) {
        let mut rest = Vec::new();
        // A reset says the same: what we sent last was not read.
        let _ = patient(self.stream.read_to_end(&mut rest)).await;
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    async fn greet(&mut self) {
        self.turn(
            &[OFFER, b"Cx\x004\0\x01192.0.2.1\0", b"Hc.test\0"],
            &[ANSWER, b"c", b"c"],
        )
        .await;
    }

    /// A message from `sender` up to the end of its body.
    async fn message(&mut self, sender: &str) {
        let mail = format!("M<{sender}>\0");
        self.turn(
            &[
                mail.as_bytes(),
                b"R<r@x>\0",
                b"T",
                b"LX\0v\0",
                b"N",
                b"Bhi\r\n",
            ],
            &[&b"c"[..]; 6],
        )
        .await;
    }
}
