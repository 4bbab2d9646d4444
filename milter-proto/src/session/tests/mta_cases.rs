//! The driving side's cases of the conformance list, as far as they need no stream.

use bytes::BytesMut;

use super::drive::{agreed, check, event, play, reply, wish};
use super::*;
use crate::wire::{Frame, WireError};

fn offered(actions: Actions) -> MtaSide {
    MtaSide::offer(6, actions, Steps::NEGOTIABLE).0
}

fn parsed(code: u8, payload: &'static [u8]) -> Result<Reply, WireError> {
    let payload = Bytes::from_static(payload);
    Reply::parse(Frame { code, payload })
}

/// A conversation up to the point where the answer to the last event is owed.
fn asked(actions: Actions, script: &str) -> MtaSide {
    let mut side = offered(Actions::all());
    side.negotiated(wish(6, actions, Steps::empty())).unwrap();
    play(&mut side, script);
    assert!(side.answer_owed(), "{script}");
    side
}

fn written(commands: &[Command]) -> String {
    let mut out = BytesMut::new();
    for command in commands {
        command.encode(&mut out).unwrap();
    }
    out.escape_ascii().to_string()
}

#[test]
fn case_089_the_offer_of_every_mta() {
    let full = Offer::full();
    let (_, command) = MtaSide::offer(full.version, full.actions, full.steps);
    let expected = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    assert_eq!(written(&[command]), expected.escape_ascii().to_string());
    let (_, command) = MtaSide::offer(2, Actions::ADD_HEADERS, Steps::NO_BODY);
    let expected = b"\0\0\0\x0dO\0\0\0\x02\0\0\0\x01\0\0\0\x10";
    assert_eq!(written(&[command]), expected.escape_ascii().to_string());
}

/// Strict, as Postfix: a version that was not offered is an error.
#[test]
fn case_090_versions() {
    let none = Actions::empty();
    let newer = offered(none).negotiated(wish(7, none, Steps::empty()));
    assert_eq!(newer.unwrap_err().reason, Reason::Version(7));
    check(2, Steps::empty(), "CcUMcRcTLc", "Cc  Mc Rc  Lc");
    check(3, Steps::empty(), "CcUcMcRcTLc", "Cc Uc Mc Rc  Lc");
    check(4, Steps::empty(), "CcUcMcRcTcLc", "Cc Uc Mc Rc Tc Lc");
}

#[test]
fn case_091_answers_of_the_wrong_length() {
    let whole = b"\0\0\0\x06\0\0\0\0\0\0\0\0\0";
    assert!(parsed(b'O', &whole[..11]).is_err());
    assert!(parsed(b'O', &whole[..12]).is_ok());
    assert!(parsed(b'O', whole).is_err());
}

#[test]
fn case_092_a_step_that_does_not_exist() {
    let mut side = offered(Actions::all());
    let unknown = Steps::from_bits_retain(0x20_0000);
    let answer = wish(6, Actions::empty(), unknown | Steps::SKIP);
    let warnings = vec![Warning::StepsNotOffered(unknown)];
    assert_eq!(side.negotiated(answer), Ok(warnings));
    assert_eq!(side.options().steps, Steps::SKIP);
}

#[test]
fn case_093_an_action_that_was_not_offered() {
    let mut side = offered(Actions::ADD_HEADERS);
    let more = Actions::CHANGE_BODY;
    let answer = wish(6, more | Actions::ADD_HEADERS, Steps::empty());
    let warnings = vec![Warning::ActionsNotOffered(more)];
    assert_eq!(side.negotiated(answer), Ok(warnings));
    assert_eq!(side.options().actions, Actions::ADD_HEADERS);
    assert_eq!(play(&mut side, "CcMcRcTcNcEhb"), " Cc Mc Rc Tc Nc Ehb!");
}

#[test]
fn case_094_macros_of_an_event_that_is_left_out() {
    let mut side = agreed(6, Steps::NO_HELO);
    play(&mut side, "Cc");
    let sent = side.send(event('H'), Some(&[])).unwrap();
    assert_eq!(written(&sent.commands), written(&[macros(b'H', &[])]));
    assert_eq!(sent.expect, Expect::Nothing);
}

#[test]
fn case_098_parameters_of_the_sender() {
    let mail = |args: &[&'static str]| {
        let mut side = agreed(6, Steps::empty());
        play(&mut side, "Cc");
        let path = Path {
            address: b("<s@x>"),
            args: args.iter().map(|arg| b(arg)).collect(),
        };
        written(&side.send(Event::Mail(path), None).unwrap().commands)
    };
    let frame = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let args = mail(&["A=1", "B=2"]);
    assert_eq!(args, frame(b"\0\0\0\x0fM<s@x>\0A=1\0B=2\0"));
    assert_eq!(mail(&[]), frame(b"\0\0\0\x07M<s@x>\0"));
}

fn text(payload: &'static [u8]) -> Reply {
    parsed(b'y', payload).unwrap()
}

#[test]
fn case_099_one_recipient_is_refused() {
    let mut side = asked(Actions::empty(), "CcMcR");
    let answer = side.receive(text(b"550 5.7.1 a\0"));
    let refusal = SmtpReply::new(550, "5.7.1", "a").unwrap();
    assert_eq!(answer, Ok(Answer::Verdict(Verdict::Reply(refusal))));
    assert!(!side.is_muted());
    assert_eq!(play(&mut side, "RcTcNcEc"), " Rc Tc Nc Ec");
}

#[test]
fn case_100_the_client_is_to_be_disconnected() {
    let closes = |payload| match text(payload) {
        Reply::SmtpReply(reply) => reply.closes_connection(),
        other => panic!("{other:?}"),
    };
    assert!(closes(b"421 4.7.0 bye\0"));
    assert!(!closes(b"450 4.7.0 later\0"));
}

/// A lone per cent sign is what the client will see, and the class of the reply never changes.
#[test]
fn case_101_a_lone_per_cent_sign() {
    let Reply::SmtpReply(reply) = text(b"450 4.1.1 100% x\0") else {
        panic!("no text");
    };
    assert_eq!(reply.as_bytes(), b"450 4.1.1 100%% x");
    assert_eq!(reply.to_string(), "450 4.1.1 100% x");
    assert!(reply.is_temporary());
}

/// What is no reply is an error, for which whoever drives the filter has a policy; what can be read
/// only one way is put in order.
#[test]
fn case_102_texts_that_are_no_replies() {
    for payload in [
        &b"550 5.7.1 x"[..],
        b"550",
        b"25 \0",
        b"550 a\0b\0",
        b"",
        b"\0",
        b"250 ok\0",
    ] {
        assert!(parsed(b'y', payload).is_err(), "{}", payload.escape_ascii());
    }
    let bare = SmtpReply::new(550, "", "").unwrap();
    assert_eq!(text(b"550\0"), Reply::SmtpReply(bare));
    let other_class = SmtpReply::new(550, "", "x").unwrap();
    assert_eq!(text(b"550 4.1.1 x\0"), Reply::SmtpReply(other_class));
}

/// As Postfix; Sendmail would take it for an error.
#[test]
fn case_105_progress_before_the_end() {
    check(6, Steps::empty(), "CcMpppc", "Cc Mpppc");
}

#[test]
fn case_106_an_edit_before_the_end() {
    let mut side = asked(Actions::all(), "CcM");
    let error = side.receive(reply('h')).unwrap_err();
    let expected = (Fault::Filter, Reason::EditTooEarly(b'h'));
    assert_eq!((error.fault, error.reason), expected);
}

/// As Sendmail: accepted.
#[test]
fn case_107_a_verdict_with_a_payload() {
    assert_eq!(parsed(b'c', b"bytes"), Ok(Reply::Continue));
}

#[test]
fn case_108_an_unknown_reply() {
    let unknown = parsed(b'Z', b"").unwrap_err();
    let error = asked(Actions::empty(), "C").malformed(unknown.clone());
    let expected = (Fault::Filter, Reason::Wire(unknown));
    assert_eq!((error.fault, error.reason), expected);
}

#[test]
fn case_109_two_answers_to_one_question() {
    let mut side = asked(Actions::empty(), "C");
    side.receive(reply('c')).unwrap();
    let error = side.receive(reply('c')).unwrap_err();
    assert_eq!(error.reason, Reason::Unasked(b'c'));
}

#[test]
fn case_111_an_answer_where_none_was_agreed() {
    let mut side = agreed(6, Steps::NR_RCPT);
    assert_eq!(play(&mut side, "CcMcR"), " Cc Mc R");
    let error = side.receive(reply('c')).unwrap_err();
    let expected = (Fault::Filter, Reason::Unasked(b'c'));
    assert_eq!((error.fault, error.reason), expected);
}

#[test]
fn case_114_skip() {
    let skip = Steps::SKIP;
    check(6, skip, "CcMcRcTcNcBcBsBBEc", "Cc Mc Rc Tc Nc Bc Bs   Ec");
}

#[test]
fn case_115_stages_left_out() {
    let script = |steps| {
        let mut side = agreed(6, steps);
        play(&mut side, "CcMcRcTc");
        let mut sent = String::new();
        for code in "LNBE".chars() {
            let events = side.send(event(code), None).unwrap();
            sent.extend(events.commands.iter().map(|c| char::from(c.code())));
            if side.answer_owed() {
                side.receive(Reply::Continue).unwrap();
            }
        }
        sent
    };
    assert_eq!(script(Steps::NO_BODY), "LNE");
    assert_eq!(script(Steps::NO_EOH), "LBE");
    assert_eq!(script(Steps::NO_HEADERS), "NBE");
}

#[test]
fn case_116_an_empty_body() {
    let mut side = agreed(6, Steps::empty());
    play(&mut side, "CcMcRcTcNc");
    let sent = side.send(Event::Body(Bytes::new()), None).unwrap();
    assert_eq!((sent.commands, sent.expect), (vec![], Expect::Nothing));
}

#[test]
fn case_117_a_body_in_chunks() {
    let mut side = agreed(6, Steps::NR_BODY);
    play(&mut side, "CcMcRcTcNc");
    let mut body = vec![b'x'; 70_000];
    body[CHUNK_MAX - 1..=CHUNK_MAX].copy_from_slice(b"\r\n");
    let mut next = Some(Event::Body(body.clone().into()));
    let mut pieces = Vec::new();
    while let Some(event) = next {
        let sent = side.send(event, None).unwrap();
        for command in sent.commands {
            let Command::Body(piece) = command else {
                panic!("{command:?}");
            };
            pieces.push(piece);
        }
        next = sent.then;
    }
    let sizes: Vec<usize> = pieces.iter().map(Bytes::len).collect();
    assert_eq!(sizes, [65_535, 4465]);
    assert_eq!(pieces.concat(), body);
}

#[test]
fn case_120_dots_are_only_bytes() {
    let mut side = agreed(6, Steps::NR_BODY);
    play(&mut side, "CcMcRcTcNc");
    let sent = side.send(Event::Body(b("a\r\n.\r\n..b\n.\n")), None);
    let frame = b"\0\0\0\x0dBa\r\n.\r\n..b\n.\n";
    let expected = frame.escape_ascii().to_string();
    assert_eq!(written(&sent.unwrap().commands), expected);
}

#[test]
fn case_121_rset() {
    check(6, Steps::empty(), "CcMcRcAMcRc", "Cc Mc Rc A Mc Rc");
}

#[test]
fn case_122_the_client_leaves_inside_a_message() {
    let mut side = agreed(6, Steps::empty());
    play(&mut side, "CcMcRc");
    assert_eq!(side.quit(), [Command::Abort, Command::Quit]);
}

/// As Sendmail: a message that is done needs no ABORT. The answering side ignores one.
#[test]
fn case_123_no_abort_after_a_message() {
    check(
        6,
        Steps::empty(),
        "CcMcRcTcNcEcAMc",
        "Cc Mc Rc Tc Nc Ec  Mc",
    );
    super::check(Steps::empty(), "CMRTNEAM", "Cc Mc Rc Tc Nc Ec - Mc");
}

#[test]
fn case_124_accept_at_connect() {
    let mut side = agreed(6, Steps::empty());
    assert_eq!(play(&mut side, "CaHMRTNEM"), " Ca       ");
    assert!(side.is_muted());
    assert_eq!(side.quit(), [Command::Quit]);
}

#[test]
fn case_125_accept_at_rcpt() {
    check(
        6,
        Steps::empty(),
        "CcMcRaRTLNBEMcRc",
        "Cc Mc Ra       Mc Rc",
    );
}

/// An unknown command is about no message, and leaves what was accepted as it was.
#[test]
fn a_filter_that_accepted_hears_of_unknown_commands() {
    let none = Steps::empty();
    for word in ["c", "r", "a"] {
        let script = format!("CcMcRcTcLaU{word}LNBEU{word}McRc");
        let heard = format!("Cc Mc Rc Tc La U{word}     U{word} Mc Rc");
        check(6, none, &script, &heard);
    }
}

/// Accepted in a message it ends the filter's part in it, elsewhere it is an acceptance of nothing.
#[test]
fn an_unknown_command_is_accepted_with_its_message() {
    let none = Steps::empty();
    check(6, none, "CcMcRcUaRTLNBEMcRc", "Cc Mc Rc Ua       Mc Rc");
    check(6, none, "CcUaMcRc", "Cc Ua Mc Rc");
}

#[test]
fn case_126_discard_at_connect() {
    let mut side = agreed(6, Steps::empty());
    assert_eq!(play(&mut side, "Cd"), " Cd");
    let complaint = side.take_complaint().unwrap();
    let expected = (Fault::Filter, Reason::Forbidden(b'd'));
    assert_eq!((complaint.fault, complaint.reason), expected);
    assert_eq!(play(&mut side, "HcMc"), " Hc Mc");
    assert_eq!(side.take_complaint(), None);
}

#[test]
fn case_132_a_body_that_was_not_negotiated() {
    let mut side = asked(Actions::ADD_HEADERS, "CcMcRcTcNcE");
    let error = side.receive(reply('b')).unwrap_err();
    let expected = Reason::NotNegotiated(Actions::CHANGE_BODY);
    assert_eq!((error.fault, error.reason), (Fault::Filter, expected));
}

/// Before the end it is an error, where Postfix would poison its session.
#[test]
fn case_134_quarantine() {
    let reason = || Edit::Quarantine { reason: b("why") };
    let mut side = asked(Actions::all(), "CcMcRcTcNcE");
    let held = side.receive(Reply::Edit(reason()));
    assert_eq!(held, Ok(Answer::Edit(reason())));
    assert_eq!(
        side.receive(Reply::Continue),
        Ok(Answer::Verdict(Verdict::Continue))
    );
    let mut side = asked(Actions::all(), "CcM");
    let error = side.receive(Reply::Edit(reason())).unwrap_err();
    assert_eq!(error.reason, Reason::EditTooEarly(b'q'));
}

#[test]
fn case_135_parameters_in_edits() {
    let mut side = asked(Actions::all(), "CcMcRcTcNcE");
    let changed = Edit::ChangeSender {
        address: b("<n@x>"),
        args: b("RET=HDRS"),
    };
    let answer = side.receive(parsed(b'e', b"<n@x>\0RET=HDRS\0").unwrap());
    assert_eq!(answer, Ok(Answer::Edit(changed)));
    let added = Edit::AddRecipient {
        address: b("<a@x>"),
        args: Bytes::new(),
    };
    let answer = side.receive(parsed(b'2', b"<a@x>\0").unwrap());
    assert_eq!(answer, Ok(Answer::Edit(added)));
}

fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
    let pairs = pairs.iter();
    pairs.map(|(name, value)| (b(name), b(value))).collect()
}

/// An empty list means the default, as to Postfix.
#[test]
fn case_137_macros_that_a_filter_asked_for() {
    let known = pairs(&[("i", "ID"), ("{x}", "1"), ("{y}", "2")]);
    let select = |list: &'static str| {
        let answer = Offer {
            macros: vec![(MacroStage::Mail, b(list))],
            ..Offer::full()
        };
        answer.select(MacroStage::Mail, &known, "{y}")
    };
    assert_eq!(select("{x} i"), pairs(&[("{x}", "1"), ("i", "ID")]));
    assert_eq!(select("x {i}"), pairs(&[("{x}", "1"), ("i", "ID")]));
    assert_eq!(select(""), pairs(&[("{y}", "2")]));
    let other = Offer::full().select(MacroStage::Rcpt, &known, "i");
    assert_eq!(other, pairs(&[("i", "ID")]));
}

#[test]
fn case_138_macros_without_a_value() {
    let known = pairs(&[("i", "ID")]);
    let select = |default| Offer::full().select(MacroStage::Mail, &known, default);
    assert_eq!(select("i {auth_authen}"), known);
    assert_eq!(select("{auth_authen}"), []);
    let mut side = agreed(6, Steps::empty());
    play(&mut side, "Cc");
    let sent = side.send(event('M'), Some(&[])).unwrap();
    let begin = written(&sent.commands[..1]);
    assert_eq!(begin, b"\0\0\0\x02DM".escape_ascii().to_string());
}

#[test]
fn case_139_macros_before_events() {
    let codes = |steps, code, macros: Option<&[(Bytes, Bytes)]>| {
        let mut side = agreed(6, steps);
        let before = match code {
            'C' => "",
            'H' | 'M' => "Cc",
            'R' => "CcMc",
            _ => "CcMcRc",
        };
        play(&mut side, before);
        let sent = side.send(event(code), macros).unwrap();
        let codes = sent.commands.iter().map(|c| char::from(c.code()));
        codes.collect::<String>()
    };
    for code in "CHMRT".chars() {
        let expected = format!("D{code}");
        assert_eq!(codes(Steps::empty(), code, Some(&[])), expected);
    }
    for (step, code) in [
        (Steps::NO_HELO, 'H'),
        (Steps::NO_MAIL, 'M'),
        (Steps::NO_RCPT, 'R'),
    ] {
        assert_eq!(codes(step, code, Some(&[])), "D");
    }
    // Only what the caller gives goes ahead of header fields and chunks.
    for code in "LB".chars() {
        let sent = codes(Steps::NO_DATA | Steps::NO_EOH, code, None);
        assert_eq!(sent, code.to_string());
    }
}

#[test]
fn case_140_reuse_where_libmilter_takes_it() {
    let none = Steps::empty();
    check(6, none, "CcMcRcTcNcEcKCc", "Cc Mc Rc Tc Nc Ec K Cc");
    check(6, none, "CcMcAKCc", "Cc Mc A K Cc");
    check(6, none, "CcUcKCc", "Cc Uc K Cc");
    check(6, none, "CcKHc", "Cc ! Hc");
    check(6, none, "CcMcRcTcNcErK", "Cc Mc Rc Tc Nc Er !");
    check(6, none, "CcMcRcTcNcEaK", "Cc Mc Rc Tc Nc Ea !");
}
