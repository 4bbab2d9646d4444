//! Random scenarios: what filters negotiate, say and change, and what a client says to the server.
//!
//! The same seed gives the same scenario. What the orchestrator does otherwise on purpose is taken
//! out of it by [`super::deviations`]. A filter here breaks no protocol: it asks for what it uses,
//! and answers just where it owes an answer; but its replies can be as odd as libmilter lets them.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::testkit::{Act, At, Chain, Cue, FilterScript, Scenario};
use milter_proto::verdict::SmtpReply;
use milter_proto::wire::{Actions, MacroStage, Offer, Reply, Steps, VERSION};

use super::dialogue;
use super::dice::Dice;

/// Names that messages and filters both use, some of them often.
pub(super) const NAMES: &[&str] = &[
    "X-A",
    "x-a",
    "X-A",
    "X-B",
    "X-b",
    "Subject",
    "Received",
    "received",
    "X-Other",
    "From",
    "To",
    "Message-Id",
    "Date",
    "DKIM-Signature",
    "Reply-To",
];

/// Positions that are easily got wrong.
const INDEXES: &[u32] = &[
    0,
    0,
    1,
    1,
    1,
    2,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    10,
    12,
    100,
    0x7fff_ffff,
];

const VALUES: &[&str] = &[
    "v1",
    "v2",
    "",
    " two spaces",
    "\ttab",
    "a\n\tfolded",
    "a\n b\n  c",
    "caf\u{e9}",
    "=?utf-8?q?x?=",
    "100% sure",
    "colon: inside",
    "trailing ",
];

/// Payloads of `SMFIR_REPLYCODE` as libmilter writes them, which checks next to nothing.
const REPLIES: &[&str] = &[
    "550 5.7.1 no",
    "554 5.7.1 <a@b>: no; see http://x.test/",
    "451 4.7.1 later",
    "450 4.2.0 not now",
    "550-5.7.1 first\r\n550-5.7.1 second\r\n550 5.7.1 third",
    "450-4.7.1 a\r\n450 4.7.1 b",
    "550-5.7.1 \r\n550-5.7.1 an empty line before\r\n550 5.7.1 ",
    "550 5.7.1 100%% sure",
    "451 4.7.1 %%%% and %%s",
    "450-4.7.1 50%% of\r\n450 4.7.1 100%%",
    "550 no enhanced code",
    "452 neither here",
    "421 4.3.2 closing",
    "421 closing",
    "550 5.7.1 a lone % sign",
    "451 4.7.1 at the end %",
    "450-4.7.1 50% of\r\n450 4.7.1 100% and 100%% and %s",
    "550 4.7.1 another class",
    "451 5.7.1 another class",
    "550-5.7.1 one class\r\n550 4.7.1 another class",
    "550 10 is no code",
    "550 ",
];

/// Where a filter can give a verdict before the end, with the step that keeps it silent there.
const STAGES: &[At] = &[
    At::Connect,
    At::Helo,
    At::Mail,
    At::Rcpt,
    At::Rcpt,
    At::Data,
    At::Header,
    At::EndOfHeaders,
    At::Body,
    At::Unknown,
];

/// The scenario of that seed.
#[must_use]
pub fn scenario(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed);
    let count = *dice.pick(&[2, 3, 3, 4, 4]);
    let filters: Vec<FilterScript> = (0..count).map(|number| filter(&mut dice, number)).collect();
    let names: Vec<String> = filters.iter().map(|filter| filter.name.clone()).collect();
    let mut scenario = Scenario {
        filters,
        chain: Chain::of(names.iter().map(String::as_str)),
        smtp: dialogue::dialogues(&mut dice),
        ..Scenario::default()
    };
    scenario.chain.strict = dice.once_in(2);
    scenario
}

fn filter(dice: &mut Dice, number: usize) -> FilterScript {
    let mut filter = FilterScript::new(format!("f{}", number + 1));
    filter.offer = offer(dice);
    let messages = 1 + dice.roll(2);
    for message in 1..=messages {
        let message = (messages > 1).then(|| u32::try_from(message).unwrap_or(1));
        if !dice.once_in(4) {
            let mut acts = edits(dice, filter.offer.actions);
            acts.push(last_word(dice));
            let mut cue = Cue::new(At::EndOfMessage, acts);
            cue.message = message;
            filter.cues.push(cue);
        }
    }
    if dice.once_in(3) {
        filter.cues.extend(verdict(dice, &filter));
    }
    if dice.once_in(8) {
        filter.cues.extend(verdict(dice, &filter));
    }
    let offer = &filter.offer;
    if offer.steps.contains(Steps::SKIP) && At::Body.owes(offer.steps) && dice.once_in(2) {
        let skip = Cue::new(At::Body, [Act::Say(Reply::Skip)]);
        let nth = 1 + u32::try_from(dice.roll(2)).unwrap_or_default();
        filter.cues.push(skip.nth(nth));
    }
    filter
}

fn offer(dice: &mut Dice) -> Offer {
    let all = Actions::all() - Actions::SET_MACRO_LIST;
    let mut actions = match dice.roll(4) {
        0 => Actions::empty(),
        1 => all,
        _ => any_of(dice, all.iter(), 2).fold(Actions::empty(), |all, one| all | one),
    };
    let often = if dice.once_in(2) { 8 } else { 3 };
    let steps = if dice.once_in(4) {
        Steps::empty()
    } else {
        any_of(dice, Steps::NEGOTIABLE.iter(), often).fold(Steps::empty(), |all, one| all | one)
    };
    let version = if dice.once_in(5) {
        *dice.pick(&[2, 3, 4, 5])
    } else {
        VERSION
    };
    // Lists came with the newest version.
    let macros = if version == VERSION && dice.once_in(4) {
        actions |= Actions::SET_MACRO_LIST;
        macros(dice)
    } else {
        Vec::new()
    };
    Offer {
        version,
        actions,
        steps,
        macros,
    }
}

fn any_of<T>(
    dice: &mut Dice,
    from: impl Iterator<Item = T>,
    once_in: usize,
) -> impl Iterator<Item = T> {
    let chosen: Vec<T> = from.filter(|_| dice.once_in(once_in)).collect();
    chosen.into_iter()
}

fn macros(dice: &mut Dice) -> Vec<(MacroStage, Bytes)> {
    const LISTS: [&str; 8] = [
        "i",
        "i {auth_type} {mail_addr} {rcpt_addr}",
        "j {daemon_name} v {client_addr}",
        "{client_name}, {mail_host}",
        "{rcpt_mailer} {rcpt_host} {rcpt_addr}",
        "{client_ptr} {client_resolve} {client_port} _",
        "{msg_id} {nrcpts} {no_such_macro}",
        "",
    ];
    let stages = any_of(dice, MacroStage::ALL.into_iter(), 3).collect::<Vec<_>>();
    let list = |stage| (stage, Bytes::from_static(dice.pick(&LISTS).as_bytes()));
    stages.into_iter().map(list).collect()
}

/// What it says before the end, at a stage where an answer is owed.
fn verdict(dice: &mut Dice, filter: &FilterScript) -> Option<Cue> {
    let steps = filter.offer.steps;
    let at = if steps.contains(Steps::RCPT_REJECTED) && dice.once_in(3) {
        At::Rcpt
    } else {
        *dice.pick(STAGES)
    };
    if !at.owes(steps) {
        return None;
    }
    let act = match dice.roll(8) {
        // Postfix keeps an acceptance that comes between messages for the next one.
        0 | 1 if at != At::Unknown => Act::Say(Reply::Accept),
        2 => Act::Say(Reply::Reject),
        3 => Act::Say(Reply::TempFail),
        // The server has no use for it before there is a message.
        4 if !matches!(at, At::Connect | At::Helo | At::Unknown) => Act::Say(Reply::Discard),
        _ => reply(dice),
    };
    let mut cue = Cue::new(at, [act]);
    if matches!(at, At::Rcpt | At::Header) && dice.once_in(2) {
        cue = cue.nth(1 + u32::try_from(dice.roll(3)).unwrap_or_default());
    }
    if dice.once_in(3) && !matches!(at, At::Connect | At::Helo | At::Unknown) {
        cue = cue.message(1 + u32::try_from(dice.roll(2)).unwrap_or_default());
    }
    Some(cue)
}

fn last_word(dice: &mut Dice) -> Act {
    Act::Say(match dice.roll(16) {
        0 => Reply::Accept,
        1 => Reply::Reject,
        2 => Reply::TempFail,
        3 => Reply::Discard,
        4 => return reply(dice),
        _ => Reply::Continue,
    })
}

fn reply(dice: &mut Dice) -> Act {
    let text = dice.pick(REPLIES).as_bytes();
    match SmtpReply::parse(text) {
        Ok(reply) if reply.as_bytes() == text => Act::Say(Reply::SmtpReply(reply)),
        // One that our own filters never give.
        _ => frame(b'y', &[text, b"\0"].concat()),
    }
}

/// A reply in the form that the rest of the workspace never writes.
fn frame(code: u8, payload: &[u8]) -> Act {
    let length = u32::try_from(payload.len() + 1).unwrap_or_default();
    let length = length.to_be_bytes();
    Act::Raw(Bytes::from([&length[..], &[code], payload].concat()))
}

/// Changes that these actions allow. Pieces of a body come one after the other.
fn edits(dice: &mut Dice, actions: Actions) -> Vec<Act> {
    let mut edits = Vec::new();
    let count = if dice.once_in(3) { 12 } else { 4 };
    for _ in 0..dice.roll(count) {
        let edit = if dice.once_in(4) {
            envelope_edit(dice)
        } else {
            header_edit(dice)
        };
        edits.push(edit);
        if dice.once_in(8) {
            // The whole of something at once, as a filter that cleans up does it.
            let name = *dice.pick(NAMES);
            let descending = (1..=3).rev().map(|index| Edit::delete(index, name));
            edits.extend(descending);
        }
    }
    edits.retain(|edit| actions.contains(edit.action()));
    if dice.once_in(4) && actions.contains(Actions::CHANGE_BODY) {
        let place = dice.roll(edits.len() + 1);
        let pieces = body(dice).into_iter().map(Edit::ReplaceBody);
        edits.splice(place..place, pieces);
    }
    let edits = edits.into_iter().map(Reply::Edit).map(Act::Say);
    let mut edits: Vec<Act> = edits.collect();
    if dice.once_in(4) && actions.contains(Actions::ADD_RECIPIENT_ARGS) {
        // As `smfi_addrcpt_par` writes it without parameters; not between the pieces of a body.
        edits.insert(0, frame(b'2', b"<par@equal.test>\0"));
    }
    edits
}

fn header_edit(dice: &mut Dice) -> Edit {
    let name = *dice.pick(NAMES);
    let value = Bytes::from_static(dice.pick(VALUES).as_bytes());
    let index = *dice.pick(INDEXES);
    match dice.roll(5) {
        0 => Edit::add(name, value),
        1 | 2 => Edit::insert(index, name, value),
        3 => Edit::change(index, name, value),
        _ => Edit::delete(index, name),
    }
}

fn envelope_edit(dice: &mut Dice) -> Edit {
    let address = |dice: &mut Dice| {
        let forms = [
            "<r1@equal.test>",
            "r2@equal.test",
            "<new@equal.test>",
            "<r1@EQUAL.test>",
        ];
        Bytes::from_static(dice.pick(&forms).as_bytes())
    };
    let none = Bytes::new();
    match dice.roll(6) {
        0 => Edit::AddRecipient {
            address: address(dice),
            args: none,
        },
        1 => Edit::AddRecipient {
            address: address(dice),
            args: Bytes::from_static(
                dice.pick(&[
                    "NOTIFY=NEVER",
                    "NOTIFY=SUCCESS ORCPT=rfc822;o@x.test",
                    "X=1",
                ])
                .as_bytes(),
            ),
        },
        2 => Edit::DeleteRecipient {
            address: address(dice),
        },
        3 => Edit::ChangeSender {
            address: Bytes::from_static(
                dice.pick(&["<new@from.test>", "new2@from.test", "<>"])
                    .as_bytes(),
            ),
            args: Bytes::from_static(dice.pick(&["", "", "RET=HDRS ENVID=e1"]).as_bytes()),
        },
        4 => Edit::Quarantine {
            reason: Bytes::from_static(b"suspicious"),
        },
        _ => header_edit(dice),
    }
}

fn body(dice: &mut Dice) -> Vec<Bytes> {
    let pieces: &[&[u8]] = match dice.roll(8) {
        0 => &[b""],
        1 => &[b"new body\r\n"],
        2 => &[b"no final line end"],
        3 => &[b"bare\nlf\n.\n..\r\n"],
        4 => &[b"cut\r", b"\nin", b" pieces\r\n"],
        5 => &[b"bare\rcr\r\r\nx\r"],
        6 => &[b"\0nul\xff\r\n\r\n"],
        _ => {
            let line = b"0123456789 a line of a long body, to be cut at any place\r\n";
            let long = line.repeat(1200 + dice.roll(1500));
            return long.chunks(65535).map(Bytes::copy_from_slice).collect();
        }
    };
    pieces
        .iter()
        .map(|piece| Bytes::from_static(piece))
        .collect()
}

#[cfg(test)]
mod tests {
    use milter_proto::testkit::SmtpStep;

    use super::*;
    use crate::equivalence::deviations;

    /// The seeds of the ordinary tests.
    fn set(server: &str, seeds: u64) -> Vec<Scenario> {
        let of_seed = |seed| {
            let mut scenario = scenario(seed);
            deviations::leave_out(&mut scenario, server);
            scenario
        };
        (1..=seeds).map(of_seed).collect()
    }

    fn cues(scenario: &Scenario) -> impl Iterator<Item = (&FilterScript, &Cue)> {
        let filters = scenario.filters.iter();
        filters.flat_map(|filter| filter.cues.iter().map(move |cue| (filter, cue)))
    }

    fn says(scenario: &Scenario, text: &str) -> bool {
        scenario.to_string().contains(text)
    }

    fn commands(scenario: &Scenario) -> Vec<String> {
        let steps = scenario.smtp.iter().flat_map(|dialogue| &dialogue.steps);
        let verb = |step: &SmtpStep| match step {
            SmtpStep::Command(line) => {
                String::from_utf8_lossy(&line[..line.len().min(4)]).into_owned()
            }
            SmtpStep::Message(_) => "message".to_owned(),
        };
        steps.map(verb).collect()
    }

    /// A word to the MTA, as opposed to letting pass, at that command.
    fn verdict_at(scenario: &Scenario, at: At) -> bool {
        cues(scenario).any(|(_, cue)| cue.at == at && !cue.acts.is_empty())
    }

    #[test]
    fn the_fixed_set_reaches_every_kind() {
        let set = set("postfix", 80);
        let check = |kind: &str, is: &dyn Fn(&Scenario) -> bool| {
            assert!(set.iter().any(is), "no scenario has {kind}");
        };
        for at in STAGES {
            check(at.name(), &|one| verdict_at(one, *at));
        }
        check("four filters", &|one| one.filters.len() == 4);
        check("a strict route", &|one| one.chain.strict);
        check("a lone %", &|one| {
            let texts = ["a lone % sign", "at the end %", "and %s"];
            texts.iter().any(|text| says(one, text))
        });
        check("another class", &|one| says(one, "another class"));
        check("several lines", &|one| says(one, "\\r\\n"));
        check("no parameters", &|one| says(one, "frame \"2<par"));
        check("parameters", &|one| {
            says(one, "NOTIFY=SUCCESS ORCPT=rfc822;o@x.test")
        });
        check("lists of macros", &|one| says(one, "macros end-of-headers"));
        check("a skipped body", &|one| says(one, ": skip"));
        check("XCLIENT", &|one| commands(one).contains(&"XCLI".to_owned()));
        check("RSET", &|one| commands(one).contains(&"RSET".to_owned()));
        check("several connections", &|one| one.smtp.len() > 1);
        check("a word about refused recipients", &|one| {
            let wants = |filter: &FilterScript| filter.offer.steps.contains(Steps::RCPT_REJECTED);
            cues(one).any(|(filter, cue)| cue.at == At::Rcpt && wants(filter))
        });
        check("a greeting in a message", &|one| {
            let commands = commands(one);
            commands.windows(2).any(|pair| {
                let inside = ["MAIL", "RCPT"].contains(&&*pair[0]);
                inside && ["EHLO", "HELO"].contains(&&*pair[1])
            })
        });
    }

    #[test]
    fn what_is_left_out_is_left_out_at_once() {
        for server in ["postfix", "sendmail"] {
            for (number, scenario) in set(server, 200).iter().enumerate() {
                assert!(
                    deviations::has_none(scenario, server),
                    "seed {}",
                    number + 1
                );
            }
        }
    }
}
