//! Content told ahead of the answers to it.

use super::drive::{agreed, event, play, reply};
use super::*;

/// After `before`, sends the events of `ahead` without waiting and then takes `replies`; the log
/// has what was sent, `!` for what was refused, and how many answers are owed at the end (`x`: the
/// connection is spent).
fn check(steps: Steps, before: &str, ahead: &str, replies: &str, expected: &str) {
    let mut side = agreed(6, steps);
    play(&mut side, before);
    let mut log = String::new();
    for code in ahead.chars() {
        match side.send_ahead(event(code), None) {
            Ok(sent) => log.extend(sent.commands.iter().map(|c| char::from(c.code()))),
            Err(_) => log.push('!'),
        }
    }
    log.push(' ');
    for code in replies.chars() {
        log.push(code);
        if side.receive(reply(code)).is_err() {
            log.push('!');
        }
    }
    let owed = match side.is_spent() {
        true => "x".to_owned(),
        false => side.answers_owed().to_string(),
    };
    log.push_str(&format!(" {owed}"));
    assert_eq!(log, expected, "{before} {ahead} {replies}");
}

#[test]
fn only_content_follows_content() {
    let none = Steps::empty();
    let envelope = "CcMcRcTc";
    check(none, envelope, "LLNBB", "", "LLNBB  5");
    check(none, envelope, "LLNBB", "cccpcc", "LLNBB cccpcc 0");
    check(none, envelope, "LLNBBE", "ccccc", "LLNBB! ccccc 0");
    check(none, "CcMcRcT", "L", "c", "! c 0");
    check(none, "CcMcRc", "L", "c", "T c 0");
    check(none, "CcM", "RA", "c", "!! c 0");
    // The end of the header is put in where it was left out.
    check(none, envelope, "LB", "ccc", "LNB ccc 0");
    check(none, envelope, "LNL", "cc", "LN! cc 0");
    // What needs no answer, or is not wanted, is not counted.
    check(Steps::NR_HEADER, envelope, "LLNB", "cc", "LLNB cc 0");
    check(Steps::NO_EOH, envelope, "LNB", "cc", "LB cc 0");
}

#[test]
fn a_last_word_before_the_last_event_spends_the_connection() {
    let none = Steps::empty();
    for last in ["a", "r", "t", "d"] {
        let replies = format!("c{last}");
        let expected = format!("LLLN {replies} x");
        check(none, "CcMcRcTc", "LLLN", &replies, &expected);
        // The answer to the last event leaves nothing open.
        let replies = format!("ccc{last}");
        let expected = format!("LLLN {replies} 0");
        check(none, "CcMcRcTc", "LLLN", &replies, &expected);
    }
    // So does content behind it that needs no answer.
    for (steps, ahead, replies, left) in [
        (Steps::NR_BODY, "LNBB", "cr", "x"),
        (Steps::NR_BODY, "LNBB", "cc", "0"),
        (Steps::NR_EOH, "LN", "a", "x"),
        (Steps::NR_EOH, "LNB", "cr", "0"),
        (Steps::NR_HEADER | Steps::NR_EOH, "LNB", "r", "0"),
        (Steps::NR_BODY | Steps::NO_BODY, "LNBB", "cr", "0"),
    ] {
        let expected = ahead.replace(
            'B',
            if steps.contains(Steps::NO_BODY) {
                ""
            } else {
                "B"
            },
        );
        let expected = format!("{expected} {replies} {left}");
        check(steps, "CcMcRcTc", ahead, replies, &expected);
    }
    let mut side = agreed(6, none);
    play(&mut side, "CcMcRcTc");
    for _ in 0..3 {
        side.send_ahead(event('L'), None).unwrap();
    }
    side.receive(reply('r')).unwrap();
    assert!(side.answer_owed() && side.answers_owed() == 0);
    for code in ['M', 'A', 'H', 'K'] {
        let error = side.send(event(code), None).unwrap_err();
        assert_eq!(error.reason, Reason::AnswerOwed);
    }
    assert!(side.receive(reply('c')).is_err());
    assert_eq!(side.quit(), [Command::Quit]);
}

#[test]
fn a_skip_ends_its_kind_and_nothing_else() {
    let skip = Steps::SKIP;
    check(skip, "CcMcRcTc", "LLN", "scc", "LLN scc 0");
    let mut side = agreed(6, skip);
    play(&mut side, "CcMcRcTcNc");
    side.send_ahead(event('B'), None).unwrap();
    side.send_ahead(event('B'), None).unwrap();
    assert_eq!(side.receive(reply('s')), Ok(Answer::Skip));
    assert_eq!(side.send_ahead(event('B'), None).unwrap().commands, []);
    assert_eq!(
        side.receive(reply('c')),
        Ok(Answer::Verdict(Verdict::Continue))
    );
    assert_eq!(play(&mut side, "BEc"), "  Ec");
}

#[test]
fn a_filter_says_nothing_to_content_that_crossed_its_last_word() {
    let mut side = FilterSide::new();
    let tell = |side: &mut FilterSide, code: char| side.receive(command(code)).unwrap();
    tell(&mut side, 'O');
    side.accept(&Needs::default()).unwrap();
    for code in "CH".chars() {
        tell(&mut side, code);
        side.greet(Greeting::Continue).unwrap();
    }
    for code in "MRTL".chars() {
        tell(&mut side, code);
        let last = code == 'L';
        let verdict = if last {
            Verdict::Reject
        } else {
            Verdict::Continue
        };
        side.reply(verdict).unwrap();
    }
    for code in "LLNBB".chars() {
        assert_eq!(tell(&mut side, code), Step::Silent, "{code}");
        assert!(side.take_complaint().is_none(), "{code}");
    }
    // What nobody sends ahead is refused as ever, and a new message is a new one.
    assert_eq!(tell(&mut side, 'E'), Step::Answer(Reply::TempFail));
    assert!(side.take_complaint().is_some());
    assert!(matches!(tell(&mut side, 'M'), Step::Ask(Event::Mail(_))));
    side.reply(Verdict::Continue).unwrap();
    assert_eq!(tell(&mut side, 'L'), Step::Tell(Event::Abort));
    assert_eq!(side.next_step(), Some(Step::Answer(Reply::TempFail)));
}
