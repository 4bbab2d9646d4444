//! The answering side's cases of the conformance list, as far as they need no stream.

use super::*;
use crate::wire::WireError;

/// What is written in answer to `offer` by a filter with these needs.
fn answered(offer: Offer, needs: &Needs) -> Result<Offer, Reason> {
    let mut side = FilterSide::new();
    let step = side.receive(Command::Negotiate(offer)).unwrap();
    assert!(matches!(step, Step::Negotiate(_)), "{step:?}");
    match side.accept(needs) {
        Ok(Reply::Negotiate(answer)) => Ok(answer),
        Ok(reply) => panic!("{reply:?}"),
        Err(error) => Err(error.reason),
    }
}

fn wanting(actions: Actions, steps: Steps) -> Needs {
    Needs {
        actions,
        steps,
        macros: Vec::new(),
    }
}

fn version(version: u32) -> Offer {
    Offer {
        version,
        ..Offer::full()
    }
}

#[test]
fn case_035_the_answer_stays_within_the_offer() {
    let all = Steps::from_bits_retain(u32::MAX);
    let answer = answered(Offer::full(), &wanting(Actions::all(), all)).unwrap();
    assert_eq!(answer.version, 6);
    assert!(Offer::full().actions.contains(answer.actions));
    assert!(Offer::full().steps.contains(answer.steps));
    assert_eq!(Reply::Negotiate(answer).code(), b'O');
}

#[test]
fn case_036_an_old_mta() {
    let old = Offer {
        version: 2,
        steps: Steps::from_bits_retain(0x7f),
        ..Offer::full()
    };
    let needs = wanting(Actions::empty(), Steps::NR_ALL | Steps::NO_HELO);
    let (mut side, answer) = negotiated(&old, &needs);
    assert_eq!((answer.version, answer.steps), (2, Steps::NO_HELO));
    // Never answered by the filter, and answered all the same.
    assert_eq!(run(&mut side, "CMRLNBE"), "Cc Mc Rc Lc Nc Bc Ec");
}

#[test]
fn case_037_versions() {
    let answer = |offered| answered(version(offered), &Needs::default());
    assert_eq!(answer(7).unwrap().version, 6);
    assert_eq!(answer(100).unwrap().version, 6);
    assert_eq!(answer(1), Err(Reason::Version(1)));
}

#[test]
fn case_038_an_action_that_the_mta_does_not_allow() {
    let poor = Offer {
        actions: Actions::ADD_HEADERS,
        ..Offer::full()
    };
    let needs = wanting(Actions::CHANGE_HEADERS, Steps::empty());
    let refused = Err(Reason::NotOffered(Actions::CHANGE_HEADERS));
    assert_eq!(answered(poor, &needs), refused);
}

fn listing(macros: Vec<(MacroStage, &'static str)>) -> Vec<(MacroStage, Bytes)> {
    let needs = Needs {
        macros,
        ..Needs::default()
    };
    answered(Offer::full(), &needs).unwrap().macros
}

#[test]
fn case_039_lists_for_both_content_stages_and_none_empty() {
    use MacroStage::{EndOfHeaders, EndOfMessage, Helo, Mail};
    let both = vec![(EndOfMessage, b("i")), (EndOfHeaders, b("i"))];
    assert_eq!(listing(vec![(EndOfMessage, "i")]), both);
    let both = vec![(EndOfHeaders, b("i")), (EndOfMessage, b("i"))];
    assert_eq!(listing(vec![(EndOfHeaders, "i")]), both);
    let lists = listing(vec![(Helo, ""), (Mail, "i")]);
    assert_eq!(lists, vec![(Mail, b("i"))]);
}

#[test]
fn case_040_frame_sizes_are_not_negotiated() {
    let sizes = Steps::from_bits_retain(0x7000_0000);
    let offer = Offer {
        steps: Steps::NEGOTIABLE | sizes,
        ..Offer::full()
    };
    let needs = wanting(Actions::empty(), sizes | Steps::SKIP);
    assert_eq!(answered(offer, &needs).unwrap().steps, Steps::SKIP);
}

/// Closed at once, where libmilter says nothing and waits.
#[test]
fn case_041_no_negotiation() {
    for code in "CHMRTLNBEAUK".chars() {
        let error = FilterSide::new().receive(command(code)).unwrap_err();
        let reason = Reason::OutOfOrder(command(code).code());
        assert_eq!((error.fault, error.reason), (Fault::Mta, reason));
    }
}

#[test]
fn case_043_continue() {
    check(Steps::empty(), "C", "Cc");
}

#[test]
fn case_044_helo_twice() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    assert_eq!(run(&mut side, "CH"), "Cc Hc");
    side.receive(Command::Helo(b("second"))).unwrap();
    assert_eq!(side.greet(Greeting::Continue), Ok(Reply::Continue));
    assert_eq!(side.facts().helo(), Some(&b("second")));
}

#[test]
fn case_045_header_fields_without_replies() {
    check(Steps::NR_HEADER, "CMRTLLLN", "Cc Mc Rc Tc L L L Nc");
    let both = Steps::NR_HEADER | Steps::NR_EOH;
    check(both, "CMRTLLLNE", "Cc Mc Rc Tc L L L N Ec");
}

#[test]
fn case_047_a_missing_no_reply_is_made_up_for() {
    let offer = Offer {
        steps: Steps::NEGOTIABLE - Steps::NR_BODY,
        ..Offer::full()
    };
    let needs = wanting(Actions::empty(), Steps::NR_BODY);
    let (mut side, _) = negotiated(&offer, &needs);
    assert_eq!(run(&mut side, "CMRTNBBE"), "Cc Mc Rc Tc Nc Bc Bc Ec");
}

#[test]
fn case_048_rcpt_before_mail() {
    check(Steps::empty(), "CRMRR", "Cc t Mc Rc Rc");
}

#[test]
fn case_049_mail_twice() {
    check(Steps::empty(), "CMMRTNE", "Cc Mc AMc Rc Tc Nc Ec");
}

#[test]
fn case_050_helo_inside_a_message() {
    check(Steps::empty(), "CMHM", "Cc Mc AHc Mc");
}

#[test]
fn case_051_abort_keeps_the_client() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    assert_eq!(run(&mut side, "CHMRA"), "Cc Hc Mc Rc A");
    assert_eq!(side.stage(), Stage::Client);
    assert_eq!(side.facts().connection(), Some(&client()));
    assert_eq!(side.facts().helo(), Some(&b("c.test")));
}

#[test]
fn case_052_abort_outside_a_message() {
    check(Steps::empty(), "CAAA", "Cc - - -");
}

#[test]
fn case_053_an_abort_after_a_new_helo() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    run(&mut side, "CHMR");
    side.receive(Command::Helo(b("new"))).unwrap();
    assert_eq!(side.next_step(), Some(Step::Ask(Event::Helo(b("new")))));
    side.greet(Greeting::Continue).unwrap();
    assert_eq!(run(&mut side, "AM"), "- Mc");
    assert_eq!(side.facts().helo(), Some(&b("new")));
}

#[test]
fn case_054_the_end_without_an_end_of_headers() {
    check(Steps::empty(), "CMRTE", "Cc Mc Rc Tc At");
    check(Steps::NO_EOH, "CMRTE", "Cc Mc Rc Tc Ec");
}

#[test]
fn case_055_a_piece_of_body_inside_the_end() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    run(&mut side, "CMRTN");
    let step = side.receive(Command::EndOfMessage(b("last")));
    assert_eq!(step, Ok(Step::Ask(Event::Body(b("last")))));
    assert_eq!(side.stage(), Stage::End);
    assert_eq!(side.body(BodyVerdict::default()), Ok(None));
    assert_eq!(side.next_step(), Some(Step::Ask(Event::EndOfMessage)));
    assert_eq!(side.finish(Outcome::default()), Ok(vec![Reply::Continue]));
    // A verdict on that piece is the one to the whole.
    run(&mut side, "MRTN");
    side.receive(Command::EndOfMessage(b("last"))).unwrap();
    let refusal = side.body(BodyVerdict::Go(Verdict::Reject));
    assert_eq!((refusal, side.next_step()), (Ok(Some(Reply::Reject)), None));
}

#[test]
fn case_056_no_body() {
    check(Steps::empty(), "CMRTNE", "Cc Mc Rc Tc Nc Ec");
}

#[test]
fn case_057_a_line_end_across_chunks() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    run(&mut side, "CMRTN");
    for chunk in ["line\r", "\nline"] {
        let step = side.receive(Command::Body(b(chunk)));
        assert_eq!(step, Ok(Step::Ask(Event::Body(b(chunk)))));
        side.body(BodyVerdict::default()).unwrap();
    }
}

#[test]
fn case_058_edits_in_the_order_made() {
    let edits = [
        Edit::change(1, "Subject", "a"),
        Edit::insert(1, "X", "v"),
        Edit::add("Y", "w"),
    ];
    let outcome = Outcome {
        edits: edits.to_vec(),
        verdict: Verdict::Continue,
    };
    let mut expected = edits.map(Reply::Edit).to_vec();
    expected.push(Reply::Continue);
    assert_eq!(finish(Actions::all(), outcome), Ok(expected));
}

#[test]
fn case_059_discard_at_the_end() {
    let outcome = Outcome {
        edits: vec![Edit::add("X", "v")],
        verdict: Verdict::Discard,
    };
    assert_eq!(finish(Actions::all(), outcome), Ok(vec![Reply::Discard]));
}

/// A filter cannot even say it: `finish` alone returns edits. Whoever drives this side by hand gets
/// an error.
#[test]
fn case_060_edits_before_the_end() {
    for at in "CHMRTLNB".chars() {
        let mut side = with(Actions::all(), Steps::empty());
        let before: String = "CHMRTLNB".chars().take_while(|code| *code != at).collect();
        run(&mut side, &before);
        side.receive(command(at)).unwrap();
        let outcome = Outcome {
            edits: vec![Edit::add("X", "v")],
            verdict: Verdict::Continue,
        };
        let error = side.finish(outcome).unwrap_err();
        assert_eq!(error.reason, Reason::NoAnswerOwed, "{at}");
    }
}

#[test]
fn case_061_an_edit_that_was_not_negotiated() {
    let outcome = Outcome {
        edits: vec![Edit::add("X", "v"), Edit::delete(1, "X")],
        verdict: Verdict::Continue,
    };
    let error = finish(Actions::ADD_HEADERS, outcome).unwrap_err();
    let reason = Reason::NotNegotiated(Actions::CHANGE_HEADERS);
    assert_eq!((error.fault, error.reason), (Fault::Filter, reason));
    assert_eq!(error.stage.to_string(), "at the end of the message");
}

fn new_body(body: Vec<u8>) -> Vec<Reply> {
    let outcome = Outcome {
        edits: vec![Edit::ReplaceBody(body.into())],
        verdict: Verdict::Continue,
    };
    finish(Actions::all(), outcome).unwrap()
}

#[test]
fn case_062_a_large_new_body() {
    let replies = new_body(vec![b'x'; 200_000]);
    let sizes: Vec<usize> = replies
        .iter()
        .map_while(|reply| match reply {
            Reply::Edit(Edit::ReplaceBody(piece)) => Some(piece.len()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [65_535, 65_535, 65_535, 3395]);
    assert_eq!(replies[4..], [Reply::Continue]);
}

#[test]
fn case_063_an_empty_new_body() {
    let replies = new_body(Vec::new());
    let mut out = bytes::BytesMut::new();
    for reply in replies {
        reply.encode(&mut out).unwrap();
    }
    assert_eq!(out, b"\0\0\0\x01b\0\0\0\x01c"[..]);
}

#[test]
fn case_064_line_ends_in_a_value() {
    let add = |value: &'static str| {
        let outcome = Outcome {
            edits: vec![Edit::add("X", value)],
            verdict: Verdict::Continue,
        };
        let replies = finish(Actions::all(), outcome).map_err(|error| error.reason)?;
        Ok(replies[0].clone())
    };
    assert_eq!(add("a\r\n b"), Ok(Reply::Edit(Edit::add("X", "a\n b"))));
    let refused = Err(Reason::Edit(InvalidEdit::HeaderValue(b("X"))));
    for value in [
        "a\nEvil: x",
        "a\r\nEvil: x",
        "a\rb",
        "a\n",
        "a\r\r\n b",
        "a\0",
    ] {
        assert_eq!(add(value), refused, "{value:?}");
    }
}

#[test]
fn case_073_another_client_on_the_same_connection() {
    check(Steps::empty(), "CHMRKCHM", "Cc Hc Mc Rc AK Cc Hc Mc");
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    side.receive(macros(b'C', &[("j", "mx")])).unwrap();
    run(&mut side, "CHK");
    let empty = Facts::new(side.facts().actions(), side.facts().steps());
    assert_eq!(side.facts(), &empty);
    side.receive(macros(b'C', &[("j", "other")])).unwrap();
    assert_eq!(run(&mut side, "C"), "Cc");
    assert_eq!(side.facts().macro_value("j"), Some(&b("other")));
}

#[test]
fn case_076_an_unknown_command_byte() {
    let frame = crate::wire::Frame {
        code: b'X',
        payload: Bytes::new(),
    };
    let unknown = Command::parse(frame).unwrap_err();
    let side = with(Actions::empty(), Steps::empty());
    let error = side.malformed(unknown);
    let reason = Reason::Wire(WireError::UnknownCode(b'X'));
    assert_eq!((error.fault, error.reason), (Fault::Mta, reason));
}

#[test]
fn case_077_macros_with_and_without_braces() {
    for name in ["i", "{i}"] {
        let mut facts = Facts::default();
        facts.note(&macros(b'M', &[(name, "1")]));
        assert_eq!(facts.macro_value("i"), Some(&b("1")));
        assert_eq!(facts.macro_value("{i}"), Some(&b("1")));
    }
}

#[test]
fn case_078_the_latest_stage_that_has_a_macro() {
    let mut facts = Facts::default();
    let steps = [('M', "1"), ('R', "2"), ('T', "3"), ('E', "4")];
    for (at, value) in steps {
        let code = command(at).code();
        let pair = [("i", value)];
        facts.note(&macros(code, &pair));
        facts.note(&command(at));
        assert_eq!(facts.macro_value("i"), Some(&b(value)));
    }
    facts.note(&macros(b'R', &[]));
    facts.note(&command('R'));
    assert_eq!(facts.macro_value("i"), Some(&b("1")));
    facts.note(&macros(b'M', &[]));
    facts.note(&command('M'));
    assert_eq!(facts.macro_value("i"), None);
}

#[test]
fn case_079_macros_of_stages_without_any() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    side.receive(macros(b'C', &[("i", "1")])).unwrap();
    run(&mut side, "C");
    for code in [b'L', b'B', b'U'] {
        let step = side.receive(macros(code, &[("i", "2")]));
        assert_eq!((step, side.next_step()), (Ok(Step::Silent), None));
    }
    assert_eq!(side.facts().macro_value("i"), Some(&b("1")));
}

fn skipping(steps: Steps) -> (FilterSide, Option<Reply>) {
    let mut side = with(Actions::empty(), steps);
    run(&mut side, "CMRTN");
    side.receive(command('B')).unwrap();
    let reply = side.body(BodyVerdict::Skip).unwrap();
    (side, reply)
}

#[test]
fn case_080_a_skip_that_was_not_offered() {
    let (mut side, reply) = skipping(Steps::empty());
    assert_eq!(reply, Some(Reply::Continue));
    assert_eq!(run(&mut side, "BBE"), "c c Ec");
}

#[test]
fn case_081_a_skip() {
    let (mut side, reply) = skipping(Steps::SKIP);
    assert_eq!(reply, Some(Reply::Skip));
    assert_eq!(run(&mut side, "BEMRTNB"), "c Ec Mc Rc Tc Nc Bc");
}

#[test]
fn case_083_leading_space_is_the_filters_business() {
    let mut side = with(Actions::all(), Steps::LEADING_SPACE);
    run(&mut side, "CMRT");
    let field = Header::new("X", " x");
    let step = side.receive(Command::Header(field.clone()));
    assert_eq!(step, Ok(Step::Ask(Event::Header(field))));
    side.reply(Verdict::Continue).unwrap();
    run(&mut side, "N");
    side.receive(command('E')).unwrap();
    let outcome = Outcome {
        edits: vec![Edit::add("X", " y"), Edit::add("Y", "z")],
        verdict: Verdict::Continue,
    };
    let replies = side.finish(outcome).unwrap();
    let expected = [Edit::add("X", " y"), Edit::add("Y", "z")];
    assert_eq!(replies[..2], expected.map(Reply::Edit));
}
