//! A filter at the other end of a connection: the protocol crate's filter side, which also notices
//! when it is told something out of order, and decisions by chance. What it says goes over the wire
//! as bytes, in pieces, late, or not at all.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milter_proto::edit::Edit;
use milter_proto::session::{Event, FilterSide, Step};
use milter_proto::verdict::{BodyVerdict, Greeting, Outcome, SmtpReply, Verdict};
use milter_proto::wire::{Actions, Command, Decoder, Reply, Steps};

use super::dice::Dice;

/// What a filter was told of one message, and what it said to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The sender, which names the message.
    pub(super) message: String,
    pub(super) recipients: Vec<String>,
    pub(super) header: Vec<String>,
    pub(super) body: Vec<u8>,
    /// It said that it wants no more of the body.
    pub(super) skipped: bool,
    /// It accepted before the end.
    pub(super) accepted: bool,
    /// It let the message pass at its end, with these edits.
    pub(super) passed: Option<Vec<Edit>>,
}

/// A refusal: of which message, at which command, for the how-manieth time.
pub(super) type Refusal = (String, char, usize);

/// One filter.
pub(super) struct Filter {
    pub(super) number: usize,
    /// What it negotiates.
    pub(super) actions: Actions,
    pub(super) steps: Steps,
    /// The connection that it knows of.
    pub(super) generation: u32,
    side: FilterSide,
    /// What it will write, and when. Nothing: it hangs up.
    pub(super) says: VecDeque<(Instant, Option<Bytes>)>,
    /// What has arrived of it.
    pub(super) arrived: BytesMut,
    /// It has been asked and has not answered.
    owes: bool,
    /// The answers that it owes are to content, of which more may come.
    owes_content: bool,
    pub(super) seen: Seen,
    pub(super) refusals: Vec<Refusal>,
    /// How often each command came in this message.
    counts: HashMap<u8, usize>,
    /// The client that it was told of last.
    pub(super) client: Bytes,
    /// It accepted the client as a whole.
    pub(super) accepted_client: bool,
    /// It did something wrong in this session.
    pub(super) failed: bool,
}

/// What a filter does instead of answering.
enum Fault {
    Crash,
    Hang,
    /// Nonsense in place of the answer.
    Garbage(Bytes),
    /// A second answer behind the first.
    Twice,
    /// The answer, after everybody's patience.
    Late,
}

impl Filter {
    pub(super) fn new(number: usize, dice: &mut Dice, marks: bool) -> Self {
        let mut actions = dice.some_of((Actions::all() - Actions::SET_MACRO_LIST).iter(), 2);
        if marks {
            actions |= Actions::ADD_HEADERS;
        }
        let wishes = Steps::NEGOTIABLE - Steps::NO_CONNECT - Steps::NO_MAIL;
        let steps = dice.some_of(wishes.iter(), 4);
        Self {
            number,
            actions,
            steps,
            generation: 0,
            side: FilterSide::new(),
            says: VecDeque::new(),
            arrived: BytesMut::new(),
            owes: false,
            owes_content: false,
            seen: Seen::default(),
            refusals: Vec::new(),
            counts: HashMap::new(),
            client: Bytes::new(),
            accepted_client: false,
            failed: false,
        }
    }

    /// A new connection.
    pub(super) fn connect(&mut self, generation: u32) {
        self.generation = generation;
        self.hang_up();
        self.side = FilterSide::new();
        self.seen = Seen::default();
        self.client = Bytes::new();
        self.accepted_client = false;
    }

    /// The client is gone; the connection may stay.
    pub(super) fn forget_client(&mut self) {
        self.generation = 0;
        self.seen = Seen::default();
        self.client = Bytes::new();
        self.accepted_client = false;
        self.refusals.clear();
        self.counts.clear();
    }

    /// Another client comes on the same connection, which is `closed` from then on.
    pub(super) fn resume(&mut self, generation: u32, closed: Option<Instant>) {
        self.generation = generation;
        self.says.extend(closed.map(|at| (at, None)));
    }

    /// Whether nothing is under way from it.
    pub(super) fn is_quiet(&self) -> bool {
        self.says.is_empty() && self.arrived.is_empty()
    }

    /// The connection is gone.
    pub(super) fn hang_up(&mut self) {
        self.says.clear();
        self.arrived.clear();
        self.owes = false;
    }

    /// What it negotiated.
    pub(super) fn has(&self, step: Steps) -> bool {
        self.side.facts().steps().contains(step)
    }

    /// Whether it marks what it passes.
    pub(super) fn marks(&self) -> bool {
        self.side.facts().actions().contains(Actions::ADD_HEADERS)
    }

    /// Takes a command; `faults` is how rarely it does something wrong, 0 for never.
    pub(super) fn hear(&mut self, command: Command, now: Instant, dice: &mut Dice, faults: u8) {
        let mut bytes = BytesMut::new();
        command
            .encode(&mut bytes)
            .expect("what is told can be told");
        let frame = Decoder::default().decode(&mut bytes).unwrap().unwrap();
        let command = Command::parse(frame).expect("what is told can be read");
        let code = command.code();
        if matches!(command, Command::Quit) {
            return self.says.clear();
        }
        let is_content = matches!(code, b'L' | b'N' | b'B');
        let ahead = matches!(code, b'L' | b'N' | b'B' | b'D') && self.owes_content;
        let waited = !self.owes || self.failed || ahead;
        assert!(waited, "told {command:?} while it owed an answer");
        let mut replies = Vec::new();
        let mut step = Some(self.side.receive(command).expect("in order"));
        while let Some(now) = step {
            match now {
                Step::Negotiate(offer) => {
                    let actions = self.actions & offer.actions;
                    let agreed = self.side.agree(actions, self.steps, Vec::new());
                    replies.push(agreed.expect("an offer that can be met"));
                }
                Step::Ask(event) => {
                    self.note(&event);
                    replies.extend(self.decide(&event, dice));
                }
                Step::Tell(event) => self.note(&event),
                Step::Answer(reply) => replies.push(reply),
                Step::Silent | Step::Close => {}
            }
            step = self.side.next_step();
        }
        let complaint = self.side.take_complaint();
        assert!(complaint.is_none(), "told out of order: {complaint:?}");
        *self.counts.entry(code).or_default() += 1;
        if !replies.is_empty() {
            self.owes = true;
            self.owes_content = is_content;
            self.say(&replies, now, dice, faults);
        }
    }

    /// Writes down what it is told.
    fn note(&mut self, event: &Event) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Mail(path) => {
                self.seen = Seen {
                    message: text(&path.address),
                    ..Seen::default()
                };
                self.counts.clear();
            }
            Event::Rcpt(path) => self.seen.recipients.push(text(&path.address)),
            Event::Header(header) => {
                let value = text(&header.value);
                let line = format!("{}:{}", text(&header.name), value.trim_start());
                self.seen.header.push(line);
            }
            Event::Body(chunk) => {
                assert!(!self.seen.skipped, "told of a body that it skips");
                self.seen.body.extend_from_slice(chunk);
            }
            Event::Connect(connection) => self.client = connection.hostname.clone(),
            Event::Helo(_)
            | Event::Data
            | Event::EndOfHeaders
            | Event::EndOfMessage
            | Event::Unknown(_)
            | Event::Abort
            | Event::QuitReuse => {}
        }
    }

    fn decide(&mut self, event: &Event, dice: &mut Dice) -> Vec<Reply> {
        let verdict = self.verdict(event, dice);
        if let Verdict::Reply(_) = verdict {
            let code = event.clone().into_command().code();
            let nth = self.counts.get(&code).copied().unwrap_or(0);
            self.refusals
                .push((self.seen.message.clone(), char::from(code), nth));
        }
        let side = &mut self.side;
        match event {
            Event::Connect(_) | Event::Helo(_) => {
                let greeting = match verdict {
                    Verdict::Accept => Greeting::Accept,
                    Verdict::Reply(text) => Greeting::Reply(text),
                    _ => Greeting::Continue,
                };
                self.accepted_client |= greeting == Greeting::Accept;
                vec![side.greet(greeting).unwrap()]
            }
            Event::Body(_) => {
                let skips = dice.once_in(10);
                self.seen.skipped |= skips;
                let verdict = if skips {
                    BodyVerdict::Skip
                } else {
                    self.seen.accepted |= verdict == Verdict::Accept;
                    BodyVerdict::Go(verdict)
                };
                Vec::from_iter(self.side.body(verdict).unwrap())
            }
            Event::EndOfMessage => {
                let mut outcome = Outcome::from(verdict.clone());
                if matches!(verdict, Verdict::Continue | Verdict::Accept) {
                    outcome.edits = self.edits(dice);
                    self.seen.passed = Some(outcome.edits.clone());
                }
                let mut replies = self.side.finish(outcome).unwrap();
                if dice.once_in(4) {
                    replies.insert(0, Reply::Progress);
                }
                replies
            }
            Event::Unknown(_) => {
                let answer = match verdict {
                    Verdict::Reply(text) => Verdict::Reply(text),
                    _ => Verdict::Continue,
                };
                vec![self.side.reply(answer).unwrap()]
            }
            _ => {
                self.seen.accepted |= verdict == Verdict::Accept;
                vec![self.side.reply(verdict).unwrap()]
            }
        }
    }

    /// Mostly `Continue`. A refusal names who refuses what.
    fn verdict(&self, event: &Event, dice: &mut Dice) -> Verdict {
        match dice.roll(48) {
            44 => Verdict::Accept,
            45 if !matches!(event, Event::Connect(_) | Event::Helo(_)) => Verdict::Discard,
            46 | 47 => {
                let words = format!("filter {} says no to {}", self.number, self.seen.message);
                let text = SmtpReply::new(550, "5.7.1", &words).expect("a good text");
                Verdict::Reply(text)
            }
            _ => Verdict::Continue,
        }
    }

    /// Edits of every kind that it may make. The first field is the mark by which it is seen that
    /// they counted.
    fn edits(&self, dice: &mut Dice) -> Vec<Edit> {
        let number = self.number;
        let message = self.seen.message.clone();
        let address = |what: &str| Bytes::from(format!("<{what}-{number}@x>"));
        let may = self.side.facts().actions();
        let mut edits = Vec::new();
        if may.contains(Actions::ADD_HEADERS) {
            edits.push(Edit::add(format!("X-{number}"), message));
        }
        if may.contains(Actions::ADD_RECIPIENT) && dice.once_in(2) {
            for what in ["a", "b"] {
                edits.push(Edit::AddRecipient {
                    address: address(what),
                    args: Bytes::new(),
                });
            }
        }
        if may.contains(Actions::DELETE_RECIPIENT) && dice.once_in(2) {
            edits.push(Edit::DeleteRecipient {
                address: address("d"),
            });
        }
        if may.contains(Actions::CHANGE_SENDER) && dice.once_in(2) {
            edits.push(Edit::ChangeSender {
                address: address("s"),
                args: Bytes::new(),
            });
        }
        if may.contains(Actions::CHANGE_BODY) && dice.once_in(2) {
            for piece in 0..=dice.roll(3) {
                let size = usize::from(dice.roll(100)) * 50;
                let line = format!("{number} {piece}\r\n");
                edits.push(Edit::ReplaceBody(Bytes::from(line.repeat(size))));
            }
        }
        edits
    }

    /// Puts the answer on its way, or something else.
    fn say(&mut self, replies: &[Reply], now: Instant, dice: &mut Dice, faults: u8) {
        let mut bytes = BytesMut::new();
        for reply in replies {
            reply.encode(&mut bytes).expect("a reply that can be said");
        }
        let mut at = now + Duration::from_millis(u64::from(dice.roll(40)) * 10);
        let fault = dice.once_in(faults).then(|| fault(dice));
        // One of two answers to content is taken for the answer to what was told ahead.
        let fault = fault.filter(|fault| !matches!(fault, Fault::Twice) || !self.owes_content);
        self.failed |= fault.is_some();
        match fault {
            None => {}
            Some(Fault::Late) => at += Duration::from_secs(130),
            Some(Fault::Twice) => {
                // At once: a second answer that comes after the next question cannot be told from
                // the answer to that.
                bytes.extend_from_slice(&bytes.clone());
                return self.says.push_back((at, Some(bytes.freeze())));
            }
            Some(Fault::Hang) => return,
            Some(Fault::Garbage(nonsense)) => bytes = BytesMut::from(&nonsense[..]),
            Some(Fault::Crash) => {
                bytes.truncate(usize::from(dice.roll(32)));
                self.says.push_back((at, Some(bytes.freeze())));
                self.says.push_back((at, None));
                return;
            }
        }
        // In pieces of any size.
        while !bytes.is_empty() {
            let size = match dice.roll(4) {
                0 => bytes.len(),
                1 => usize::from(dice.roll(8)) + 1,
                _ => usize::from(dice.roll(u8::MAX)) * 16 + 1,
            };
            let piece = bytes.split_to(size.min(bytes.len())).freeze();
            self.says.push_back((at, Some(piece)));
            at += Duration::from_millis(u64::from(dice.roll(10)));
        }
    }

    /// The next piece that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Option<Bytes>> {
        if self.says.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, piece) = self.says.pop_front()?;
        if self.says.is_empty() {
            self.owes = false;
        }
        Some(piece)
    }
}

fn fault(dice: &mut Dice) -> Fault {
    match dice.roll(6) {
        0 => Fault::Crash,
        1 => Fault::Hang,
        2 => Fault::Twice,
        3 => Fault::Late,
        _ => Fault::Garbage(garbage(dice)),
    }
}

/// What is no answer: no frame, no reply, or a reply that has no place there.
fn garbage(dice: &mut Dice) -> Bytes {
    let fixed: [&[u8]; 12] = [
        &[0; 4],
        &[0x80, 0, 0, 0, b'c'],
        &[0xff; 64],
        b"220 mx.example.org ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0, 0, 0, 1, b'?'],
        &[0, 0, 0, 1, b'f'],
        &[0, 0, 0, 1, b'4'],
        &[0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 3, b'h', b'A', 0],
        &[0, 0, 0, 3, b'y', b'x', 0],
        &[0, 0, 0, 2, b'q', 0],
    ];
    let kind = usize::from(dice.roll(16));
    match fixed.get(kind) {
        Some(bytes) => Bytes::from_static(bytes),
        None => (0..=dice.roll(64)).map(|_| dice.roll(u8::MAX)).collect(),
    }
}
