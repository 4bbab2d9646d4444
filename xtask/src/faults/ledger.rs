//! What became of every letter, and how many had which fate.

use std::collections::HashMap;
use std::time::Duration;

use super::flow::Sent;
use crate::postfix::HOSTNAME;
use crate::smtp::sink::Delivered;

/// What shows that a filter has seen a delivered letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// A keyed digest by a scripted filter of this name.
    Digest(&'static str),
    /// Authentication-Results of our own: the DKIM filter.
    Authenticated,
    /// X-Spam-Status: the spam filter.
    Scanned,
}

/// How many letters had which fate.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Ledger {
    /// All of them.
    pub(super) sent: usize,
    /// Taken, and seen at the next hop with its body unchanged.
    pub(super) delivered: usize,
    /// Answered with 5xx.
    pub(super) refused: usize,
    /// Answered with 4xx, or not at all: the sender must come again.
    pub(super) deferred: usize,
    /// Taken, and never seen again as it was sent.
    pub(super) lost: usize,
    /// Delivered without the mark of a filter that must have seen it.
    pub(super) unseen: usize,
    /// Delivered more than once.
    pub(super) twice: usize,
    /// From first command to answer, sorted.
    pub(super) times: Vec<Duration>,
    /// The first few answers that were not "taken".
    pub(super) words: Vec<String>,
}

/// Answers that are kept for people to read.
const WORDS: usize = 5;

impl Ledger {
    /// Of what was sent and what has arrived.
    pub(super) fn of(sent: &[Sent], delivered: &[Delivered], key: &str, marks: &[Mark]) -> Self {
        let mut arrived: HashMap<&str, Vec<&Delivered>> = HashMap::new();
        for one in delivered {
            for to in &one.to {
                arrived.entry(to).or_default().push(one);
            }
        }
        let mut ledger = Self::default();
        for one in sent {
            let copies = arrived.get(&*one.letter.to()).map_or(&[][..], |all| all);
            ledger.count(one, copies, key, marks);
        }
        ledger.times = sent.iter().map(|one| one.took).collect();
        ledger.times.sort_unstable();
        ledger
    }

    fn count(&mut self, sent: &Sent, copies: &[&Delivered], key: &str, marks: &[Mark]) {
        self.sent += 1;
        self.twice += usize::from(copies.len() > 1);
        let unseen = |copy: &&Delivered| !marks.iter().all(|mark| mark.is_on(copy, sent, key));
        // What is delivered must have been seen, whatever the answer was.
        self.unseen += usize::from(copies.iter().any(unseen));
        let whole = |copy: &&Delivered| split(&copy.message).1 == sent.letter.body();
        match &sent.answer {
            Ok(answer) if answer.accepted() => match copies.iter().any(whole) {
                true => self.delivered += 1,
                false => self.lost += 1,
            },
            Ok(answer) if !answer.deferred() => self.refused += 1,
            Ok(_) | Err(_) => self.deferred += 1,
        }
        let word = match &sent.answer {
            Ok(answer) if answer.accepted() => return,
            Ok(answer) => format!("{} {} {}", answer.stage, answer.code, answer.text),
            Err(error) => error.clone(),
        };
        if self.words.len() < WORDS {
            self.words.push(format!("{}: {word}", sent.letter.id));
        }
    }

    /// The time within which so many of a hundred were answered, in milliseconds.
    pub(super) fn percentile(&self, percent: usize) -> Option<f64> {
        percentile(&self.times, percent)
    }
}

/// The same of any sorted times.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|time| time.as_secs_f64() * 1000.0)
}

impl Mark {
    fn is_on(&self, copy: &Delivered, sent: &Sent, key: &str) -> bool {
        let header = split(&copy.message).0;
        let has = |name: &str, value: &str| {
            fields(header).any(|(field, rest)| {
                field.eq_ignore_ascii_case(name) && rest.trim_start().starts_with(value)
            })
        };
        match self {
            Self::Digest(filter) => {
                has(&format!("X-Seen-{filter}"), &sent.letter.mark(key, filter))
            }
            Self::Authenticated => has("Authentication-Results", HOSTNAME),
            Self::Scanned => has("X-Spam-Status", ""),
        }
    }
}

/// Names of fields and the first line of what follows each.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = (String, String)> {
    let text = String::from_utf8_lossy(header).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.into_iter().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.to_owned()))
    })
}

/// Header and body of a message with CRLF.
pub(super) fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or((message, b""), |at| (&message[..at], &message[at + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::letter::Letter;
    use crate::smtp::client::{Answer, Stage};

    fn sent(id: &str, code: u16) -> Sent {
        Sent {
            letter: Letter {
                id: id.to_owned(),
                size: 100,
                token: "",
            },
            answer: Ok(Answer {
                stage: Stage::End,
                code,
                text: String::new(),
            }),
            took: Duration::from_millis(u64::from(code)),
            step: Duration::ZERO,
        }
    }

    fn copy(sent: &Sent, mark: &str) -> Delivered {
        let mut message = format!("X-Seen-one: {mark}\r\n").into_bytes();
        message.extend(sent.letter.text());
        Delivered {
            to: vec![sent.letter.to()],
            message,
        }
    }

    #[test]
    fn every_fate_is_counted() {
        let all = [("a", 250), ("b", 250), ("c", 250), ("d", 451), ("e", 550)];
        let all: Vec<Sent> = all.map(|(id, code)| sent(id, code)).into();
        let mark = |at: usize| all[at].letter.mark("key", "one");
        let mut cut = copy(&all[2], &mark(2));
        cut.message.truncate(cut.message.len() - 1);
        let delivered = [
            copy(&all[0], &mark(0)),
            copy(&all[0], &mark(0)),
            copy(&all[1], &mark(0)),
            cut,
        ];
        let ledger = Ledger::of(&all, &delivered, "key", &[Mark::Digest("one")]);
        let counts = (ledger.sent, ledger.delivered, ledger.refused);
        assert_eq!(counts, (5, 2, 1));
        let counts = (ledger.deferred, ledger.lost, ledger.unseen, ledger.twice);
        assert_eq!(counts, (1, 1, 1, 1));
        assert_eq!(ledger.percentile(50), Some(250.0));
        assert_eq!(ledger.percentile(99), Some(550.0));
        assert_eq!(Ledger::default().percentile(99), None);
    }
}
