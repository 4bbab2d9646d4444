//! An MTA: one connection with a few messages of its client, told step by step whenever it is its
//! turn. It checks what it is answered by the protocol crate's own state machine, and every message
//! by the invariants.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Address, Connection};
use milter_proto::session::{Answer, Event, Expect, MtaSide};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Command, Reply, Steps};

use super::chance::Chance;
use super::check::{Delivery, Result, Violation, require};
use super::letter::Letter;

/// What it is doing.
#[derive(Debug)]
enum Doing {
    /// It waits for the answer to its offer.
    Negotiating(Instant),
    /// It will go on then.
    Ready(Instant),
    /// It waits for an answer.
    Waiting(Event, Instant),
    /// It has said good-bye.
    Gone,
}

/// What became of a message.
pub(super) enum Fate {
    /// It passed.
    Passed,
    /// It was refused with this word, or accepted early, or thrown away.
    Refused(Verdict),
    /// The MTA gave it up.
    Aborted,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Mta {
    side: MtaSide,
    doing: Doing,
    /// Its client's name.
    pub(super) name: Bytes,
    /// Which one it says that it is.
    version: &'static str,
    events: VecDeque<Event>,
    unsent: VecDeque<(Command, Option<(Event, Expect)>)>,
    /// The message in hand.
    pub(super) letter: Option<Rc<Letter>>,
    pub(super) delivery: Delivery,
    pub(super) began: Instant,
    greeted: bool,
    edits_came: Vec<Edit>,
    /// How long its client thinks after a message.
    pub(super) pause: Duration,
}

/// How long an MTA waits.
const PATIENCE: Duration = Duration::from_secs(26);
const PATIENCE_AT_END: Duration = Duration::from_secs(241);

impl Mta {
    /// One that leaves nothing out, and has the longer patience.
    pub(super) fn plain(name: String, now: Instant) -> (Self, Command) {
        let (mut mta, _) = Self::new(name, now, &mut Chance::new(0));
        let (side, opening) = MtaSide::offer(6, Actions::all(), Steps::NEGOTIABLE);
        mta.side = side;
        mta.version = "Postfix 3.7.11";
        (mta, opening)
    }

    /// One that makes its offer.
    pub(super) fn new(name: String, now: Instant, chance: &mut Chance) -> (Self, Command) {
        let mut actions = Actions::all();
        if chance.once_in(4) {
            actions -= Actions::QUARANTINE;
        }
        let left_out = chance.some_of(Steps::NEGOTIABLE.iter(), 16);
        let (side, opening) = MtaSide::offer(6, actions, Steps::NEGOTIABLE - left_out);
        let version = ["Postfix 3.7.11", "8.17.1", ""][chance.place(3)];
        let mta = Self {
            side,
            doing: Doing::Negotiating(now),
            name: Bytes::from(name),
            version,
            events: VecDeque::new(),
            unsent: VecDeque::new(),
            letter: None,
            delivery: Delivery::default(),
            began: now,
            greeted: false,
            edits_came: Vec::new(),
            pause: Duration::ZERO,
        };
        (mta, opening)
    }

    /// Whether it has quit.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.doing, Doing::Gone)
    }

    /// Whether it could begin with a message.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.doing, Doing::Ready(_))
            && self.letter.is_none()
            && self.events.is_empty()
            && self.unsent.is_empty()
    }

    /// When it goes on by itself.
    pub(super) fn wakes(&self) -> Option<Instant> {
        match self.doing {
            Doing::Ready(at) => Some(at),
            _ => None,
        }
    }

    /// Whether header, or body, is left out of the conversation.
    pub(super) fn leaves_out(&self, step: Steps) -> bool {
        self.side.options().steps.contains(step)
    }

    /// It closes without a word.
    pub(super) fn vanish(&mut self) {
        self.doing = Doing::Gone;
    }

    /// It takes its leave.
    pub(super) fn quit(&mut self) -> Vec<Command> {
        self.doing = Doing::Gone;
        let (fresh, _) = MtaSide::offer(6, Actions::all(), Steps::NEGOTIABLE);
        std::mem::replace(&mut self.side, fresh).quit()
    }

    /// Begins with a message.
    pub(super) fn begin(&mut self, letter: &Rc<Letter>, now: Instant) {
        self.began = now;
        self.letter = Some(Rc::clone(letter));
        self.delivery = Delivery {
            message: letter.name.clone(),
            client: self.name.clone(),
            ..Delivery::default()
        };
        self.events = letter.events().into();
        if !self.greeted {
            self.greeted = true;
            self.events.push_front(Event::Helo(self.name.clone()));
            self.events.push_front(Event::Connect(Connection {
                hostname: self.name.clone(),
                address: Address::Unknown,
            }));
        }
    }

    /// The next command to be sent, when it is the MTA's turn.
    pub(super) fn next(&mut self, now: Instant, chance: &mut Chance) -> Result<Option<Command>> {
        while matches!(self.doing, Doing::Ready(at) if at <= now)
            && self.unsent.is_empty()
            && !self.events.is_empty()
        {
            self.prepare(now, chance)?;
        }
        let Some((command, last)) = self.unsent.pop_front() else {
            return Ok(None);
        };
        if let Some((event, expect)) = last {
            if expect == Expect::Nothing {
                self.went_by(&event);
            } else {
                self.doing = Doing::Waiting(event, now);
            }
        }
        Ok(Some(command))
    }

    /// Puts the next event into commands.
    fn prepare(&mut self, now: Instant, chance: &mut Chance) -> Result<()> {
        let Some(event) = self.events.pop_front() else {
            return Ok(());
        };
        let nobody = self.delivery.recipients.is_empty();
        if matches!(event, Event::Data) && nobody {
            self.events.clear();
            self.events.push_back(Event::Abort);
            return Ok(());
        }
        if self.side.is_muted() && !matches!(event, Event::Abort) {
            return Ok(());
        }
        let over = matches!(event, Event::Abort);
        let pause = if chance.once_in(16) {
            chance.below(3000)
        } else {
            chance.below(3)
        };
        let thinks = if over { self.pause } else { Duration::ZERO };
        self.doing = Doing::Ready(now + thinks + Duration::from_millis(pause));
        let macros = self.macros(&event);
        let sent = self.side.send(event.clone(), macros.as_deref());
        let sent = sent.map_err(|error| Violation::new(2, format!("{event:?}: {error}")))?;
        if let Some(then) = sent.then {
            self.events.push_front(then);
        }
        let count = sent.commands.len();
        for (number, command) in sent.commands.into_iter().enumerate() {
            let last = number + 1 == count;
            let last = last.then(|| (event.clone(), sent.expect));
            self.unsent.push_back((command, last));
        }
        if count == 0 {
            self.went_by(&event);
        }
        Ok(())
    }

    fn macros(&self, event: &Event) -> Option<Vec<(Bytes, Bytes)>> {
        let pair = |name: &'static str, value: &str| {
            vec![(
                Bytes::from_static(name.as_bytes()),
                Bytes::from(value.to_owned()),
            )]
        };
        match event {
            Event::Connect(_) if !self.version.is_empty() => Some(pair("v", self.version)),
            Event::Mail(_) => Some(pair("i", &self.delivery.message)),
            _ => None,
        }
    }

    /// Takes a reply; what became of the message, once that is known.
    pub(super) fn hear(&mut self, reply: Reply, now: Instant) -> Result<Option<Fate>> {
        let (event, since) = match &self.doing {
            Doing::Negotiating(since) => {
                let in_time = now - *since <= Duration::from_secs(11);
                require(8, in_time, || "the negotiation took too long".to_owned())?;
                let done = self.side.negotiated(reply);
                done.map_err(|error| Violation::new(2, format!("the offer: {error}")))?;
                self.doing = Doing::Ready(now);
                return Ok(None);
            }
            Doing::Waiting(event, since) => (event.clone(), *since),
            Doing::Ready(_) | Doing::Gone => {
                return Err(Violation::new(
                    1,
                    format!("{reply:?} that nobody asked for"),
                ));
            }
        };
        let at_end = matches!(event, Event::EndOfMessage);
        let patience = if at_end { PATIENCE_AT_END } else { PATIENCE };
        require(8, now - since <= patience, || {
            format!("{event:?} took {:?}", now - since)
        })?;
        let answer = self.side.receive(reply);
        let answer = answer.map_err(|error| Violation::new(2, format!("at {event:?}: {error}")))?;
        match answer {
            Answer::Progress => {
                require(2, at_end, || format!("progress at {event:?}"))?;
                Ok(None)
            }
            Answer::Edit(edit) => {
                self.edits_came.push(edit);
                Ok(None)
            }
            Answer::Skip => {
                // Nobody needs what is left of it.
                self.events.retain(|event| !matches!(event, Event::Body(_)));
                self.doing = Doing::Ready(now);
                self.went_by(&event);
                Ok(None)
            }
            Answer::Verdict(word) => {
                let pause = if at_end { self.pause } else { Duration::ZERO };
                self.doing = Doing::Ready(now + pause);
                self.conclude(&event, word)
            }
        }
    }

    /// Whether it has waited for longer than it can.
    pub(super) fn check_patience(&self, now: Instant) -> Result<()> {
        let Doing::Waiting(event, since) = &self.doing else {
            return Ok(());
        };
        require(8, now - *since <= PATIENCE_AT_END, || {
            format!("no answer to {event:?}")
        })
    }

    fn conclude(&mut self, event: &Event, word: Verdict) -> Result<Option<Fate>> {
        let edits = std::mem::take(&mut self.edits_came);
        require(5, edits.is_empty() || word == Verdict::Continue, || {
            format!("{} edits with {word:?}", edits.len())
        })?;
        match (event, word) {
            (Event::EndOfMessage, Verdict::Continue) => {
                self.delivery.edits = edits;
                Ok(Some(Fate::Passed))
            }
            (_, Verdict::Continue) => {
                self.went_by(event);
                Ok(None)
            }
            (Event::Rcpt(_), Verdict::Reply(reply)) => {
                let refusal = Verdict::Reply(reply);
                super::check::refused(&self.delivery.message, &refusal, &[])?;
                Ok(None)
            }
            (_, word) => {
                self.events.clear();
                if !matches!(event, Event::EndOfMessage) {
                    self.events.push_back(Event::Abort);
                }
                Ok(Some(Fate::Refused(word)))
            }
        }
    }

    /// The MTA gives the message up at once, if it may.
    pub(super) fn aborts(&mut self) {
        let may = matches!(self.doing, Doing::Ready(_))
            && self.unsent.is_empty()
            && self.side.stage().in_message();
        if may {
            self.events.clear();
            self.events.push_back(Event::Abort);
        }
    }

    /// Notes what is part of the message now.
    fn went_by(&mut self, event: &Event) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Rcpt(path) => self.delivery.recipients.push(text(&path.address)),
            Event::Header(header) => {
                let value = text(&header.value);
                let line = format!("{}:{}", text(&header.name), value.trim_start());
                self.delivery.header.push(line);
            }
            Event::Body(chunk) => self.delivery.body.extend_from_slice(chunk),
            _ => {}
        }
    }
}
