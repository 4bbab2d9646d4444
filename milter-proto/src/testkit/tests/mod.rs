//! The scripted peers themselves: that they do what the script says.

#[cfg(feature = "net")]
mod sockets;
mod text;

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::edit::Edit;
use crate::message::Path;
use crate::testkit::*;
use crate::wire::{Actions, Command, Offer, Reply, Steps, WireError};

fn mail(address: &'static str) -> Command {
    Command::Mail(path(address))
}

fn rcpt(address: &'static str) -> Command {
    Command::Rcpt(path(address))
}

fn path(address: &'static str) -> Path {
    Path {
        address: Bytes::from_static(address.as_bytes()),
        args: Vec::new(),
    }
}

fn end() -> Command {
    Command::EndOfMessage(Bytes::new())
}

fn said(reply: Reply) -> Vec<Act> {
    vec![Act::Say(reply)]
}

#[test]
fn what_is_not_said_is_done_right() {
    let script = FilterScript::new("x")
        .actions(Actions::ADD_HEADERS | Actions::QUARANTINE)
        .steps(Steps::NR_RCPT | Steps::SKIP | Steps::LEADING_SPACE);
    let mut filter = ScriptedFilter::new(script);
    let offered = Offer {
        version: 4,
        actions: Actions::ADD_HEADERS,
        steps: Steps::NR_RCPT | Steps::NR_MAIL,
        macros: Vec::new(),
    };
    let agreed = Offer {
        steps: Steps::NR_RCPT,
        ..offered.clone()
    };
    let acts = filter.hear(&Command::Negotiate(offered));
    assert_eq!(acts, said(Reply::Negotiate(agreed.clone())));
    assert_eq!(filter.agreed(), Some(&agreed));
    assert_eq!(filter.hear(&mail("<a@x>")), said(Reply::Continue));
    assert_eq!(filter.hear(&rcpt("<b@x>")), []);
    assert_eq!(filter.hear(&end()), said(Reply::Continue));
    assert_eq!(filter.hear(&Command::Abort), []);
    assert_eq!(filter.hear(&Command::QuitReuse), []);
    assert_eq!(filter.hear(&Command::Quit), [Act::Close]);
}

#[test]
fn the_last_cue_that_fits_counts() {
    let verdict = |reply: Reply| said(reply);
    let script = FilterScript::new("x")
        .at(At::Rcpt, verdict(Reply::Skip))
        .cue(Cue::new(At::Rcpt, verdict(Reply::Reject)).nth(2))
        .cue(
            Cue::new(At::Rcpt, verdict(Reply::TempFail))
                .nth(2)
                .message(2),
        )
        .cue(Cue::new(At::Rcpt, verdict(Reply::Discard)).nth_of_connection(5))
        .cue(Cue::new(At::Rcpt, verdict(Reply::Accept)).connection(2));
    let hear = |connection: u32| {
        let mut filter = ScriptedFilter::on_connection(script.clone(), connection);
        let mut heard = Vec::new();
        for command in [
            mail("<1@x>"),
            rcpt("<a@x>"),
            rcpt("<b@x>"),
            mail("<2@x>"),
            rcpt("<a@x>"),
            rcpt("<b@x>"),
            rcpt("<c@x>"),
        ] {
            heard.extend(filter.hear(&command));
        }
        let text = |act: &Act| Text(act).to_string();
        heard.iter().map(text).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        hear(1),
        "continue skip reject continue skip tempfail discard"
    );
    assert_eq!(
        hear(2),
        "continue accept accept continue accept accept accept"
    );
}

#[test]
fn a_transcript_knows_the_messages() {
    let mut filter = ScriptedFilter::on_connection(FilterScript::new("x"), 7);
    let commands = [
        Command::Helo(Bytes::from_static(b"h")),
        mail("<1@x>"),
        Command::Abort,
        mail("<2@x>"),
        end(),
        // MAIL was negotiated away, say.
        rcpt("<b@x>"),
        end(),
        Command::Quit,
    ];
    for command in &commands {
        filter.hear(command);
    }
    let transcript = filter.take_transcript();
    let numbers: Vec<u32> = transcript.iter().map(|told| told.message).collect();
    assert_eq!(numbers, [0, 1, 1, 2, 2, 3, 3, 0]);
    assert!(transcript.iter().all(|told| told.connection == 7));
    assert_eq!(filter.transcript(), []);
}

#[test]
fn an_answer_in_bytes_is_an_agreement_too() {
    let mut answer = BytesMut::new();
    let offer = Offer {
        steps: Steps::NR_ALL,
        ..Offer::full()
    };
    Reply::Negotiate(offer.clone()).encode(&mut answer).unwrap();
    let script = FilterScript::new("x").at(At::Negotiate, [Act::Raw(answer.freeze())]);
    let mut filter = ScriptedFilter::new(script);
    filter.hear(&Command::Negotiate(Offer::full()));
    assert_eq!(filter.agreed(), Some(&offer));
    assert_eq!(filter.hear(&mail("<1@x>")), []);
}

#[test]
fn what_is_no_command_closes() {
    let mut filter = ScriptedFilter::new(FilterScript::new("x"));
    let mut input = BytesMut::from(&b"\0\0\0\x05Ux y\0\0\0\0\x01!rest"[..]);
    let acts = filter.read(&mut input);
    assert_eq!(acts, [Act::Say(Reply::Continue), Act::Close]);
    let last = &filter.transcript()[1].command;
    assert_eq!(last, &Err(WireError::UnknownCode(b'!')));
}

/// Plays both sides against each other in memory.
fn rehearse(mta: &str, filter: &str) -> Result<(), Mismatch> {
    let text = format!("filter x\n{filter}\nmta\n{mta}");
    let scenario = Scenario::parse("test", &text).unwrap();
    let mut filter = ScriptedFilter::new(scenario.filters[0].clone());
    let mut mta = ScriptedMta::new(scenario.mtas[0].clone());
    let mut input = BytesMut::new();
    let mut replies = Vec::new().into_iter();
    loop {
        let acts = match mta.next_step() {
            MtaStep::Send(command) => filter.hear(&command),
            MtaStep::Raw(bytes) => {
                input.extend_from_slice(&bytes);
                filter.read(&mut input)
            }
            MtaStep::Wait(_) => Vec::new(),
            MtaStep::Close | MtaStep::Done => return Ok(()),
            MtaStep::Listen if replies.as_slice().is_empty() => {
                mta.silent();
                continue;
            }
            MtaStep::Read | MtaStep::Listen => {
                match replies.next() {
                    Some(Act::Say(reply)) => mta.told(Some(reply))?,
                    Some(_) => mta.told(None)?,
                    None => return Err(mta.overdue()),
                }
                continue;
            }
        };
        replies = replies.chain(acts).collect::<Vec<_>>().into_iter();
    }
}

#[test]
fn an_mta_expects() {
    let check = |mta: &str, filter: &str, error: &str| {
        let outcome = rehearse(mta, filter).map_err(|mismatch| mismatch.to_string());
        let expected = match error {
            "" => Ok(()),
            error => Err(error.to_owned()),
        };
        assert_eq!(outcome, expected, "{mta}");
    };
    check("> mail \"<a>\"\n< continue\n> quit\n< closed", "", "");
    check("> abort\n< nothing\n> end\n< any continue", "", "");
    let marks = "at end: progress; add \"A\" \"v\"; progress; accept";
    check("> end\n< add \"A\" \"v\"; accept", marks, "");
    check("> end\n< progress; any add; accept", marks, "");
    check(
        "> end\n< continue",
        marks,
        "turn 2, after end: expected continue, add \"A\" \"v\" came",
    );
    check(
        "> abort\n< continue",
        "",
        "turn 2, after abort: expected continue, nothing came",
    );
    check(
        "> quit\n< continue",
        "",
        "turn 2, after quit: expected continue, the end came",
    );
    check(
        "> end\n< nothing",
        "",
        "turn 2, after end: expected nothing, continue came",
    );
}

#[test]
fn acts_have_bytes() {
    let check = |act: Act, bytes: &[u8]| {
        let mut out = BytesMut::new();
        act.encode(&mut out).unwrap();
        assert_eq!(out, bytes);
    };
    check(Act::Say(Reply::Continue), b"\0\0\0\x01c");
    check(Act::Raw(Bytes::from_static(b"x")), b"x");
    check(Act::Wait(Duration::from_secs(1)), b"");
    let acts = Act::edits([Edit::add("A", "b\0c")], Reply::Continue);
    assert!(acts[0].encode(&mut BytesMut::new()).is_err());
}
