//! A real sendmail with our filters: each by itself, and behind the orchestrator.

mod filters;

use milter_proto::testkit::{Dialogue, SmtpStep};
use milter_tests::equivalence::client::converse;
use milter_tests::equivalence::mta::{Fate, Mta};
use milter_tests::equivalence::sink::{Delivery, Sink};
use milter_tests::mta::Message;
use milter_tests::sendmail::{Entry, Installation, Sendmail};
use milter_tests::skip::skip;

/// A sendmail, and where its mail goes.
struct Site {
    sendmail: Sendmail,
    sink: Sink,
}

/// What became of one message.
#[derive(Debug)]
struct Sent {
    /// The last reply: a refusal of whatever command, or the one to the message.
    reply: String,
    /// What was delivered, when it was taken and not quarantined.
    delivered: Option<Delivery>,
    /// What the queue says.
    fate: Option<Fate>,
}

impl Site {
    /// With these entries; `None`, said aloud, where sendmail cannot run.
    async fn start(test: &str, entries: Vec<Entry>) -> Option<Self> {
        if let Err(error) = Installation::find() {
            skip(test, &format!("{error:#}"));
            return None;
        }
        let sink = Sink::start().await.unwrap();
        let address = sink.address();
        let start = move || Sendmail::start(&entries, address);
        let sendmail = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
        Some(Self { sendmail, sink })
    }

    /// Sends a message on a connection of its own.
    async fn send(&self, entry: usize, from: &str, message: &[u8]) -> Sent {
        let lines = message.split(|byte| *byte == b'\n');
        let mut lines: Vec<_> = lines
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec().into())
            .collect();
        if message.ends_with(b"\n") {
            lines.pop();
        }
        let command = |line: String| SmtpStep::Command(line.into());
        let steps = vec![
            command("EHLO client.example.net".to_owned()),
            command(format!("MAIL FROM:<{from}>")),
            command("RCPT TO:<user@example.com>".to_owned()),
            command("DATA".to_owned()),
            SmtpStep::Message(lines),
            command("QUIT".to_owned()),
        ];
        let spoken = converse(self.sendmail.address(entry), &Dialogue { steps }).await;
        let spoken = spoken.unwrap_or_else(|error| panic!("{error:#}\n{}", self.sendmail.log()));
        let refused = |reply: &str| reply.starts_with(['4', '5']);
        let replies = || spoken.iter().filter_map(|one| one.reply.as_deref());
        let reply = replies()
            .find(|reply| refused(reply))
            .or_else(|| replies().rev().nth(1))
            .unwrap_or_default();
        let id = Sendmail::queue_id(reply);
        let fate = id.as_deref().map(|id| self.sendmail.fate(id).unwrap());
        let delivered = id.and_then(|id| self.sink.take(&id).pop());
        Sent {
            reply: reply.to_owned(),
            delivered,
            fate,
        }
    }
}

impl Sent {
    /// The message as it was delivered.
    fn message(&self) -> Message {
        let delivered = self.delivered.as_ref();
        let delivered = delivered.unwrap_or_else(|| panic!("not delivered: {self:?}"));
        Message::parse(&delivered.message)
    }

    fn is_refused_with(&self, start: &str) -> bool {
        self.reply.starts_with(start) && self.delivered.is_none() && self.fate.is_none()
    }
}
