//! A message as far as the mark needs it: its `X-Letter` field, and a running digest of its body.
//!
//! The end of the body is kept so that a token across two chunks is found; nothing else is.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};

use milter_proto::wire::Command;

/// The field that tells letters apart.
const LETTER: &[u8] = b"X-Letter";
/// Bytes of a token at most.
const TOKEN: usize = 64;

/// The message in hand.
#[derive(Debug)]
pub(crate) struct Message {
    secret: Vec<u8>,
    letter: Vec<u8>,
    body: DefaultHasher,
    /// Words of the body that look like tokens: capitals, `-` between.
    words: BTreeSet<Vec<u8>>,
    word: Vec<u8>,
}

impl Message {
    /// None yet, for a filter with this key and name.
    pub(crate) fn new(key: &str, name: &str) -> Self {
        Self {
            secret: format!("{key}/{name}/").into_bytes(),
            letter: Vec::new(),
            body: DefaultHasher::new(),
            words: BTreeSet::new(),
            word: Vec::new(),
        }
    }

    /// Takes note of a command.
    pub(crate) fn hear(&mut self, command: &Command) {
        match command {
            Command::Mail(_) | Command::Abort => {
                self.letter.clear();
                self.body = DefaultHasher::new();
                self.words.clear();
                self.word.clear();
            }
            Command::Header(header) if header.name.eq_ignore_ascii_case(LETTER) => {
                self.letter = header.value.trim_ascii().to_vec();
            }
            Command::Body(chunk) | Command::EndOfMessage(chunk) => self.body(chunk),
            _ => {}
        }
    }

    /// Whether the body has this word in it.
    pub(crate) fn has(&self, token: &str) -> bool {
        self.words.contains(token.as_bytes())
    }

    /// The mark.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        hasher.write(&self.letter);
        hasher.write(&self.body.finish().to_be_bytes());
        format!("{:016x}", hasher.finish())
    }

    fn body(&mut self, chunk: &[u8]) {
        self.body.write(chunk);
        for byte in chunk {
            if byte.is_ascii_uppercase() || *byte == b'-' {
                self.word.push(*byte);
                self.word.truncate(TOKEN);
            } else if !self.word.is_empty() {
                let word = std::mem::take(&mut self.word);
                if word.contains(&b'-') && self.words.len() < TOKEN {
                    self.words.insert(word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(chunks: &[&'static [u8]]) -> Message {
        let mut message = Message::new("key", "name");
        for chunk in chunks {
            message.hear(&Command::Body((*chunk).into()));
        }
        message
    }

    #[test]
    fn any_split_gives_the_same_mark_and_finds_the_token() {
        let body = b"so far DEADLY-POISON\r\nand on";
        let whole = told(&[body]);
        assert!(whole.has("DEADLY-POISON"));
        for at in 0..body.len() {
            let split = told(&[&body[..at], &body[at..]]);
            assert_eq!(split.digest(), whole.digest());
            assert!(split.has("DEADLY-POISON"));
        }
        assert_ne!(told(&[b"other"]).digest(), whole.digest());
        assert!(!told(&[b"DEADLY"]).has("DEADLY-POISON"));
    }
}
