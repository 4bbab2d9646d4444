//! The driving side in single steps.

use bytes::Bytes;

use crate::edit::Edit;
use crate::message::{Address, Connection, Header, Path};
use crate::session::*;
use crate::verdict::Verdict;
use crate::wire::{Actions, CHUNK_MAX, Offer, Reply, Steps};

fn path() -> Path {
    Path {
        address: Bytes::from_static(b"<a@x>"),
        args: Vec::new(),
    }
}

/// An event by the letter of its command.
pub(super) fn event(code: char) -> Event {
    match code {
        'C' => Event::Connect(Connection {
            hostname: Bytes::from_static(b"x"),
            address: Address::Unknown,
        }),
        'H' => Event::Helo(Bytes::from_static(b"h")),
        'M' => Event::Mail(path()),
        'R' => Event::Rcpt(path()),
        'T' => Event::Data,
        'L' => Event::Header(Header::new("X", "v")),
        'N' => Event::EndOfHeaders,
        'B' => Event::Body(Bytes::from_static(b"b")),
        'E' => Event::EndOfMessage,
        'U' => Event::Unknown(Bytes::from_static(b"u")),
        'A' => Event::Abort,
        'K' => Event::QuitReuse,
        other => panic!("{other}"),
    }
}

pub(super) fn reply(code: char) -> Reply {
    match code {
        'c' => Reply::Continue,
        'a' => Reply::Accept,
        'r' => Reply::Reject,
        't' => Reply::TempFail,
        'd' => Reply::Discard,
        's' => Reply::Skip,
        'p' => Reply::Progress,
        'h' => Reply::Edit(Edit::add("X", "v")),
        'b' => Reply::Edit(Edit::ReplaceBody(Bytes::new())),
        'f' => Reply::ConnectionFailed,
        '4' => Reply::Shutdown,
        other => panic!("{other}"),
    }
}

pub(super) fn wish(version: u32, actions: Actions, steps: Steps) -> Reply {
    Reply::Negotiate(Offer {
        version,
        actions,
        steps,
        macros: Vec::new(),
    })
}

/// A conversation in which just these actions were agreed.
pub(super) fn agreed_to(actions: Actions) -> MtaSide {
    let (mut side, _) = MtaSide::offer(6, Actions::all(), Steps::NEGOTIABLE);
    let reply = wish(6, actions, Steps::empty());
    assert_eq!(side.negotiated(reply), Ok(vec![]));
    side
}

pub(super) fn agreed(version: u32, steps: Steps) -> MtaSide {
    let (mut side, _) = MtaSide::offer(6, Actions::all(), Steps::NEGOTIABLE);
    let reply = wish(version, Actions::ADD_HEADERS, steps);
    assert_eq!(side.negotiated(reply), Ok(vec![]));
    side
}

/// Plays a script: upper case sends an event, lower case receives a reply. The log has the commands
/// sent, with `!` for an event or reply that was refused.
pub(super) fn play(side: &mut MtaSide, script: &str) -> String {
    let mut log = String::new();
    let mut waiting = None;
    for code in script.chars() {
        if !code.is_ascii_uppercase() {
            log.push(code);
            if side.receive(reply(code)).is_err() {
                log.push('!');
            }
        } else {
            waiting = Some(event(code));
        }
        while !side.answer_owed() {
            let Some(event) = waiting.take() else { break };
            log.push(' ');
            match side.send(event, None) {
                Ok(sent) => {
                    log.extend(sent.commands.iter().map(|c| char::from(c.code())));
                    waiting = sent.then;
                }
                Err(_) => log.push('!'),
            }
        }
    }
    log
}

pub(super) fn check(version: u32, steps: Steps, script: &str, expected: &str) {
    let mut side = agreed(version, steps);
    let log = play(&mut side, script);
    assert_eq!(log.trim_start(), expected.trim_start(), "{script}");
}

#[test]
fn order_is_kept_and_what_is_missing_is_put_in() {
    let none = Steps::empty();
    check(6, none, "CcHcMcRcTcLcNcBcEc", "Cc Hc Mc Rc Tc Lc Nc Bc Ec");
    check(6, none, "CcMcRcLccNc", "Cc Mc Rc Tc Lc Nc");
    check(6, none, "CcMcRcEccc", "Cc Mc Rc Tc Nc Ec");
    check(6, none, "HMRE", "! ! ! !");
    check(6, none, "CcRCEK", "Cc ! ! ! !");
    check(6, none, "CcMcTMcHc", "Cc Mc ! AMc AHc");
    check(3, none, "CcMcRcTLcNcEc", "Cc Mc Rc  Lc Nc Ec");
    check(2, none, "CcUMc", "Cc  Mc");
    check(
        6,
        Steps::NO_EOH | Steps::NO_HEADERS,
        "CcMcRcTcLNBcEc",
        "Cc Mc Rc Tc   Bc Ec",
    );
    check(6, Steps::NR_ALL, "CHMRTLNBEcA", "C H M R T L N B Ec ");
    check(6, Steps::NO_ALL, "CHMREcMREa", "    Ec   Ea");
}

#[test]
fn verdicts_mute() {
    let none = Steps::empty();
    check(6, none, "CaHMREA", "Ca     ");
    check(6, none, "CcMaRTLNBEAMcRc", "Cc Ma        Mc Rc");
    check(6, none, "CcMcRaTAHcMc", "Cc Mc Ra   Hc Mc");
    check(6, none, "CcMcRdTEAMc", "Cc Mc Rd   A Mc");
    check(6, none, "CcMcRrRcTrEMc", "Cc Mc Rr Rc Tr ! Mc");
    check(6, none, "CdMc", "Cd Mc");
    check(6, none, "CcUdMc", "Cc Ud Mc");
    check(6, none, "CcMcRcTcNcBsBBEc", "Cc Mc Rc Tc Nc Bs   Ec");
    check(6, none, "CcMcRcTcLsLNcEc", "Cc Mc Rc Tc Ls  Nc Ec");
    check(
        6,
        none,
        "CcMcRcTcNcBsEcMcRcTcNcBc",
        "Cc Mc Rc Tc Nc Bs Ec Mc Rc Tc Nc Bc",
    );
}

#[test]
fn replies_out_of_place_are_refused() {
    let none = Steps::empty();
    check(6, none, "c", "c!");
    check(6, none, "Ccc", "Ccc!");
    check(6, none, "CcMhc", "Cc Mh!c");
    check(6, none, "CcMpc", "Cc Mpc");
    check(6, none, "Cf4c", "Cf!4!c");
    check(6, none, "CcMcRcTcNcEphbsc", "Cc Mc Rc Tc Nc Ephb!s!c");
    check(6, Steps::NR_HEADER, "CcMcRcTcLc", "Cc Mc Rc Tc Lc!");
}

#[test]
fn answers_to_the_offer() {
    let check = |reply: Reply, result: Result<Vec<Warning>, Reason>| {
        let offered = Actions::ADD_HEADERS | Actions::CHANGE_HEADERS;
        let (mut side, _) = MtaSide::offer(6, offered, Steps::SKIP);
        let got = side.negotiated(reply).map_err(|error| error.reason);
        assert_eq!(got, result);
    };
    let (none, skip) = (Actions::empty(), Steps::SKIP);
    check(wish(6, Actions::ADD_HEADERS, skip), Ok(vec![]));
    check(wish(7, none, skip), Err(Reason::Version(7)));
    check(wish(1, none, skip), Err(Reason::Version(1)));
    let more = Actions::CHANGE_BODY;
    check(
        wish(6, more, skip),
        Ok(vec![Warning::ActionsNotOffered(more)]),
    );
    let unknown = Actions::from_bits_retain(0x8000);
    check(
        wish(6, unknown, skip),
        Ok(vec![Warning::UnknownActions(unknown)]),
    );
    let beyond = Steps::from_bits_retain(0x20_0000) | Steps::NO_BODY;
    check(
        wish(6, none, skip | beyond),
        Ok(vec![Warning::StepsNotOffered(beyond)]),
    );
    check(Reply::Continue, Err(Reason::Forbidden(b'c')));
}

#[test]
fn a_large_body_goes_in_chunks_with_macros_ahead() {
    let mut side = agreed(6, Steps::empty());
    play(&mut side, "CcMcRcTcNc");
    let body = Bytes::from(vec![b'x'; 70_000]);
    let sent = side.send(Event::Body(body), Some(&[])).unwrap();
    let codes: Vec<u8> = sent.commands.iter().map(|c| c.code()).collect();
    assert_eq!((codes, sent.expect), (b"DB".to_vec(), Expect::Verdict));
    side.receive(Reply::Continue).unwrap();
    let Some(Event::Body(rest)) = sent.then else {
        panic!("{:?}", sent.then);
    };
    assert_eq!(rest.len(), 70_000 - CHUNK_MAX);
}

#[test]
fn the_end_says_abort_only_inside_a_message() {
    let codes = |script: &str| {
        let mut side = agreed(6, Steps::empty());
        play(&mut side, script);
        let commands = side.quit();
        commands
            .iter()
            .map(|c| char::from(c.code()))
            .collect::<String>()
    };
    assert_eq!(codes("Cc"), "Q");
    assert_eq!(codes("CcMc"), "AQ");
    assert_eq!(codes("CcMcRcTcNcEc"), "Q");
    assert_eq!(codes("CcM"), "Q");
}

#[test]
fn edits_are_made_harmless_on_the_way_in() {
    let mut side = agreed(6, Steps::empty());
    play(&mut side, "CcMcRcTcNcE");
    let edit = |value: &'static str| Reply::Edit(Edit::add("X", value));
    let expected = Answer::Edit(Edit::add("X", "a\n Evil: b"));
    assert_eq!(side.receive(edit("a\r\nEvil: b")), Ok(expected));
    let bad = Reply::Edit(Edit::add("X:", "v"));
    let error = side.receive(bad).unwrap_err();
    assert!(matches!(error.reason, Reason::Edit(_)), "{error}");
    for _ in 2..MtaSide::EDITS_MAX {
        side.receive(edit("v")).unwrap();
    }
    let error = side.receive(edit("v")).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyEdits(MtaSide::EDITS_MAX));
    let verdict = Answer::Verdict(Verdict::Continue);
    assert_eq!(side.receive(Reply::Continue), Ok(verdict));
}
