//! The letters: no two alike, and each of them known by its number alone, so that what is delivered
//! can be held against what was sent without keeping it.

use std::hash::{DefaultHasher, Hasher};

use crate::postfix::DOMAIN;

/// A letter that can be written again at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    /// Its name: the recipient's local part, and the value of `X-Letter`.
    pub(super) id: String,
    /// Bytes of its body, about.
    pub(super) size: usize,
    /// A word that stands in its body; empty for none.
    pub(super) token: &'static str,
}

impl Letter {
    /// RCPT TO.
    pub(super) fn to(&self) -> String {
        format!("{}@{DOMAIN}", self.id)
    }

    /// Header and body.
    pub(super) fn text(&self) -> Vec<u8> {
        let id = &self.id;
        let mut text = format!(
            "From: <writer@sender.test>\r\nTo: <{}>\r\nSubject: letter {id}\r\n\
             Date: Tue, 05 Aug 2025 10:00:00 +0000\r\nMessage-ID: <{id}@sender.test>\r\n\
             X-Letter: {id}\r\n\r\n",
            self.to()
        )
        .into_bytes();
        text.extend_from_slice(&self.body());
        text
    }

    /// The body, as it is sent and as it must arrive.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = format!("this is letter {}\r\n{}\r\n", self.id, self.token).into_bytes();
        let mut line = 0u32;
        while body.len() < self.size {
            line += 1;
            let text = format!("line {line} of {} has nothing special in it\r\n", self.id);
            body.extend_from_slice(text.as_bytes());
        }
        body
    }

    /// The mark of a filter that has seen all of it (see `tests/src/bin/milter-fault`).
    pub(super) fn mark(&self, key: &str, filter: &str) -> String {
        let mut body = DefaultHasher::new();
        body.write(&self.body());
        let mut mark = DefaultHasher::new();
        mark.write(format!("{key}/{filter}/").as_bytes());
        mark.write(self.id.as_bytes());
        mark.write(&body.finish().to_be_bytes());
        format!("{:016x}", mark.finish())
    }
}
