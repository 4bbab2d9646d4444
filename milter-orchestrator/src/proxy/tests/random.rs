//! Whole sessions by chance: one to three filters that do anything at any stage, an MTA that sends
//! messages and aborts, and a clock that jumps. No sockets: the session alone.
//!
//! What must hold whatever happens: every question of the MTA's gets exactly one answer and nothing
//! else is ever said; no edit comes with a refusal, and none of another message; a message that
//! passes was passed by every filter whose failure must not let it pass; and nothing waits longer
//! than the limits say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Address as ClientAddress, Connection, Header, Path};
use milter_proto::wire::{Actions, Command, Offer, Reply, Steps};

use crate::member::{Chain, Member, OnFailure};
use crate::proxy::child::{ChildError, Link};
use crate::proxy::session::Session;
use crate::proxy::tests::harness::unreachable_member;
use crate::proxy::{Limits, Proxy};
use crate::route::{Condition, Route, Routes};

/// Chance that is the same for the same seed (splitmix64).
struct Dice {
    state: u64,
}

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u8) -> u8 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 32) % u64::from(sides)) as u8
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u8) -> bool {
        self.roll(times) == times - 1
    }

    /// Everything, nothing, or header fields alone: it decides who runs beside whom.
    fn any_actions(&mut self) -> Actions {
        match self.roll(3) {
            0 => Actions::all() - Actions::SET_MACRO_LIST,
            1 => Actions::ADD_HEADERS,
            _ => Actions::empty(),
        }
    }

    fn any_of(&mut self, flags: Steps) -> Steps {
        flags
            .iter()
            .filter(|_| self.once_in(3))
            .fold(Steps::empty(), |all, one| all | one)
    }
}

/// A filter at the other end of a connection.
struct Actor {
    steps: Steps,
    actions: Actions,
    /// The connection that it knows of.
    generation: u32,
    /// What it will say, and when.
    says: VecDeque<(Instant, Vec<Reply>)>,
    dies_at: Option<Instant>,
    /// The message that it was told of last, and whether it let that pass.
    message: String,
    passed: bool,
    /// It accepted the client as a whole.
    accepted_client: bool,
}

impl Actor {
    /// Its mark on the message, where it may leave one.
    fn edit(&self, index: usize) -> Option<Reply> {
        let edit = Edit::add(format!("X-{index}"), self.message.clone());
        let may = self.actions.contains(Actions::ADD_HEADERS);
        may.then_some(Reply::Edit(edit))
    }
}

/// A session with everything around it.
struct World {
    dice: Dice,
    session: Session,
    actors: Vec<Actor>,
    policies: Vec<OnFailure>,
    now: Instant,
    begin: Instant,
    agreed: Steps,
    said: VecDeque<Reply>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice { state: seed };
        let count = dice.roll(3) + 1;
        let policies: Vec<OnFailure> = (0..count)
            .map(|_| match dice.roll(4) {
                0 => OnFailure::TempFail,
                1 => OnFailure::Accept,
                2 => OnFailure::Reject,
                _ => OnFailure::Quarantine,
            })
            .collect();
        let strict = dice.once_in(3);
        let mut segments: Vec<Vec<Arc<Member>>> = Vec::new();
        for (number, policy) in policies.iter().enumerate() {
            let member = unreachable_member(number, *policy, 0);
            match segments.last_mut() {
                Some(last) if dice.once_in(2) && !strict => last.push(member),
                _ => segments.push(vec![member]),
            }
        }
        let routes = Routes {
            routes: vec![Route {
                condition: Condition::default(),
                chain: Arc::new(Chain {
                    name: "test".to_owned(),
                    segments,
                    strict,
                }),
            }],
        };
        let proxy = Proxy::new("test", Arc::new(routes), Limits::default());
        let now = Instant::now();
        let flags = Steps::NR_ALL
            | Steps::NO_BODY
            | Steps::NO_HEADERS
            | Steps::NO_RCPT
            | Steps::NO_DATA
            | Steps::NO_EOH
            | Steps::NO_HELO
            | Steps::SKIP
            | Steps::LEADING_SPACE;
        let actors = (0..count)
            .map(|_| Actor {
                steps: dice.any_of(flags),
                actions: dice.any_actions(),
                generation: 0,
                says: VecDeque::new(),
                dies_at: None,
                message: String::new(),
                passed: false,
                accepted_client: false,
            })
            .collect();
        Self {
            dice,
            session: Session::new(proxy.shared, now),
            actors,
            policies,
            now,
            begin: now,
            agreed: Steps::empty(),
            said: VecDeque::new(),
        }
    }

    /// Lets everything happen that happens by itself, up to the MTA's next reply or silence.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.session
                .advance()
                .expect("the MTA keeps to the protocol");
            let mut moved = self.connect();
            for index in 0..self.actors.len() {
                moved |= self.tell(index) | self.hear(index);
            }
            while let Some(reply) = self.session.next_reply() {
                self.said.push_back(reply);
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Waits, in jumps, until the MTA has an answer.
    fn wait(&mut self) -> Vec<Reply> {
        for _ in 0..10_000 {
            self.settle();
            let is_word = |reply: &Reply| !matches!(reply, Reply::Progress | Reply::Edit(_));
            if let Some(at) = self.said.iter().position(is_word) {
                assert_eq!(
                    at + 1,
                    self.said.len(),
                    "more than one answer: {:?}",
                    self.said
                );
                return self.said.drain(..).collect();
            }
            let wakes = self.actors.iter().flat_map(|actor| {
                let says = actor.says.front().map(|(at, _)| *at);
                [says, actor.dies_at]
            });
            let next = wakes.chain([self.session.deadline()]).flatten().min();
            self.now = next.expect("somebody is waited for").max(self.now);
            if self.session.deadline().is_some_and(|due| due <= self.now) {
                self.session
                    .tick(self.now)
                    .expect("the MTA keeps to the protocol");
            }
        }
        panic!("no answer for ever");
    }

    fn connect(&mut self) -> bool {
        let mut moved = false;
        for (index, actor) in self.actors.iter_mut().enumerate() {
            let Some(child) = self.session.children().get(index) else {
                return false;
            };
            match child.link {
                Link::Dialling(_) if actor.generation != child.generation => {
                    actor.generation = child.generation;
                    actor.says.clear();
                    actor.dies_at = None;
                    moved = true;
                    if self.dice.once_in(12) {
                        let refused = std::io::ErrorKind::ConnectionRefused.into();
                        let error = ChildError::Connect(refused);
                        self.session.lost(index, &error, self.now);
                    } else if !self.dice.once_in(20) {
                        self.session.connected(index, self.now);
                    }
                }
                Link::Leaving if child.out.is_empty() => {
                    self.session.left(index);
                    moved = true;
                }
                _ => {}
            }
        }
        moved
    }

    /// Whether the filter's connection is still the one that the session knows of.
    fn is_connected(&self, index: usize) -> bool {
        self.session.children().get(index).is_some_and(|child| {
            child.generation == self.actors[index].generation
                && matches!(
                    child.link,
                    Link::Negotiating(..) | Link::Up(_) | Link::Leaving
                )
        })
    }

    fn tell(&mut self, index: usize) -> bool {
        let mut moved = false;
        while self.is_connected(index)
            && let Some(command) = self.session.next_command(index, self.now)
        {
            moved = true;
            self.act(index, &command);
        }
        moved
    }

    fn hear(&mut self, index: usize) -> bool {
        if !self.is_connected(index) {
            self.actors[index].says.clear();
            self.actors[index].dies_at = None;
            return false;
        }
        let actor = &mut self.actors[index];
        if actor.says.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, replies) = actor.says.pop_front().unwrap();
            self.session.replies(index, replies, false, self.now);
            return true;
        }
        if actor.dies_at.take_if(|at| *at <= self.now).is_some() {
            let error = ChildError::Closed(milter_proto::session::Stage::Client);
            self.session.lost(index, &error, self.now);
            return true;
        }
        false
    }

    /// What a filter does about a command.
    fn act(&mut self, index: usize, command: &Command) {
        let later = self.now + Duration::from_millis(u64::from(self.dice.roll(200)) * 10);
        let actor = &mut self.actors[index];
        let silent = match command {
            Command::Negotiate(_) => {
                let answer = Offer {
                    steps: actor.steps,
                    actions: actor.actions,
                    ..Offer::full()
                };
                actor
                    .says
                    .push_back((later, vec![Reply::Negotiate(answer)]));
                return;
            }
            Command::Mail(path) => {
                actor.message = String::from_utf8_lossy(&path.address).into_owned();
                actor.passed = false;
                Steps::NR_MAIL
            }
            Command::Connect(_) => Steps::NR_CONNECT,
            Command::Helo(_) => Steps::NR_HELO,
            Command::Rcpt(_) => Steps::NR_RCPT,
            Command::Data => Steps::NR_DATA,
            Command::Header(_) => Steps::NR_HEADER,
            Command::EndOfHeaders => Steps::NR_EOH,
            Command::Body(_) => Steps::NR_BODY,
            Command::EndOfMessage(_) => Steps::empty(),
            _ => return,
        };
        if !silent.is_empty() && actor.steps.contains(silent) {
            return;
        }
        let at_end = matches!(command, Command::EndOfMessage(_));
        let is_content = matches!(command.code(), b'L' | b'N' | b'B');
        let mut replies = Vec::new();
        if at_end {
            replies.push(Reply::Progress);
            replies.extend(actor.edit(index));
        }
        match self.dice.roll(40) {
            34 => replies.push(Reply::Accept),
            35 => replies.push(Reply::Reject),
            36 => replies.push(Reply::TempFail),
            37 if matches!(command, Command::Body(_)) => replies.push(Reply::Skip),
            37 => replies.push(Reply::Discard),
            38 => {
                // Dies, half-way through its edits where it has some.
                actor.dies_at = Some(later);
                if at_end {
                    actor.says.push_back((self.now, replies));
                }
                return;
            }
            39 if self.dice.once_in(2) && !is_content => {
                // The first of them may be a late answer: neither counts. (Of two answers to
                // content, one is taken for the answer to what was told ahead.)
                replies.extend([Reply::Continue, Reply::Continue]);
                actor.says.push_back((later, replies));
                return;
            }
            39 => return,
            _ => replies.push(Reply::Continue),
        }
        match replies.last() {
            Some(Reply::Continue) => actor.passed |= at_end,
            Some(Reply::Accept) => {
                actor.passed = true;
                let of_client = matches!(command, Command::Connect(_) | Command::Helo(_));
                actor.accepted_client |= of_client;
            }
            _ => {}
        }
        actor.says.push_back((later, replies));
    }

    /// The MTA says something and gets its answer, if it is to get one.
    fn ask(&mut self, command: Command, silent: Steps) -> Reply {
        self.session
            .command(command, self.now)
            .expect("the MTA keeps to the protocol");
        if !silent.is_empty() && self.agreed.contains(silent) {
            self.settle();
            assert!(self.said.is_empty(), "an answer that was promised away");
            return Reply::Continue;
        }
        let asked = self.now;
        let replies = self.wait();
        let edits: Vec<&Edit> = replies
            .iter()
            .filter_map(|reply| match reply {
                Reply::Edit(edit) => Some(edit),
                _ => None,
            })
            .collect();
        let last = replies.last().cloned().unwrap();
        assert!(edits.is_empty() || last == Reply::Continue, "{replies:?}");
        assert!(self.now - asked <= Duration::from_secs(241), "too late");
        last
    }

    /// A whole message, or what becomes of it.
    fn message(&mut self, number: usize) {
        let sender = format!("<{number}@x>");
        let path = |address: &str| Path {
            address: Bytes::from(address.to_owned()),
            args: Vec::new(),
        };
        let mut script = vec![
            (Command::Mail(path(&sender)), Steps::empty(), Steps::empty()),
            (Command::Rcpt(path("<a@x>")), Steps::NR_RCPT, Steps::NO_RCPT),
            (Command::Rcpt(path("<b@x>")), Steps::NR_RCPT, Steps::NO_RCPT),
            (Command::Data, Steps::NR_DATA, Steps::NO_DATA),
        ];
        let header = Command::Header(Header::new("X", " y"));
        script.push((header.clone(), Steps::NR_HEADER, Steps::NO_HEADERS));
        script.push((header, Steps::NR_HEADER, Steps::NO_HEADERS));
        script.push((Command::EndOfHeaders, Steps::NR_EOH, Steps::NO_EOH));
        for _ in 0..self.dice.roll(3) {
            let chunk = Bytes::from_static(b"chunk\r\n");
            script.push((Command::Body(chunk), Steps::NR_BODY, Steps::NO_BODY));
        }
        let mut recipients = 0;
        let mut skips = false;
        for (command, silent, left_out) in script {
            let is_rcpt = matches!(command, Command::Rcpt(_));
            let is_body = matches!(command, Command::Body(_));
            if matches!(command, Command::Data | Command::Header(_)) && recipients == 0 {
                break;
            }
            if self.dice.once_in(40) {
                self.session.command(Command::Abort, self.now).unwrap();
                return;
            }
            if (!left_out.is_empty() && self.agreed.contains(left_out)) || (is_body && skips) {
                recipients += usize::from(is_rcpt);
                continue;
            }
            match self.ask(command, silent) {
                Reply::Continue => recipients += usize::from(is_rcpt),
                Reply::Skip if is_body => skips = true,
                Reply::Accept | Reply::Discard => return self.abort(),
                _ if is_rcpt => {}
                _ => return self.abort(),
            }
        }
        if recipients == 0 {
            return self.abort();
        }
        self.end(&sender);
    }

    fn abort(&mut self) {
        self.session.command(Command::Abort, self.now).unwrap();
        self.settle();
        assert!(self.said.is_empty(), "an answer to an abort");
    }

    /// The end of the message, and whether it may pass.
    fn end(&mut self, sender: &str) {
        let end = Command::EndOfMessage(Bytes::new());
        self.session.command(end, self.now).unwrap();
        let replies = self.wait();
        let last = replies.last().cloned().unwrap();
        let mut marks = Vec::new();
        for reply in &replies {
            if let Reply::Edit(Edit::AddHeader { name, value }) = reply {
                assert_eq!(last, Reply::Continue, "edits with a refusal");
                assert_eq!(value.trim_ascii(), sender.as_bytes(), "of another message");
                assert!(
                    !marks.contains(name),
                    "an edit of a filter that was replaced"
                );
                marks.push(name.clone());
            }
        }
        if last != Reply::Continue {
            return;
        }
        let quarantined = replies
            .iter()
            .any(|reply| matches!(reply, Reply::Edit(Edit::Quarantine { .. })));
        for (actor, policy) in self.actors.iter().zip(&self.policies) {
            let seen = actor.passed && actor.message == sender;
            let excused = match policy {
                OnFailure::Accept => true,
                OnFailure::Quarantine => quarantined,
                OnFailure::TempFail | OnFailure::Reject => false,
            };
            assert!(
                seen || actor.accepted_client || excused,
                "passed unseen: {policy:?}"
            );
        }
    }

    fn run(&mut self) {
        let offer = Command::Negotiate(Offer::full());
        self.session.command(offer, self.now).unwrap();
        let replies = self.wait();
        let [Reply::Negotiate(agreed)] = &replies[..] else {
            panic!("not an answer to the negotiation: {replies:?}");
        };
        assert!(Actions::all().contains(agreed.actions));
        self.agreed = agreed.steps;
        let client = Command::Connect(Connection {
            hostname: Bytes::from_static(b"client.test"),
            address: ClientAddress::Unknown,
        });
        for (command, silent) in [
            (client, Steps::NR_CONNECT),
            (Command::Helo(Bytes::from_static(b"h")), Steps::NR_HELO),
        ] {
            if self.ask(command, silent) != Reply::Continue {
                return;
            }
        }
        for number in 0..=usize::from(self.dice.roll(4)) {
            self.message(number);
            assert!(
                self.said.is_empty(),
                "said after the message: {:?}",
                self.said
            );
        }
        assert!(self.now - self.begin < Duration::from_secs(3600));
    }
}

#[test]
fn whatever_filters_do_the_mta_gets_one_true_answer() {
    bolero::check!()
        .with_type::<u64>()
        .with_test_time(Duration::from_secs(2))
        .for_each(|seed| World::new(*seed).run());
}
