//! Negotiations by chance, held against the rules for a proxy between one MTA and several filters.
//!
//! The rules are written with the numbers of the wire, apart from the code. What a filter answers
//! goes through the protocol crate's side for MTAs first, as it does in a session; what comes of it
//! goes to the MTA through the same.

use std::time::{Duration, Instant};

use bolero::produce;
use bytes::Bytes;
use milter_proto::session::MtaSide;
use milter_proto::wire::options::MacroStage;
use milter_proto::wire::{Actions, Offer, Reply, Steps};

use super::whole::dice::Dice;
use crate::proxy::offer::{self, Wish};

/// An event: the flag that leaves it out, and the one that promises not to answer it.
type Event = (u32, u32);

const CONNECT: Event = (0x01, 0x1000);
const HELO: Event = (0x02, 0x2000);
const MAIL: Event = (0x04, 0x4000);
const RCPT: Event = (0x08, 0x8000);
const BODY: Event = (0x10, 0x8_0000);
const HEADERS: Event = (0x20, 0x80);
const END_OF_HEADERS: Event = (0x40, 0x4_0000);
const UNKNOWN: Event = (0x100, 0x2_0000);
const DATA: Event = (0x200, 0x1_0000);

const EVENTS: [Event; 9] = [
    CONNECT,
    HELO,
    MAIL,
    RCPT,
    BODY,
    HEADERS,
    END_OF_HEADERS,
    UNKNOWN,
    DATA,
];

const SKIP: u32 = 0x400;
const RCPT_REJECTED: u32 = 0x800;
const LEADING_SPACE: u32 = 0x10_0000;
const STEPS_KNOWN: u32 = 0x1f_ffff;
/// Frame sizes, which are never agreed on.
const SIZES: u32 = 0x3000_0000;

const ADD_HEADERS: u32 = 0x01;
const ADD_RECIPIENT: u32 = 0x04;
const CHANGE_HEADERS: u32 = 0x10;
const QUARANTINE: u32 = 0x20;
const ADD_RECIPIENT_ARGS: u32 = 0x80;
const LISTS: u32 = 0x100;
const ACTIONS_KNOWN: u32 = 0x1ff;

/// Names in a list at most, by Sendmail.
const NAMES_MAX: usize = 50;

/// Real time for one input.
const TIME_MAX: Duration = Duration::from_secs(30);

/// A filter: its answer where it could be asked, and what it is here for.
struct Filter {
    answer: Option<Offer>,
    shadow: bool,
    quarantines: bool,
}

impl Filter {
    /// Whether it may do that; one that could not be asked may do everything.
    fn may(&self, action: u32) -> bool {
        let own = self
            .answer
            .as_ref()
            .is_none_or(|answer| answer.actions.bits() & action != 0);
        (own && !self.shadow) || (self.quarantines && action == QUARANTINE)
    }

    /// Whether it has said one of these; one that could not be asked says nothing.
    fn says(&self, steps: u32) -> bool {
        self.answer
            .as_ref()
            .is_some_and(|answer| answer.steps.bits() & steps != 0)
    }
}

/// Flags of any kind: few, many, or those known only.
fn flags(dice: &mut Dice, known: u32) -> u32 {
    let mut word = || u32::from_be_bytes([0; 4].map(|_: u8| dice.roll(255)));
    let (one, other) = (word(), word());
    match dice.roll(5) {
        0 => known,
        1 => one & other,
        2 => one | other,
        3 => 0,
        _ => one & known,
    }
}

fn list(dice: &mut Dice) -> Bytes {
    let names = match dice.roll(4) {
        0 => 0,
        1 | 2 => dice.roll(6),
        _ => dice.roll(90),
    };
    let mut text = String::new();
    for _ in 0..names {
        let number = dice.roll(80);
        text.push_str(&match dice.roll(5) {
            0 => "i".to_owned(),
            1 => "{i}".to_owned(),
            2 => format!("{{x{number}}},"),
            _ => format!("x{number}"),
        });
        text.push(' ');
    }
    Bytes::from(text)
}

fn lists(dice: &mut Dice) -> Vec<(MacroStage, Bytes)> {
    (0..7)
        .filter_map(|code| {
            let stage = MacroStage::ALL.get(code).copied()?;
            dice.once_in(3).then(|| (stage, list(dice)))
        })
        .collect()
}

fn filter(dice: &mut Dice, offered: &Offer) -> Filter {
    let (mut side, _) = MtaSide::offer(offered.version, offered.actions, offered.steps);
    let reply = Offer {
        version: 2 + u32::from(dice.roll(6)),
        actions: Actions::from_bits_retain(flags(dice, ACTIONS_KNOWN)),
        steps: Steps::from_bits_retain(flags(dice, STEPS_KNOWN)),
        macros: lists(dice),
    };
    let taken = side.negotiated(Reply::Negotiate(reply)).is_ok();
    Filter {
        answer: taken.then(|| side.options().clone()),
        shadow: dice.once_in(6),
        quarantines: dice.once_in(6),
    }
}

fn run(bytes: &[u8]) {
    let begin = Instant::now();
    let mut dice = Dice::new(bytes);
    let said = Offer {
        version: 2 + u32::from(dice.roll(7)),
        actions: Actions::from_bits_retain(flags(&mut dice, ACTIONS_KNOWN)),
        steps: Steps::from_bits_retain(flags(&mut dice, STEPS_KNOWN)),
        macros: Vec::new(),
    };
    let mta = offer::normalise(&said);
    let offered = offer::for_filter(&mta);
    check_offer(&said, &offered);
    let count = dice.roll(5);
    let filters: Vec<Filter> = (0..count).map(|_| filter(&mut dice, &offered)).collect();
    let wishes: Vec<Wish<'_>> = filters
        .iter()
        .map(|filter| Wish {
            answer: filter.answer.as_ref(),
            shadow: filter.shadow,
            quarantines: filter.quarantines,
        })
        .collect();
    let merged = offer::merge(&mta, &wishes);
    assert_eq!(merged.version, said.version.min(6));
    let mta_actions = or_else(said.actions.bits() & ACTIONS_KNOWN, 0x0f);
    let mta_steps = or_else(said.steps.bits() & (STEPS_KNOWN | SIZES), 0x3f) & !SIZES;
    check_events(&filters, mta_steps, merged.steps.bits());
    check_actions(&filters, mta_actions, merged.actions.bits());
    check_lists(&filters, mta_actions, &merged);
    let (mut side, _) = MtaSide::offer(mta.version, mta.actions, mta.steps);
    assert_eq!(side.negotiated(Reply::Negotiate(merged)), Ok(Vec::new()));
    assert!(begin.elapsed() < TIME_MAX, "took {:?}", begin.elapsed());
}

/// What "nothing" stands for in an offer.
fn or_else(flags: u32, nothing: u32) -> u32 {
    if flags == 0 { nothing } else { flags }
}

/// A filter is offered what can be made up for, and of all else what the MTA has.
fn check_offer(mta: &Offer, offered: &Offer) {
    let actions = or_else(mta.actions.bits() & ACTIONS_KNOWN, 0x0f);
    let passed_on = mta.steps.bits() & (RCPT_REJECTED | LEADING_SPACE);
    let made_up = EVENTS.iter().fold(SKIP, |all, (no, nr)| all | no | nr);
    assert_eq!(offered.version, 6);
    assert_eq!(offered.actions.bits(), actions);
    assert_eq!(offered.steps.bits(), made_up | passed_on);
    assert!(offered.macros.is_empty());
}

fn check_events(filters: &[Filter], mta: u32, merged: u32) {
    assert_eq!(merged & !mta, 0, "more than was offered");
    let has = |flag: u32| merged & flag != 0;
    for (no, nr) in EVENTS {
        let wanted = filters.iter().any(|filter| !filter.says(no));
        assert!(!(wanted && has(no)), "{no:#x} is wanted and left out");
        // What a shadow says is not passed on.
        let mut heard = filters.iter().filter(|filter| !filter.shadow);
        let answered = heard.any(|filter| !filter.says(no | nr));
        assert!(!(answered && has(nr)), "{nr:#x} is promised and broken");
        let due = !answered && mta & nr != 0 && !has(no) && (no, nr) != MAIL;
        assert!(!due || has(nr), "{nr:#x}: answers that nobody gives");
    }
    // Sendmail does not abort a message whose MAIL needed no answer.
    assert!(!has(MAIL.0 | MAIL.1 | CONNECT.0), "needed by the proxy");
    for (no, _) in [BODY, END_OF_HEADERS, UNKNOWN, DATA] {
        let unwanted = filters.iter().all(|filter| filter.says(no));
        assert_eq!(has(no), unwanted && mta & no != 0, "{no:#x}");
    }
    let touches = |filter: &Filter| filter.may(ADD_HEADERS) || filter.may(CHANGE_HEADERS);
    if filters.iter().any(touches) {
        assert!(!has(HEADERS.0), "edits that cannot be placed");
    }
    let rejected = filters.iter().any(|filter| filter.says(RCPT_REJECTED));
    assert_eq!(has(RCPT_REJECTED), rejected && mta & RCPT_REJECTED != 0);
    assert_eq!(
        merged & (SKIP | LEADING_SPACE),
        mta & (SKIP | LEADING_SPACE)
    );
}

fn check_actions(filters: &[Filter], mta: u32, merged: u32) {
    assert_eq!(merged & !mta, 0, "more than was offered");
    for bit in 0..8 {
        let action = 1 << bit;
        let wanted = filters.iter().any(|filter| filter.may(action));
        // A change of what is not there adds it; a recipient may have no parameters.
        let other = match action {
            ADD_HEADERS => CHANGE_HEADERS,
            ADD_RECIPIENT => ADD_RECIPIENT_ARGS,
            other => other,
        };
        let written = wanted || filters.iter().any(|filter| filter.may(other));
        let has = merged & action != 0;
        assert!(has || !wanted || mta & action == 0, "{action:#x} is needed");
        assert!(!has || written, "{action:#x} is nobody's");
    }
}

fn check_lists(filters: &[Filter], mta: u32, merged: &Offer) {
    let asks = merged.actions.bits() & LISTS != 0;
    assert_eq!(asks, !merged.macros.is_empty(), "lists without their flag");
    assert!(!asks || mta & LISTS != 0, "lists that nobody takes");
    let find = |stage: MacroStage| merged.macros.iter().filter(move |(at, _)| *at == stage);
    for stage in MacroStage::ALL {
        assert!(find(stage).count() <= 1, "{stage:?} twice");
    }
    let ends = [MacroStage::EndOfMessage, MacroStage::EndOfHeaders];
    let [one, other] = ends.map(|stage| find(stage).count());
    assert_eq!(one, other, "one end without the other");
    for (stage, names) in &merged.macros {
        let names = split(names);
        assert!(!names.is_empty(), "{stage:?} asks for nothing");
        assert!(names.len() <= NAMES_MAX, "{stage:?}: {}", names.len());
    }
    if mta & LISTS == 0 {
        return;
    }
    for filter in filters {
        let answer = filter.answer.as_ref();
        for (stage, own) in answer.iter().flat_map(|answer| &answer.macros) {
            let merged = find(*stage).next();
            let merged = merged.map(|(_, names)| split(names)).unwrap_or_default();
            for name in split(own) {
                let there = merged.contains(&name) || merged.len() == NAMES_MAX;
                assert!(there, "{stage:?}: {name} is missing in {merged:?}");
            }
        }
    }
    // A filter without a list of its own counts on what comes unasked.
    let unasked = [
        (MacroStage::Connect, "j"),
        (MacroStage::Connect, "v"),
        (MacroStage::Connect, "daemon_name"),
        (MacroStage::Helo, "tls_version"),
        (MacroStage::Mail, "auth_authen"),
        (MacroStage::Mail, "i"),
        (MacroStage::Rcpt, "rcpt_addr"),
        (MacroStage::EndOfMessage, "i"),
    ];
    for (stage, name) in unasked {
        for (_, names) in find(stage) {
            assert!(split(names).contains(&name.to_owned()), "{stage:?}: {name}");
        }
    }
}

/// The names of a list, without braces.
fn split(list: &Bytes) -> Vec<String> {
    let text = String::from_utf8_lossy(list).into_owned();
    text.split([' ', ','])
        .filter(|name| !name.is_empty())
        .map(|name| name.replace(['{', '}'], ""))
        .collect()
}

#[test]
fn fuzz_negotiation() {
    bolero::check!()
        .with_generator(produce::<Vec<u8>>().with().len(0..400_usize))
        .with_iterations(3000)
        .with_shrink_time(Duration::from_secs(1))
        .for_each(|bytes| run(bytes));
}
