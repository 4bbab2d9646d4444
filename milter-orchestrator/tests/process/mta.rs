//! A mail server's side: sessions that stay open between messages, and a steady flow of mail.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{self, Connection, Header};
use milter_proto::net::{Address, Client, DialError, Timeouts};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::Offer;
use tokio::runtime::{Builder, Runtime};

use super::filter::STAMP_FIELD;
use super::house::PATIENCE;

/// A session of a mail server: one client of its own, any number of messages.
pub(crate) struct Session {
    client: Option<Client>,
    runtime: Runtime,
}

/// Why a message was not taken.
pub(crate) type Refused = String;

impl Session {
    /// Connects to the orchestrator that listens at `path`, and greets it.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let address = Address::Unix(path.to_owned());
        let client = runtime.block_on(async {
            let timeouts = Timeouts::each(PATIENCE);
            let (mut client, _) = Client::connect(&address, &Offer::full(), timeouts)
                .await
                .map_err(broken)?;
            let connect = Event::Connect(Connection {
                hostname: Bytes::from_static(b"client.example.net"),
                address: message::Address::Inet(([192, 0, 2, 1], 25).into()),
            });
            say(&mut client, connect).await?;
            say(&mut client, Event::Helo(Bytes::from_static(b"client"))).await?;
            Ok::<_, Refused>(client)
        })?;
        Ok(Self {
            client: Some(client),
            runtime,
        })
    }

    /// Sends a message and says which stamp it got; "" for none.
    pub(crate) fn send(&mut self) -> Result<String, Refused> {
        self.send_and(|| {})
    }

    /// The same, and does something in the middle of it.
    pub(crate) fn send_and(&mut self, midway: impl FnOnce()) -> Result<String, Refused> {
        let client = self.client.as_mut().unwrap();
        self.runtime.block_on(async {
            say(client, Event::Mail(path("<a@example.net>"))).await?;
            say(client, Event::Rcpt(path("<b@example.org>"))).await?;
            say(client, Event::Data).await?;
            midway();
            let subject = Header::new("Subject", " x");
            say(client, Event::Header(subject)).await?;
            say(client, Event::EndOfHeaders).await?;
            say(client, Event::Body(Bytes::from_static(b"text\r\n"))).await?;
            let edits = say(client, Event::EndOfMessage).await?;
            Ok(edits.iter().find_map(stamp).unwrap_or_default())
        })
    }

    /// Says good-bye.
    pub(crate) fn quit(mut self) {
        if let Some(client) = self.client.take() {
            self.runtime.block_on(client.quit());
        }
    }
}

fn path(address: &str) -> message::Path {
    message::Path {
        address: Bytes::copy_from_slice(address.as_bytes()),
        args: Vec::new(),
    }
}

fn stamp(edit: &Edit) -> Option<String> {
    let (Edit::AddHeader { name, value } | Edit::InsertHeader { name, value, .. }) = edit else {
        return None;
    };
    let text = String::from_utf8_lossy(value);
    (&**name == STAMP_FIELD.as_bytes()).then(|| text.trim().to_owned())
}

fn broken(error: DialError) -> Refused {
    format!("broken: {error}")
}

/// Tells of an event, which must be let pass.
async fn say(client: &mut Client, event: Event) -> Result<Vec<Edit>, Refused> {
    let stage = format!("{event:?}");
    let response = client.send(event, None).await;
    let response = response.map_err(|error| format!("{stage}: {}", broken(error)))?;
    match response.verdict {
        Verdict::Continue | Verdict::Accept => Ok(response.edits),
        other => Err(format!("{stage}: {other:?}")),
    }
}

/// Mail that comes all the time: two mail servers, a few messages to a session.
pub(crate) struct Flow {
    over: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    refused: Arc<Mutex<Vec<Refused>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Flow {
    /// Begins to send to `path`.
    pub(crate) fn start(path: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..2).map(|_| {
            let (path, over) = (path.clone(), Arc::clone(&over));
            let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Err(why) = few_messages(&path, &taken) {
                        refused.lock().unwrap().push(why);
                    }
                }
            })
        });
        Self {
            threads: threads.collect(),
            over,
            taken,
            refused,
        }
    }

    /// Messages that were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Stops it; what was not taken.
    pub(crate) fn stop(self) -> Vec<Refused> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.refused.lock().unwrap())
    }
}

fn few_messages(path: &Path, taken: &AtomicU64) -> Result<(), Refused> {
    let mut session = Session::open(path)?;
    for _ in 0..3 {
        session.send()?;
        taken.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
    }
    session.quit();
    Ok(())
}
