//! A filter that does what the sender's address says, at the stage that it names: `panic@rcpt`,
//! `sleep@body`, `nap@rcpt`, `reject@eoh`, `edit@end`.

use std::time::Duration;

use bytes::Bytes;

use crate::edit::Edit;
use crate::filter::{Context, Filter, Needs, Transaction};
use crate::message::{Header, Path};
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::{Actions, Steps};

/// Negotiates these steps. Refuses a client that says `refuse`.
pub(super) struct Probe(pub(super) Steps);

pub(super) struct Message {
    sender: Bytes,
    body: Vec<u8>,
}

impl Filter for Probe {
    type Transaction = Message;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::ADD_HEADERS,
            steps: self.0,
            macros: Vec::new(),
        }
    }

    async fn helo(&self, cx: Context<'_>) -> Greeting {
        let name = cx.helo().unwrap();
        assert_ne!(name, &b"panic"[..]);
        if name == &b"refuse"[..] {
            return Greeting::Reject;
        }
        Greeting::Continue
    }

    fn begin(&self, _cx: Context<'_>) -> Message {
        Message {
            sender: Bytes::new(),
            body: Vec::new(),
        }
    }
}

impl Message {
    async fn act(&self, stage: &str) -> Verdict {
        let sender = String::from_utf8_lossy(&self.sender).into_owned();
        match sender.split_once('@') {
            Some((act, at)) if at == stage => match act {
                "panic" => panic!("as asked for"),
                "sleep" => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    Verdict::Accept
                }
                "doze" => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    Verdict::Continue
                }
                "nap" => {
                    tokio::time::sleep(Duration::from_secs(12)).await;
                    Verdict::Continue
                }
                "reject" => Verdict::Reject,
                _ => Verdict::Continue,
            },
            _ => Verdict::Continue,
        }
    }
}

impl Transaction for Message {
    async fn mail(&mut self, _cx: Context<'_>, sender: Path) -> Verdict {
        self.sender = Bytes::copy_from_slice(sender.bare());
        self.act("mail").await
    }

    async fn rcpt(&mut self, _cx: Context<'_>, _recipient: Path) -> Verdict {
        self.act("rcpt").await
    }

    async fn header(&mut self, _cx: Context<'_>, _header: Header) -> Verdict {
        self.act("header").await
    }

    async fn end_of_headers(&mut self, _cx: Context<'_>) -> Verdict {
        self.act("eoh").await
    }

    async fn body(&mut self, _cx: Context<'_>, chunk: Bytes) -> BodyVerdict {
        let first = self.body.is_empty();
        self.body.extend_from_slice(&chunk);
        if &self.sender[..] == b"skip@body" {
            assert!(first, "skipped, and told all the same");
            return BodyVerdict::Skip;
        }
        BodyVerdict::Go(self.act("body").await)
    }

    async fn finish(self, _cx: Context<'_>) -> Outcome {
        let verdict = self.act("end").await;
        let edits = match &self.sender[..] {
            b"edit@end" | b"nap@end" => vec![Edit::add("X-Size", self.body.len().to_string())],
            b"forbidden@end" => vec![Edit::delete(1, "X")],
            b"bad@end" => vec![Edit::add("Bad Name", "v")],
            _ => vec![],
        };
        Outcome { edits, verdict }
    }
}
