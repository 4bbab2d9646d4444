//! Both sides in single steps: order, negotiation, skips, edits, macros.

mod ahead;
pub(crate) mod captures;
mod drive;
mod fuzz;
mod milter_cases;
mod mta_cases;
mod replay;

use bytes::Bytes;

use super::*;
use crate::edit::{Edit, InvalidEdit};
use crate::filter::Needs;
use crate::message::{Address, Connection, Header, Path};
use crate::verdict::{BodyVerdict, Greeting, Outcome, SmtpReply, Verdict};
use crate::wire::{Actions, CHUNK_MAX, Command, MacroStage, Macros, Offer, Reply, Steps};

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn path(address: &'static str) -> Path {
    Path {
        address: b(address),
        args: Vec::new(),
    }
}

fn client() -> Connection {
    Connection {
        hostname: b("x.test"),
        address: Address::Inet("192.0.2.1:1234".parse().unwrap()),
    }
}

/// A command by its letter.
fn command(code: char) -> Command {
    match code {
        'O' => Command::Negotiate(Offer::full()),
        'C' => Command::Connect(client()),
        'H' => Command::Helo(b("c.test")),
        'M' => Command::Mail(path("<s@x>")),
        'R' => Command::Rcpt(path("<r@x>")),
        'T' => Command::Data,
        'L' => Command::Header(Header::new("Subject", "x")),
        'N' => Command::EndOfHeaders,
        'B' => Command::Body(b("hi\r\n")),
        'E' => Command::EndOfMessage(Bytes::new()),
        'A' => Command::Abort,
        'U' => Command::Unknown(b("BAR")),
        'Q' => Command::Quit,
        'K' => Command::QuitReuse,
        other => panic!("{other}"),
    }
}

/// What the filter is told of, by the letter of its command.
fn letter(event: Event) -> char {
    char::from(event.into_command().code())
}

fn negotiated(offer: &Offer, needs: &Needs) -> (FilterSide, Offer) {
    let mut side = FilterSide::new();
    let step = side.receive(Command::Negotiate(offer.clone())).unwrap();
    assert_eq!(step, Step::Negotiate(offer.clone()));
    let Reply::Negotiate(answer) = side.accept(needs).unwrap() else {
        panic!("not a negotiation");
    };
    (side, answer)
}

/// Feeds commands and writes down what comes of them: events in upper case, replies in lower case,
/// `-` for nothing, `.` for the end. Everything is answered with Continue.
fn run(side: &mut FilterSide, commands: &str) -> String {
    let mut log = Vec::new();
    for code in commands.chars() {
        let mut line = String::new();
        let mut step = Some(side.receive(command(code)).unwrap());
        while let Some(now) = step {
            match now {
                Step::Ask(event) => {
                    let letter = letter(event);
                    line.push(letter);
                    line.extend(answer(side, letter, Verdict::Continue));
                }
                Step::Tell(event) => line.push(letter(event)),
                Step::Answer(reply) => line.push(char::from(reply.code())),
                Step::Silent => line.push('-'),
                Step::Close => line.push('.'),
                Step::Negotiate(_) => panic!("a second negotiation"),
            }
            step = side.next_step();
        }
        log.push(line);
    }
    log.join(" ")
}

/// Gives a verdict in the way that the event asks for, and the letters of the replies.
fn answer(side: &mut FilterSide, letter: char, verdict: Verdict) -> Vec<char> {
    let replies = match letter {
        'C' | 'H' => vec![side.greet(Greeting::Continue).unwrap()],
        'B' => Vec::from_iter(side.body(BodyVerdict::Go(verdict)).unwrap()),
        'E' => side.finish(verdict.into()).unwrap(),
        _ => vec![side.reply(verdict).unwrap()],
    };
    replies
        .iter()
        .map(|reply| char::from(reply.code()))
        .collect()
}

fn check(steps: Steps, commands: &str, expected: &str) {
    let needs = Needs {
        steps,
        ..Needs::default()
    };
    let (mut side, _) = negotiated(&Offer::full(), &needs);
    assert_eq!(run(&mut side, commands), expected, "{commands} {steps:?}");
}

#[test]
fn conversations_in_order() {
    let none = Steps::empty();
    check(none, "CHMRTLLNBBEQ", "Cc Hc Mc Rc Tc Lc Lc Nc Bc Bc Ec .");
    check(none, "CHHMRREMRNE", "Cc Hc Hc Mc Rc Rc At Mc Rc Nc Ec");
    check(none, "CHMRLNE", "Cc Hc Mc Rc Lc Nc Ec");
    check(
        none,
        "CHMRTNEMRTNEA",
        "Cc Hc Mc Rc Tc Nc Ec Mc Rc Tc Nc Ec -",
    );
    check(none, "CUHUMURUTNE", "Cc Uc Hc Uc Mc Uc Rc Uc Tc Nc Ec");
    check(none, "CHMRAAMAQ", "Cc Hc Mc Rc A - Mc A .");
    check(none, "CHMMRQ", "Cc Hc Mc AMc Rc A.");
    check(none, "CHMRHAMQ", "Cc Hc Mc Rc AHc - Mc A.");
    check(none, "CHMKCHMQ", "Cc Hc Mc AK Cc Hc Mc A.");
}

#[test]
fn out_of_order_is_answered_and_drops_the_message() {
    let none = Steps::empty();
    check(none, "HMRQ", "t t t .");
    check(none, "CRTLNBE", "Cc t t t t t t");
    check(none, "CMTMR", "Cc Mc At Mc Rc");
    check(none, "CMRTRE", "Cc Mc Rc Tc At t");
    check(none, "CMRTEMR", "Cc Mc Rc Tc At Mc Rc");
    check(none, "CMRNLE", "Cc Mc Rc Nc At t");
    check(none, "CMRTUE", "Cc Mc Rc Tc At t");
    check(none, "CMC", "Cc Mc At");
    check(Steps::NR_HEADER, "CMLE", "Cc Mc A t");
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    run(&mut side, "CR");
    let complaint = ProtocolError {
        stage: Stage::Client,
        fault: Fault::Mta,
        reason: Reason::OutOfOrder(b'R'),
    };
    assert_eq!(side.take_complaint(), Some(complaint));
    assert_eq!(side.take_complaint(), None);
}

#[test]
fn out_of_order_again_and_again_is_an_error() {
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    run(&mut side, "C");
    for _ in 0..3 {
        run(&mut side, "M");
        run(&mut side, &"T".repeat(FilterSide::REFUSED_MAX));
    }
    let error = side.receive(command('T')).unwrap_err();
    assert_eq!(
        error.reason,
        Reason::TooManyOutOfOrder(FilterSide::REFUSED_MAX)
    );
}

#[test]
fn stages_left_out_and_stages_without_replies() {
    let envelope = Steps::NO_CONNECT | Steps::NO_HELO | Steps::NO_MAIL | Steps::NO_RCPT;
    check(envelope, "TLNBE", "Tc Lc Nc Bc Ec");
    check(envelope | Steps::NO_EOH, "LBE", "Lc Bc Ec");
    check(Steps::NO_ALL, "EE", "Ec Ec");
    check(Steps::NO_RCPT, "CMTNE", "Cc Mc Tc Nc Ec");
    check(Steps::NO_CONNECT, "HMRNE", "Hc Mc Rc Nc Ec");
    check(Steps::NR_ALL, "CHMURTLLNBBE", "C H M U R T L L N B B Ec");
    check(Steps::NO_HEADERS, "CMRTLNE", "Cc Mc Rc Tc c Nc Ec");
}

#[test]
fn what_the_mta_cannot_leave_out_is_made_up_for() {
    let old = Offer {
        version: 2,
        actions: Actions::from_bits_retain(0x3f),
        steps: Steps::from_bits_retain(0x7f),
        macros: Vec::new(),
    };
    let needs = Needs {
        steps: Steps::NR_ALL | Steps::NO_UNKNOWN | Steps::SKIP | Steps::NO_HELO,
        ..Needs::default()
    };
    let (mut side, answer) = negotiated(&old, &needs);
    assert_eq!((answer.version, answer.steps), (2, Steps::NO_HELO));
    assert_eq!(run(&mut side, "CMRLNBEU"), "Cc Mc Rc Lc Nc Bc Ec c");
}

#[test]
fn negotiation() {
    let lists = vec![
        (MacroStage::Mail, "i {auth_authen}"),
        (MacroStage::EndOfMessage, "i"),
        (MacroStage::Helo, ""),
    ];
    let needs = Needs {
        actions: Actions::ADD_HEADERS,
        steps: Steps::SKIP | Steps::MDS_1M | Steps::from_bits_retain(0x4000_0000),
        macros: lists,
    };
    let newer = Offer {
        version: 7,
        steps: Steps::from_bits_retain(0xffff_ffff),
        ..Offer::full()
    };
    let (_, answer) = negotiated(&newer, &needs);
    let macros = vec![
        (MacroStage::Mail, b("i {auth_authen}")),
        (MacroStage::EndOfMessage, b("i")),
        (MacroStage::EndOfHeaders, b("i")),
    ];
    let expected = Offer {
        version: 6,
        actions: Actions::ADD_HEADERS | Actions::SET_MACRO_LIST,
        steps: Steps::SKIP,
        macros,
    };
    assert_eq!(answer, expected);
}

#[test]
fn negotiations_that_fail() {
    let refused = |offer: Offer, needs: &Needs, reason| {
        let mut side = FilterSide::new();
        side.receive(Command::Negotiate(offer)).unwrap();
        let error = side.accept(needs).unwrap_err();
        assert_eq!((error.fault, error.reason), (Fault::Mta, reason));
    };
    let old = Offer {
        version: 1,
        ..Offer::full()
    };
    refused(old, &Needs::default(), Reason::Version(1));
    let needs = Needs {
        actions: Actions::CHANGE_HEADERS | Actions::ADD_HEADERS,
        ..Needs::default()
    };
    let poor = Offer {
        actions: Actions::ADD_HEADERS,
        ..Offer::full()
    };
    refused(poor, &needs, Reason::NotOffered(Actions::CHANGE_HEADERS));
    for code in "CHMRTLNBEAUK".chars() {
        let error = FilterSide::new().receive(command(code)).unwrap_err();
        assert_eq!(error.fault, Fault::Mta);
        let code = command(code).code();
        assert_eq!(error.reason, Reason::OutOfOrder(code));
    }
    let (mut side, _) = negotiated(&Offer::full(), &Needs::default());
    let error = side.receive(command('O')).unwrap_err();
    assert_eq!(error.reason, Reason::OutOfOrder(b'O'));
    assert_eq!(FilterSide::new().receive(Command::Quit), Ok(Step::Close));
}

fn with(actions: Actions, steps: Steps) -> FilterSide {
    let needs = Needs {
        actions,
        steps,
        macros: Vec::new(),
    };
    negotiated(&Offer::full(), &needs).0
}

#[test]
fn verdicts_that_end_a_message() {
    let ends = |at: char, verdict: Verdict| {
        let mut side = with(Actions::empty(), Steps::empty());
        let before: String = "CMRTLNB".chars().take_while(|code| *code != at).collect();
        run(&mut side, &before);
        side.receive(command(at)).unwrap();
        answer(&mut side, at, verdict);
        !side.stage().in_message()
    };
    for at in "MTLNB".chars() {
        assert!(!ends(at, Verdict::Continue));
        assert!(ends(at, Verdict::Accept));
        assert!(ends(at, Verdict::Reject));
        assert!(ends(at, Verdict::TempFail));
        assert!(ends(at, Verdict::Discard));
    }
    assert!(ends('R', Verdict::Accept));
    assert!(!ends('R', Verdict::Reject));
    assert!(!ends('R', Verdict::TempFail));
}

#[test]
fn answers_of_the_wrong_kind_write_nothing() {
    let owed = |result: Result<(), ProtocolError>| {
        let error = result.unwrap_err();
        assert_eq!(
            (error.fault, error.reason),
            (Fault::Caller, Reason::NoAnswerOwed)
        );
    };
    let mut side = with(Actions::empty(), Steps::empty());
    owed(side.reply(Verdict::Continue).map(drop));
    owed(side.greet(Greeting::Continue).map(drop));
    owed(side.accept(&Needs::default()).map(drop));
    side.receive(command('C')).unwrap();
    owed(side.reply(Verdict::Discard).map(drop));
    owed(side.body(BodyVerdict::Skip).map(drop));
    owed(side.finish(Outcome::default()).map(drop));
    let error = side.receive(command('H')).unwrap_err();
    assert_eq!(error.reason, Reason::AnswerOwed);
    let error = side.progress().unwrap_err();
    assert_eq!(error.reason, Reason::Forbidden(b'p'));
    side.greet(Greeting::Continue).unwrap();
    owed(side.greet(Greeting::Continue).map(drop));
    side.receive(command('U')).unwrap();
    let error = side.reply(Verdict::Discard).unwrap_err();
    assert_eq!(
        (error.fault, error.reason),
        (Fault::Filter, Reason::Forbidden(b'd'))
    );
    assert_eq!(side.reply(Verdict::Reject), Ok(Reply::Reject));
}

#[test]
fn skip_as_negotiated() {
    let mut side = with(Actions::empty(), Steps::SKIP);
    run(&mut side, "CMRTN");
    side.receive(command('B')).unwrap();
    assert_eq!(side.body(BodyVerdict::Skip), Ok(Some(Reply::Skip)));
    assert_eq!(run(&mut side, "BEMRTNB"), "c Ec Mc Rc Tc Nc Bc");

    let mut side = with(Actions::empty(), Steps::empty());
    run(&mut side, "CMRTN");
    side.receive(command('B')).unwrap();
    assert_eq!(side.body(BodyVerdict::Skip), Ok(Some(Reply::Continue)));
    assert_eq!(run(&mut side, "BBE"), "c c Ec");
}

#[test]
fn body_inside_the_end_of_the_message() {
    let end = Command::EndOfMessage(b("last"));
    let last = Event::Body(b("last"));
    let mut side = with(Actions::empty(), Steps::empty());
    run(&mut side, "CMRTN");
    assert_eq!(side.receive(end.clone()), Ok(Step::Ask(last.clone())));
    assert_eq!(side.body(BodyVerdict::default()), Ok(None));
    assert_eq!(side.next_step(), Some(Step::Ask(Event::EndOfMessage)));
    assert_eq!(side.finish(Outcome::default()), Ok(vec![Reply::Continue]));

    run(&mut side, "MRTN");
    side.receive(end.clone()).unwrap();
    let verdict = BodyVerdict::Go(Verdict::Reject);
    assert_eq!(side.body(verdict), Ok(Some(Reply::Reject)));
    assert_eq!(side.next_step(), None);
    assert_eq!(run(&mut side, "MR"), "Mc Rc");

    let mut side = with(Actions::empty(), Steps::NR_BODY);
    run(&mut side, "CMRTN");
    assert_eq!(side.receive(end.clone()), Ok(Step::Tell(last)));
    assert_eq!(side.next_step(), Some(Step::Ask(Event::EndOfMessage)));
    side.finish(Outcome::default()).unwrap();

    let mut side = with(Actions::empty(), Steps::NO_BODY);
    run(&mut side, "CMRTN");
    assert_eq!(side.receive(end), Ok(Step::Ask(Event::EndOfMessage)));
}

fn finish(actions: Actions, outcome: Outcome) -> Result<Vec<Reply>, ProtocolError> {
    let mut side = with(actions, Steps::empty());
    run(&mut side, "CMRTN");
    side.receive(command('E')).unwrap();
    assert_eq!(side.progress(), Ok(Reply::Progress));
    let result = side.finish(outcome);
    assert_eq!(side.answer_owed(), result.is_err());
    result
}

#[test]
fn edits_go_before_the_verdict() {
    let edits = vec![
        Edit::change(1, "Subject", "a\r\n b"),
        Edit::insert(1, "X", "v"),
        Edit::add("Y", "w"),
    ];
    let outcome = |verdict| Outcome {
        edits: edits.clone(),
        verdict,
    };
    let expected = vec![
        Reply::Edit(Edit::change(1, "Subject", "a\n b")),
        Reply::Edit(Edit::insert(1, "X", "v")),
        Reply::Edit(Edit::add("Y", "w")),
        Reply::Accept,
    ];
    let all = Actions::all();
    assert_eq!(finish(all, outcome(Verdict::Accept)), Ok(expected));
    assert_eq!(
        finish(all, outcome(Verdict::Discard)),
        Ok(vec![Reply::Discard])
    );
    let text = SmtpReply::new(550, "5.7.1", "no").unwrap();
    let verdict = Verdict::Reply(text.clone());
    assert_eq!(
        finish(all, outcome(verdict)),
        Ok(vec![Reply::SmtpReply(text)])
    );
    let error = finish(Actions::ADD_HEADERS, outcome(Verdict::Accept)).unwrap_err();
    let reason = Reason::NotNegotiated(Actions::CHANGE_HEADERS);
    assert_eq!((error.fault, error.reason), (Fault::Filter, reason));
    let bad = Outcome {
        edits: vec![Edit::add("Bad Name", "v")],
        verdict: Verdict::Continue,
    };
    let error = finish(all, bad).unwrap_err();
    assert!(matches!(error.reason, Reason::Edit(_)), "{error}");
}

#[test]
fn pieces_of_a_new_body_are_put_together() {
    let big = Bytes::from(vec![b'x'; 200_000]);
    let outcome = Outcome {
        edits: vec![
            Edit::ReplaceBody(big),
            Edit::add("X", "v"),
            Edit::ReplaceBody(b("end\r\n")),
        ],
        verdict: Verdict::Continue,
    };
    let sizes: Vec<usize> = finish(Actions::all(), outcome)
        .unwrap()
        .iter()
        .map(|reply| match reply {
            Reply::Edit(Edit::ReplaceBody(piece)) => piece.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [CHUNK_MAX, CHUNK_MAX, CHUNK_MAX, 3395, 5, 0, 0]);
    let empty = Edit::ReplaceBody(Bytes::new());
    let outcome = Outcome {
        edits: vec![empty.clone()],
        verdict: Verdict::Continue,
    };
    let expected = vec![Reply::Edit(empty), Reply::Continue];
    assert_eq!(finish(Actions::all(), outcome), Ok(expected));
}

fn macros(stage: u8, pairs: &[(&'static str, &'static str)]) -> Command {
    let pairs = pairs.iter().map(|(name, value)| (b(name), b(value)));
    Command::Macros(Macros {
        stage,
        pairs: pairs.collect(),
    })
}

#[test]
fn macros_live_as_in_libmilter() {
    let mut facts = Facts::default();
    let value = |facts: &Facts, name| {
        let value = facts.macro_value(name);
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    };
    facts.note(&macros(b'C', &[("j", "mx"), ("{daemon_name}", "MTA")]));
    facts.note(&command('C'));
    facts.note(&macros(b'M', &[("i", "1"), ("{mail_addr}", "")]));
    facts.note(&command('M'));
    facts.note(&macros(b'R', &[("i", "2")]));
    facts.note(&macros(b'E', &[("{i}", "3")]));
    facts.note(&macros(b'L', &[("i", "4")]));
    assert_eq!(value(&facts, "i"), Some("3".into()));
    assert_eq!(value(&facts, "mail_addr"), Some(String::new()));
    assert_eq!(value(&facts, "daemon_name"), Some("MTA".into()));
    facts.note(&command('R'));
    assert_eq!(value(&facts, "i"), Some("2".into()));
    facts.note(&macros(b'M', &[("x", "y")]));
    assert_eq!(value(&facts, "i"), None);
    facts.note(&command('H'));
    assert_eq!(value(&facts, "x"), None);
    facts.note(&command('A'));
    assert_eq!(value(&facts, "j"), Some("mx".into()));
    assert_eq!(facts.helo(), Some(&b("c.test")));
    facts.note(&command('K'));
    assert_eq!(facts, Facts::default());
}
