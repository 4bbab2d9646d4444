//! The MTA's part: it tells of a client and its messages, gives up now and then, and checks every
//! answer, and what the filters saw, when a message is over.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Address, Connection, Header, Path};
use milter_proto::session::{Answer, Event, Expect, MtaSide};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Reply, Steps};

use super::World;
use super::filter::{Filter, Seen};
use crate::member::OnFailure;

/// What the MTA has told of the message in hand.
#[derive(Debug, Default)]
struct Told {
    message: String,
    /// Accepted by everybody.
    recipients: Vec<String>,
    /// Refused, and by whom.
    refused: Vec<(String, usize)>,
    header: Vec<String>,
    body: Vec<u8>,
    skips: bool,
    counts: HashMap<u8, usize>,
}

/// What came of an event.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// On with it.
    Go,
    /// The message is over, or the client is refused.
    Over,
    /// The MTA gave up.
    Gone,
}

/// An MTA.
pub(super) struct Client {
    side: MtaSide,
    /// Its client's name.
    name: Bytes,
    told: Told,
    /// How many messages there were.
    messages: usize,
}

/// The macro that tells the MTAs apart.
const VERSIONS: [&str; 3] = ["Postfix 3.7.11", "8.17.1", ""];

impl Client {
    /// One that has negotiated.
    pub(super) fn new(world: &mut World, number: u8) -> Self {
        let actions = Actions::all() - world.dice.some_of(Actions::all().iter(), 12);
        let steps = Steps::NEGOTIABLE - world.dice.some_of(Steps::NEGOTIABLE.iter(), 12);
        let version = 6 - u32::from(world.dice.once_in(12)) * u32::from(world.dice.roll(5));
        let (mut side, opening) = MtaSide::offer(version, actions, steps);
        let taken = world.session.command(opening, world.now);
        taken.expect("an offer that can be met");
        let answered = |world: &World| !world.said.is_empty();
        world.until("the negotiation", Duration::from_secs(11), answered);
        let reply = world.said.pop_front().expect("an answer");
        assert_eq!(
            side.negotiated(reply),
            Ok(vec![]),
            "the answer to the offer"
        );
        Self {
            side,
            name: Bytes::from(format!("client-{number}.test")),
            told: Told::default(),
            messages: 0,
        }
    }

    /// A client with its messages, up to the end of the connection.
    pub(super) fn run(mut self, world: &mut World) {
        let connection = Connection {
            hostname: self.name.clone(),
            address: Address::Unknown,
        };
        let helo = Event::Helo(self.name.clone());
        let mut said = self.tell(world, Event::Connect(connection));
        if said == Said::Go {
            said = self.tell(world, helo.clone());
        }
        let count = world.dice.roll(4) + 1;
        for _ in 0..count {
            if said == Said::Gone {
                return;
            }
            if said == Said::Over && self.messages == 0 {
                break;
            }
            if world.dice.once_in(8) && self.tell(world, helo.clone()) != Said::Go {
                break;
            }
            said = self.message(world);
        }
        if said == Said::Gone {
            return;
        }
        for command in self.side.quit() {
            let taken = world.session.command(command, world.now);
            taken.expect("in order");
        }
    }

    /// One message; `Over` when it is done in whatever way.
    fn message(&mut self, world: &mut World) -> Said {
        self.messages += 1;
        world.messages += 1;
        self.told = Told {
            message: format!("<{}@x>", world.messages),
            ..Told::default()
        };
        let said = self.events(world);
        if said == Said::Go && !self.told.recipients.is_empty() && !self.side.is_muted() {
            return match self.tell(world, Event::EndOfMessage) {
                Said::Gone => Said::Gone,
                Said::Go | Said::Over => Said::Over,
            };
        }
        if said != Said::Gone {
            return match self.tell(world, Event::Abort) {
                Said::Gone => Said::Gone,
                Said::Go | Said::Over => Said::Over,
            };
        }
        said
    }

    /// Everything of a message up to its end.
    fn events(&mut self, world: &mut World) -> Said {
        let path = |address: String| Path {
            address: Bytes::from(address),
            args: Vec::new(),
        };
        let mut events = vec![Event::Mail(path(self.told.message.clone()))];
        for number in 0..=world.dice.roll(3) {
            events.push(Event::Rcpt(path(format!("<r{number}@x>"))));
        }
        if world.dice.once_in(8) {
            events.push(Event::Unknown(Bytes::from_static(b"XYZZY")));
        }
        events.push(Event::Data);
        for number in 0..world.dice.roll(4) {
            let value = format!(" {number} of {}", self.told.message);
            events.push(Event::Header(Header::new("Field", value)));
        }
        events.push(Event::EndOfHeaders);
        for number in 0..world.dice.roll(6) {
            let line = format!("{number} of {}\r\n", self.told.message);
            let lines = usize::from(world.dice.roll(u8::MAX)) + 1;
            events.push(Event::Body(Bytes::from(line.repeat(lines))));
        }
        for event in events {
            if matches!(event, Event::Data) && self.told.recipients.is_empty() {
                return Said::Over;
            }
            if world.dice.once_in(100) {
                return Said::Over;
            }
            if self.side.is_muted() || (self.told.skips && matches!(event, Event::Body(_))) {
                continue;
            }
            match self.tell(world, event) {
                Said::Go => {}
                over => return over,
            }
        }
        Said::Go
    }

    /// Tells of an event and everything that goes with it.
    fn tell(&mut self, world: &mut World, event: Event) -> Said {
        let mut next = Some(event);
        let mut said = Said::Go;
        while let Some(event) = next.take() {
            assert!(world.said.is_empty(), "unasked: {:?}", world.said);
            let macros = macros(world, &event);
            let sent = self.side.send(event.clone(), macros.as_deref());
            let sent = sent.expect("in order");
            for command in sent.commands {
                let ready = |world: &World| world.session.wants_input();
                world.until("its turn", Duration::from_secs(600), ready);
                world.tell_story(|| format!("mta -> {command:?}"));
                let taken = world.session.command(command, world.now);
                taken.expect("in order");
            }
            if world.dice.once_in(200) {
                world.session.closed(world.now);
                world.gone = true;
                return Said::Gone;
            }
            said = if sent.expect == Expect::Nothing {
                world.settle();
                assert!(world.said.is_empty(), "unasked: {:?}", world.said);
                self.went_by(&event, false);
                Said::Go
            } else {
                self.answer(world, &event)
            };
            next = sent.then.filter(|_| said == Said::Go);
        }
        said
    }

    /// Waits for the answer and takes it.
    fn answer(&mut self, world: &mut World, event: &Event) -> Said {
        let at_end = matches!(event, Event::EndOfMessage);
        // The end of the message has 240 s, everything else 25 s at most.
        let limit = Duration::from_secs(if at_end { 241 } else { 26 });
        let is_word = |reply: &Reply| !matches!(reply, Reply::Progress | Reply::Edit(_));
        let answered = |world: &World| world.said.iter().any(is_word);
        world.until("an answer", limit, answered);
        let mut edits = Vec::new();
        let mut word = None;
        while let Some(reply) = world.said.pop_front() {
            assert!(word.is_none(), "{reply:?} behind the answer {word:?}");
            let in_place = at_end || !matches!(reply, Reply::Progress);
            assert!(in_place, "progress before the end of the message");
            let answer = self.side.receive(reply.clone());
            match answer.unwrap_or_else(|error| panic!("{reply:?} at {event:?}: {error}")) {
                Answer::Progress => assert!(edits.is_empty(), "progress between edits"),
                Answer::Edit(edit) => edits.push(edit),
                Answer::Verdict(verdict) => word = Some(verdict),
                Answer::Skip => {
                    self.told.skips = true;
                    word = Some(Verdict::Continue);
                }
            }
        }
        let word = word.expect("waited for it");
        self.check_text(world, event, &word);
        let code = event.clone().into_command().code();
        *self.told.counts.entry(code).or_default() += 1;
        self.conclude(world, event, &word, &edits)
    }

    fn conclude(&mut self, world: &World, event: &Event, word: &Verdict, edits: &[Edit]) -> Said {
        let at_end = matches!(event, Event::EndOfMessage);
        assert!(
            edits.is_empty() || *word == Verdict::Continue,
            "edits with {word:?}"
        );
        match word {
            Verdict::Continue if at_end => self.check_passed(world, edits),
            Verdict::Continue => self.went_by(event, false),
            Verdict::Accept if matches!(event, Event::Connect(_) | Event::Helo(_)) => {
                let all = world.filters.iter().all(|filter| filter.accepted_client);
                assert!(all, "accepted by the proxy alone");
                return Said::Over;
            }
            Verdict::Accept => {
                for filter in &world.filters {
                    let own = filter.seen.accepted && filter.seen.message == self.told.message;
                    assert!(own || filter.accepted_client, "accepted unseen");
                }
            }
            Verdict::Reply(_) if matches!(event, Event::Unknown(_)) => return Said::Go,
            Verdict::Discard => return Said::Over,
            _ if matches!(event, Event::Rcpt(_)) => {
                self.went_by(event, true);
                if let (Some(by), Event::Rcpt(path)) = (refuser(word), event) {
                    self.told.refused.push((text(&path.address), by));
                }
            }
            _ => return Said::Over,
        }
        Said::Go
    }

    /// Notes what is part of the message now.
    fn went_by(&mut self, event: &Event, refused: bool) {
        match event {
            Event::Rcpt(path) if !refused => self.told.recipients.push(text(&path.address)),
            Event::Header(header) => {
                let value = text(&header.value);
                let line = format!("{}:{}", text(&header.name), value.trim_start());
                self.told.header.push(line);
            }
            Event::Body(chunk) => self.told.body.extend_from_slice(chunk),
            _ => {}
        }
    }

    /// A refusal is the word of the first filter that refused just this.
    fn check_text(&self, world: &World, event: &Event, word: &Verdict) {
        let Some(by) = refuser(word) else { return };
        if let Verdict::Reply(reply) = word
            && !matches!(
                event,
                Event::Connect(_) | Event::Helo(_) | Event::Unknown(_)
            )
        {
            let said = String::from_utf8_lossy(reply.as_bytes()).into_owned();
            // Told of the client anew, a filter may refuse that.
            let of_client = !said.contains("no to <");
            let own = of_client || said.contains(&self.told.message);
            assert!(own, "of another message: {said}");
        }
        let code = event.clone().into_command().code();
        let nth = self.told.counts.get(&code).copied().unwrap_or(0);
        let this = (self.told.message.clone(), char::from(code), nth);
        for filter in &world.filters[..by] {
            let refused = filter.refusals.contains(&this) && !filter.failed;
            assert!(!refused, "{by} answers for {} at {this:?}", filter.number);
        }
    }

    /// What must hold of a message that passed.
    fn check_passed(&self, world: &World, edits: &[Edit]) {
        let quarantined = edits
            .iter()
            .any(|edit| matches!(edit, Edit::Quarantine { .. }));
        let mut body = self.told.body.clone();
        let mut expected = Expected::default();
        for (index, filter) in world.filters.iter().enumerate() {
            let seen = &filter.seen;
            let is_own = seen.message == self.told.message;
            let done = filter.accepted_client || (is_own && seen.accepted);
            let passed = seen.passed.as_ref().filter(|_| is_own && !done);
            let excused = match world.members[index].on_failure {
                OnFailure::Accept => filter.failed || world.is_disturbed(),
                OnFailure::Quarantine => quarantined && (filter.failed || world.is_disturbed()),
                OnFailure::TempFail | OnFailure::Reject => world.strict && quarantined,
            };
            assert!(
                done || passed.is_some() || excused,
                "{index}: passed unseen"
            );
            let Some(own) = passed else { continue };
            assert_eq!(filter.client, self.name, "{index} knows another client");
            let counted = if filter.failed && filter.marks() {
                is_marked(edits, filter)
            } else {
                true
            };
            if !counted {
                assert!(filter.failed, "{index}: its edits are lost");
                continue;
            }
            if !world.is_disturbed() || world.filters.iter().all(Filter::marks) {
                self.check_seen(world, index, &expected, &body);
            }
            if let Some(new) = replaced(own) {
                body = new;
            }
            expected.add(index, own);
        }
        if !world.is_disturbed() || world.filters.iter().all(Filter::marks) {
            expected.check(edits, (body != self.told.body).then_some(&body));
        }
    }

    /// Header, body and envelope as a filter was shown them.
    fn check_seen(&self, world: &World, index: usize, expected: &Expected, body: &[u8]) {
        let filter = &world.filters[index];
        let seen: &Seen = &filter.seen;
        // Members of one group are not shown each other's edits.
        let alone = !world.groups[..index].contains(&world.groups[index]);
        if !alone || world.side_left_out(self) {
            return;
        }
        if !filter.has(Steps::NO_HEADERS) {
            let marks = expected.marks.iter();
            let marks = marks.map(|by| format!("X-{by}:{}", self.told.message));
            let header: Vec<String> = self.told.header.iter().cloned().chain(marks).collect();
            assert_eq!(seen.header, header, "the header that {index} saw");
        }
        if !filter.has(Steps::NO_BODY) {
            let same = if seen.skipped || self.told.skips {
                body.starts_with(&seen.body)
            } else {
                body == seen.body
            };
            assert!(same, "{index} saw another body: {:?}", show(&seen.body));
        }
        if !filter.has(Steps::NO_RCPT) {
            let all = self.told.recipients.iter();
            assert!(
                all.clone().all(|one| seen.recipients.contains(one)),
                "{index}: {seen:?}"
            );
            for (refused, by) in &self.told.refused {
                let knows = seen.recipients.contains(refused);
                let excused = *by >= index || world.is_disturbed();
                assert!(excused || !knows, "{index} knows of {refused}");
            }
        }
    }
}

impl World {
    /// Whether the MTA leaves out what filters could see.
    fn side_left_out(&self, client: &Client) -> bool {
        let left_out = Steps::NO_HEADERS | Steps::NO_BODY | Steps::NO_RCPT;
        client.side.options().steps.intersects(left_out)
    }
}

/// The edits that the MTA must get.
#[derive(Debug, Default)]
struct Expected {
    /// Filters whose field is there.
    marks: Vec<usize>,
    envelope: Vec<Edit>,
}

impl Expected {
    fn add(&mut self, index: usize, own: &[Edit]) {
        for edit in own {
            match edit {
                Edit::AddHeader { .. } => self.marks.push(index),
                Edit::AddRecipient { .. } | Edit::DeleteRecipient { .. } => {
                    self.envelope.push(edit.clone());
                }
                Edit::ChangeSender { .. } => {
                    self.envelope
                        .retain(|other| !matches!(other, Edit::ChangeSender { .. }));
                    self.envelope.push(edit.clone());
                }
                _ => {}
            }
        }
    }

    fn check(&self, edits: &[Edit], body: Option<&Vec<u8>>) {
        let fields: Vec<String> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::AddHeader { name, .. } => Some(text(name)),
                Edit::InsertHeader { .. } | Edit::ChangeHeader { .. } => Some(format!("{edit:?}")),
                _ => None,
            })
            .collect();
        let marks: Vec<String> = self.marks.iter().map(|by| format!("X-{by}")).collect();
        assert_eq!(fields, marks, "the header's edits");
        let envelope: Vec<Edit> = edits
            .iter()
            .filter(|edit| {
                matches!(
                    edit,
                    Edit::AddRecipient { .. }
                        | Edit::DeleteRecipient { .. }
                        | Edit::ChangeSender { .. }
                )
            })
            .cloned()
            .collect();
        assert_eq!(envelope, self.envelope, "the envelope's edits");
        if let Some(body) = body {
            assert_eq!(replaced(edits).as_ref(), Some(body), "the new body");
        }
    }
}

/// Whether a filter's mark is among the edits.
fn is_marked(edits: &[Edit], filter: &Filter) -> bool {
    let mark = format!("X-{}", filter.number);
    edits
        .iter()
        .any(|edit| matches!(edit, Edit::AddHeader { name, .. } if *name == mark.as_bytes()))
}

/// The body that edits put in place of the old one.
fn replaced(edits: &[Edit]) -> Option<Vec<u8>> {
    let pieces = edits.iter().filter_map(|edit| match edit {
        Edit::ReplaceBody(piece) => Some(&piece[..]),
        _ => None,
    });
    let pieces: Vec<&[u8]> = pieces.collect();
    (!pieces.is_empty()).then(|| pieces.concat())
}

/// The filter that a refusal's text names.
fn refuser(word: &Verdict) -> Option<usize> {
    let Verdict::Reply(reply) = word else {
        return None;
    };
    let said = String::from_utf8_lossy(reply.as_bytes()).into_owned();
    let (_, rest) = said.split_once("filter ")?;
    rest.split(' ').next()?.parse().ok()
}

/// The macros that go with an event.
fn macros(world: &mut World, event: &Event) -> Option<Vec<(Bytes, Bytes)>> {
    let pair = |name: &'static str, value: &'static str| {
        vec![(
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value.as_bytes()),
        )]
    };
    match event {
        Event::Connect(_) => {
            let version = VERSIONS[usize::from(world.dice.roll(3))];
            Some(pair("v", version)).filter(|_| !version.is_empty())
        }
        Event::Mail(_) | Event::EndOfMessage if world.dice.once_in(2) => Some(pair("i", "QID")),
        Event::Rcpt(_) if world.dice.once_in(3) => Some(pair("{rcpt_mailer}", "smtp")),
        _ => None,
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(bytes: &[u8]) -> String {
    let begin = &bytes[..bytes.len().min(80)];
    format!("{} bytes, {}", bytes.len(), begin.escape_ascii())
}
