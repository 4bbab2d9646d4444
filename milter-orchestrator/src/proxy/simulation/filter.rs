//! Filters: processes that serve every connection, and that a supervisor keeps running by the real
//! table of its states and the real delays.
//!
//! What a filter says to a message follows from the message; what goes wrong is chance. It writes
//! down what it was told and said ([`Attempt`]), and refuses to be told what has no place.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milter_proto::edit::Edit;
use milter_proto::session::{Event, FilterSide, Step};
use milter_proto::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use milter_proto::wire::{Actions, Command, Decoder, Reply, Steps};

use super::chance::Chance;
use super::check::{Result, Violation, require};
use super::letter::{Letter, name_in};
use super::pipe::Pipe;
use super::plan::{Extent, Script};
use crate::member::Readiness;
use crate::supervisor::backoff::Backoff;
use crate::supervisor::child::{self, Action, State};

/// What a filter was told of one message on one connection, and what it said.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    pub(super) message: String,
    pub(super) client: Bytes,
    pub(super) recipients: Vec<String>,
    pub(super) header: Vec<String>,
    pub(super) body: Vec<u8>,
    /// Its word, where that was not `Continue`.
    pub(super) word: Option<Verdict>,
    /// It let the message pass at its end, with these edits.
    pub(super) passed: Option<Vec<Edit>>,
    /// Something went wrong in it.
    pub(super) broken: bool,
}

/// What goes wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lapse {
    /// The process ends, before or in the middle of the answer.
    Killed,
    /// The process is stopped.
    Stopped,
    /// This answer never comes.
    Silent,
    /// This answer comes after everybody's patience.
    Late,
    /// This answer takes long, but not too long.
    Slow,
    /// Nonsense in its place.
    Garbage,
    /// It comes twice.
    Twice,
}

/// How rarely each of them happens: once in so many answers, 0 for never.
pub(super) type Rates = [(Lapse, u64); 7];

/// One filter's process and what supervises it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) state: State,
    backoff: Backoff,
    /// It runs: connections are accepted and read.
    pub(super) runs: bool,
    /// It was sent SIGSTOP.
    pub(super) stopped: bool,
    /// What comes next in its life, and when.
    pub(super) next: Option<(Instant, child::Event)>,
    /// When something was last wrong with it.
    pub(super) trouble: Option<Instant>,
    /// When it was last not to be tried at all.
    hopeless: Option<Instant>,
    pub(super) actions: Actions,
    pub(super) steps: Steps,
}

impl Process {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let may = Actions::ADD_RECIPIENT
            | Actions::DELETE_RECIPIENT
            | Actions::CHANGE_SENDER
            | Actions::CHANGE_BODY;
        let wishes = Steps::NEGOTIABLE - Steps::NO_CONNECT - Steps::NO_MAIL;
        Self {
            state: State::Up,
            backoff: Backoff::default(),
            runs: true,
            stopped: false,
            next: None,
            trouble: None,
            hopeless: None,
            actions: chance.some_of(may.iter(), 2) | Actions::ADD_HEADERS,
            steps: chance.some_of(wishes.iter(), 4),
        }
    }

    /// One that wants to hear everything.
    pub(super) fn plain() -> Self {
        let mut process = Self::new(&mut Chance::new(0));
        process.actions = Actions::ADD_HEADERS;
        process.steps = Steps::empty();
        process
    }

    /// Whether it reads what is sent to it.
    pub(super) fn works(&self) -> bool {
        self.runs && !self.stopped
    }

    /// What the proxy is told of it.
    pub(super) fn readiness(&self) -> Readiness {
        self.state.readiness(self.backoff.is_open())
    }

    /// SIGKILL, or a crash.
    pub(super) fn end(&mut self, now: Instant, chance: &mut Chance) {
        self.runs = false;
        self.stopped = false;
        self.trouble = Some(now);
        self.happen(child::Event::Exited, now, chance);
    }

    /// SIGSTOP: its supervisor finds out after three probes.
    pub(super) fn stop(&mut self, now: Instant) {
        self.stopped = true;
        self.trouble = Some(now);
        let found = match self.state {
            State::Up => child::Event::Unanswered,
            // It does not get ready.
            State::Starting => child::Event::Overdue,
            _ => return,
        };
        self.next = Some((now + Duration::from_secs(6), found));
    }

    /// Takes what is due in its life; whether its connections are gone with it.
    pub(super) fn live(&mut self, now: Instant, chance: &mut Chance) -> bool {
        let Some((_, event)) = self.next.take_if(|(at, _)| *at <= now) else {
            return false;
        };
        self.trouble = Some(now);
        self.happen(event, now, chance);
        self.state == State::Backoff
    }

    fn happen(&mut self, event: child::Event, now: Instant, chance: &mut Chance) {
        let (state, action) = child::step(self.state, event);
        self.state = state;
        let soon = now + Duration::from_millis(20 + chance.below(200));
        self.next = match action {
            Action::Delay => {
                let delay = self.backoff.crashed(now, chance.next());
                Some((now + delay, child::Event::Overdue))
            }
            Action::Spawn => {
                self.runs = true;
                self.stopped = false;
                Some((soon, child::Event::Answered))
            }
            Action::Kill => {
                self.runs = false;
                self.stopped = false;
                Some((soon, child::Event::Exited))
            }
            Action::Nothing | Action::Terminate => match state {
                State::Sick => Some((now + Duration::from_secs(10), child::Event::Overdue)),
                _ => None,
            },
        };
        if self.readiness() == Readiness::Open {
            self.hopeless = Some(now);
        }
        if state == State::Up {
            self.backoff.ready(now);
        }
    }

    /// Whether it was not to be tried at any time since then.
    pub(super) fn was_hopeless(&self, since: Instant) -> bool {
        self.readiness() == Readiness::Open || self.hopeless.is_some_and(|at| at >= since)
    }

    /// Whether something was wrong with it at any time since then.
    pub(super) fn was_troubled(&self, since: Instant) -> bool {
        self.state != State::Up || !self.works() || self.trouble.is_some_and(|at| at >= since)
    }
}

/// One connection to a filter, seen from the filter.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) filter: usize,
    pub(super) generation: u32,
    /// What the proxy writes.
    pub(super) to: Pipe,
    /// What the filter writes.
    pub(super) from: Pipe,
    side: FilterSide,
    unread: BytesMut,
    /// What of its answers has arrived, but not whole.
    pub(super) heard: BytesMut,
    /// It was taken from the queue of the listening socket: it ends with the process.
    pub(super) accepted: bool,
    /// No answer comes before this.
    busy_until: Instant,
    /// Nothing is said on it any more.
    mute: bool,
    client: Bytes,
    pub(super) attempt: Option<Attempt>,
}

/// What may go wrong with an answer.
pub(super) enum Faults<'a> {
    /// By chance.
    Rates(&'a Rates),
    /// This, or nothing.
    Script(Option<Script>),
}

/// What a command came to.
pub(super) struct Heard {
    /// The whole process is hit.
    pub(super) lapse: Option<Lapse>,
    /// By the message itself.
    pub(super) by_poison: bool,
}

impl Line {
    pub(super) fn new(filter: usize, generation: u32, now: Instant) -> Self {
        Self {
            filter,
            generation,
            to: Pipe::default(),
            from: Pipe::default(),
            side: FilterSide::new(),
            unread: BytesMut::new(),
            heard: BytesMut::new(),
            accepted: false,
            busy_until: now,
            mute: false,
            client: Bytes::new(),
            attempt: None,
        }
    }

    /// The next command that has arrived whole.
    pub(super) fn next_command(&mut self, now: Instant) -> Result<Option<Command>> {
        loop {
            match Decoder::default().decode(&mut self.unread) {
                Ok(Some(frame)) => {
                    let command = Command::parse(frame);
                    let command = command.map_err(|error| Violation::new(2, error.to_string()))?;
                    return Ok(Some(command));
                }
                Ok(None) => {}
                Err(error) => return Err(Violation::new(2, error.to_string())),
            }
            match self.to.due(now) {
                Some(Some(piece)) => self.unread.extend_from_slice(&piece),
                _ => return Ok(None),
            }
        }
    }

    /// Takes a command and answers it.
    pub(super) fn hear(
        &mut self,
        command: Command,
        process: &Process,
        letter: Option<&Letter>,
        faults: &Faults<'_>,
        (now, chance): (Instant, &mut Chance),
    ) -> Result<Heard> {
        let code = command.code();
        let out_of_order = |error: &dyn std::fmt::Display| Violation::new(2, error.to_string());
        let mut replies = Vec::new();
        let mut step = Some(
            self.side
                .receive(command)
                .map_err(|error| out_of_order(&error))?,
        );
        while let Some(taken) = step {
            match taken {
                Step::Negotiate(offer) => {
                    let actions = process.actions & offer.actions;
                    let agreed = self.side.agree(actions, process.steps, Vec::new());
                    replies.push(agreed.map_err(|error| out_of_order(&error))?);
                }
                Step::Ask(event) => {
                    self.note(&event)?;
                    replies.extend(self.answer(&event, letter)?);
                }
                Step::Tell(event) => self.note(&event)?,
                Step::Answer(reply) => replies.push(reply),
                Step::Silent | Step::Close => {}
            }
            step = self.side.next_step();
        }
        if let Some(complaint) = self.side.take_complaint() {
            return Err(out_of_order(&complaint));
        }
        let poison = letter.and_then(|letter| letter.poison);
        let by_poison = poison == Some((self.filter, code));
        let lapse = if by_poison {
            Some(Lapse::Killed)
        } else if replies.is_empty() || self.mute {
            None
        } else {
            match faults {
                Faults::Rates(rates) => {
                    let drawn = rates.iter().find(|(_, rate)| chance.once_in(*rate));
                    drawn.map(|(lapse, _)| *lapse)
                }
                Faults::Script(script) => script
                    .filter(|script| script.code == code)
                    .map(|script| script.lapse),
            }
        };
        // One of two answers to content is taken for the answer to what was told ahead.
        let of_content = matches!(code, b'L' | b'N' | b'B');
        let lapse = lapse.filter(|lapse| *lapse != Lapse::Twice || !of_content);
        match (faults, lapse) {
            (Faults::Script(Some(script)), Some(lapse)) => {
                self.say_by_script(&replies, lapse, script.extent, now);
            }
            _ => self.say(&replies, lapse, now, chance),
        }
        Ok(Heard { lapse, by_poison })
    }

    /// Writes down what it is told; every piece must be of this message.
    fn note(&mut self, event: &Event) -> Result<()> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Connect(connection) => self.client = connection.hostname.clone(),
            Event::Mail(path) => {
                let message = name_in(&path.address).unwrap_or_default().to_owned();
                let client = self.client.clone();
                self.attempt = Some(Attempt {
                    message,
                    client,
                    ..Attempt::default()
                });
            }
            Event::Abort | Event::QuitReuse => self.attempt = None,
            _ => {}
        }
        let Some(attempt) = &mut self.attempt else {
            return Ok(());
        };
        let own = |bytes: &[u8]| bytes.is_empty() || name_in(bytes) == Some(&attempt.message);
        let foreign = match event {
            Event::Rcpt(path) if !own(&path.address) => Some(&path.address),
            Event::Header(header) if !own(&header.value) => Some(&header.value),
            Event::Body(chunk) if attempt.body.is_empty() && !own(chunk) => Some(chunk),
            _ => None,
        };
        if let Some(foreign) = foreign {
            let what = format!(
                "filter {} was told in {}: {}",
                self.filter,
                attempt.message,
                foreign[..foreign.len().min(80)].escape_ascii()
            );
            return Err(Violation::new(4, what));
        }
        match event {
            Event::Rcpt(path) => attempt.recipients.push(text(&path.address)),
            Event::Header(header) => {
                let value = text(&header.value);
                let line = format!("{}:{}", text(&header.name), value.trim_start());
                attempt.header.push(line);
            }
            Event::Body(chunk) => attempt.body.extend_from_slice(chunk),
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, event: &Event, letter: Option<&Letter>) -> Result<Vec<Reply>> {
        let side = &mut self.side;
        let wrong =
            |error: milter_proto::session::ProtocolError| Violation::new(2, error.to_string());
        let verdict = match letter {
            Some(letter) => letter.verdict(self.filter, event),
            None => Verdict::Continue,
        };
        let edits = match (event, letter) {
            (Event::EndOfMessage, Some(letter)) if verdict == Verdict::Continue => {
                Some(letter.edits(self.filter, side.facts().actions()))
            }
            _ => None,
        };
        if let Some(attempt) = &mut self.attempt
            && !matches!(event, Event::Rcpt(_) if matches!(verdict, Verdict::Reply(_)))
        {
            let word = Some(verdict.clone()).filter(|word| *word != Verdict::Continue);
            attempt.word = attempt.word.take().or(word);
            attempt.passed.clone_from(&edits);
        }
        let replies = match event {
            Event::Connect(_) | Event::Helo(_) => {
                vec![side.greet(Greeting::Continue).map_err(wrong)?]
            }
            Event::Body(_) => {
                let reply = side.body(BodyVerdict::Go(verdict)).map_err(wrong)?;
                Vec::from_iter(reply)
            }
            Event::EndOfMessage => {
                let edits = edits.unwrap_or_default();
                side.finish(Outcome { edits, verdict }).map_err(wrong)?
            }
            _ => vec![side.reply(verdict).map_err(wrong)?],
        };
        require(2, !replies.is_empty(), || format!("no answer to {event:?}"))?;
        Ok(replies)
    }

    /// Puts the answer on its way, or what comes in its place.
    fn say(&mut self, replies: &[Reply], lapse: Option<Lapse>, now: Instant, chance: &mut Chance) {
        if self.mute {
            return;
        }
        let mut bytes = BytesMut::new();
        for reply in replies {
            // All of them are of our own making.
            let _ = reply.encode(&mut bytes);
        }
        let short = Duration::from_millis(chance.below(8) * chance.below(8));
        let mut at = self.busy_until.max(now) + short;
        if let (Some(attempt), Some(_)) = (&mut self.attempt, lapse.filter(|it| *it != Lapse::Slow))
        {
            attempt.broken = true;
        }
        match lapse {
            None => {}
            Some(Lapse::Slow) => at += Duration::from_millis(200 + chance.below(1500)),
            Some(Lapse::Late) => at += Duration::from_secs(130),
            Some(Lapse::Stopped) => {}
            Some(Lapse::Silent) => {
                self.mute = true;
                return;
            }
            Some(Lapse::Killed) => bytes.truncate(chance.place(32)),
            Some(Lapse::Garbage) => {
                self.mute = true;
                bytes = garbage(chance);
            }
            Some(Lapse::Twice) => {
                self.mute = true;
                // At once: the second one cannot be told from the next answer otherwise.
                bytes.extend_from_slice(&bytes.clone());
                self.from.push_whole(bytes.freeze(), at);
                return;
            }
        }
        self.busy_until = self.from.push(bytes.freeze(), at, chance);
    }
}

impl Line {
    /// The same, where it is written what goes wrong.
    fn say_by_script(&mut self, replies: &[Reply], lapse: Lapse, extent: Extent, now: Instant) {
        let mut bytes = BytesMut::new();
        for reply in replies {
            let _ = reply.encode(&mut bytes);
        }
        bytes.truncate(match extent {
            Extent::Nothing => 0,
            // One field with its name and value has 22, a word has 5.
            Extent::Part => 26,
            Extent::Whole => bytes.len(),
        });
        if let Some(attempt) = &mut self.attempt {
            attempt.broken = extent != Extent::Whole;
        }
        self.mute = extent != Extent::Whole;
        if extent != Extent::Nothing {
            self.from.push_whole(bytes.freeze(), now);
        }
        if lapse == Lapse::Garbage {
            let later = now + Duration::from_millis(u64::from(extent == Extent::Whole) * 100);
            let nonsense = Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            self.from.push_whole(nonsense, later);
        }
    }
}

/// What is no answer: no frame, no reply, or a reply that has no place there.
fn garbage(chance: &mut Chance) -> BytesMut {
    let fixed: [&[u8]; 10] = [
        &[0; 4],
        &[0x80, 0, 0, 0, b'c'],
        &[0xff; 64],
        b"220 mx.example.org ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0, 0, 0, 1, b'?'],
        &[0, 0, 0, 1, b'f'],
        &[0, 0, 0, 1, b'4'],
        &[0, 0, 0, 5, b'O', 0, 0, 0, 6],
        &[0, 0, 0, 2, b'q', 0],
    ];
    BytesMut::from(fixed[chance.place(fixed.len())])
}
