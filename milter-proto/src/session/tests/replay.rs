//! The recorded conversations, replayed command by command.

use bytes::{Bytes, BytesMut};

use super::captures::{Capture, POSTFIX, SENDMAIL, edits};
use super::drive::{agreed_to, play};
use super::{run, with};
use crate::edit::Edit;
use crate::filter::Needs;
use crate::mail::{Mail, Rules};
use crate::message::{Header, Path};
use crate::session::*;
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::{Actions, Command, Decoder, Frame, Reply, Steps};

/// Answers with Continue, with Skip to body chunks where that was negotiated, and writes down what
/// it was told, with the queue id known at that moment.
fn answer(side: &mut FilterSide, event: Event, log: &mut Vec<String>) -> Option<Reply> {
    let id = side.facts().macro_value("i");
    let id = String::from_utf8_lossy(id.map_or(b"-", |id| id)).into_owned();
    let letter = char::from(event.clone().into_command().code());
    log.push(format!("{letter} {id}"));
    match event {
        Event::Connect(_) | Event::Helo(_) => side.greet(Greeting::Continue).ok(),
        Event::Body(_) if side.facts().steps().contains(Steps::SKIP) => {
            side.body(BodyVerdict::Skip).unwrap()
        }
        Event::Body(_) => side.body(BodyVerdict::default()).unwrap(),
        Event::EndOfMessage => side.finish(Outcome::default()).unwrap().pop(),
        _ => side.reply(Verdict::Continue).ok(),
    }
}

fn replay(capture: &Capture) -> Vec<String> {
    let (mut input, expected) = capture.streams();
    let needs = Needs {
        actions: Actions::all(),
        steps: Steps::from_bits_retain(capture.steps),
        macros: Vec::new(),
    };
    let mut side = FilterSide::new();
    let mut output = BytesMut::new();
    let mut log = Vec::new();
    let mut turns = capture.turns.iter();
    while let Some(frame) = Decoder::default().decode(&mut input).unwrap() {
        let before = output.len();
        let mut step = Some(side.receive(Command::parse(frame).unwrap()).unwrap());
        while let Some(now) = step {
            let reply = match now {
                Step::Negotiate(_) => Some(side.accept(&needs).unwrap()),
                Step::Ask(event) => answer(&mut side, event, &mut log),
                Step::Answer(reply) => Some(reply),
                Step::Tell(Event::Abort) => {
                    log.push("A".into());
                    None
                }
                Step::Tell(_) | Step::Silent | Step::Close => None,
            };
            if let Some(reply) = reply {
                reply.encode(&mut output).unwrap();
            }
            step = side.next_step();
        }
        let (command, reply) = turns.next().unwrap();
        let written = output.get(before + 4..).unwrap_or_default();
        assert_eq!(written, *reply, "{}", command.escape_ascii());
    }
    assert_eq!(output, expected);
    log
}

#[test]
fn postfix() {
    let log = replay(&POSTFIX).join(", ");
    let id = "1E2149DC027";
    let fields = format!("L {id}, ").repeat(8);
    let expected =
        format!("C -, H -, U -, M -, R -, R {id}, T {id}, {fields}N {id}, B {id}, E {id}, M -, A");
    assert_eq!(log, expected);
}

#[test]
fn sendmail() {
    let log = replay(&SENDMAIL).join(", ");
    let id = "6AMDhMMR013809";
    let expected = format!(
        "C -, H -, U -, M {id}, R {id}, R {id}, T {id}, L {id}, L {id}, L {id}, N {id}, B {id}, \
         E {id}, M -, A"
    );
    assert_eq!(log, expected);
}

fn frames(mut input: BytesMut) -> Vec<Frame> {
    let decoder = Decoder::default();
    std::iter::from_fn(|| decoder.decode(&mut input).unwrap()).collect()
}

/// The event that a command tells of.
fn event(command: Command) -> Option<Event> {
    Some(match command {
        Command::Connect(connection) => Event::Connect(connection),
        Command::Helo(name) => Event::Helo(name),
        Command::Mail(path) => Event::Mail(path),
        Command::Rcpt(path) => Event::Rcpt(path),
        Command::Data => Event::Data,
        Command::Header(field) => Event::Header(field),
        Command::EndOfHeaders => Event::EndOfHeaders,
        Command::Body(chunk) => Event::Body(chunk),
        Command::EndOfMessage(_) => Event::EndOfMessage,
        Command::Unknown(line) => Event::Unknown(line),
        Command::Abort => Event::Abort,
        Command::Negotiate(_) | Command::Macros(_) | Command::Quit | Command::QuitReuse => {
            return None;
        }
    })
}

/// Tells our driving side what the MTA had to tell, and compares what it sends. Postfix's ABORTs
/// outside a message are the one thing that it leaves out.
fn drives_as_recorded(capture: &Capture) {
    let (input, replies) = capture.streams();
    let commands = frames(input)
        .into_iter()
        .map(|frame| Command::parse(frame).unwrap());
    let replies = frames(replies)
        .into_iter()
        .map(|frame| Reply::parse(frame).unwrap());
    let (mut commands, mut replies) = (commands.peekable(), replies);
    let Some(Command::Negotiate(offer)) = commands.next() else {
        panic!("no offer");
    };
    let (mut side, first) = MtaSide::offer(offer.version, offer.actions, offer.steps);
    assert_eq!(first, Command::Negotiate(offer));
    assert_eq!(side.negotiated(replies.next().unwrap()), Ok(vec![]));
    while let Some(command) = commands.next() {
        let mut expected = vec![command.clone()];
        let (command, macros) = match command {
            Command::Macros(macros) => {
                let next = commands.next().unwrap();
                expected.push(next.clone());
                (next, Some(macros.pairs))
            }
            command => (command, None),
        };
        if command == Command::Quit {
            assert_eq!(side.quit(), [Command::Quit]);
            assert_eq!((commands.next(), replies.next()), (None, None));
            return;
        }
        if command == Command::Abort && !side.stage().in_message() {
            expected.clear();
        }
        let sent = side
            .send(event(command).unwrap(), macros.as_deref())
            .unwrap();
        assert_eq!((sent.commands, sent.then), (expected, None));
        if sent.expect != Expect::Nothing {
            side.receive(replies.next().unwrap()).unwrap();
        }
    }
    panic!("no end");
}

#[test]
fn postfix_from_the_other_side() {
    drives_as_recorded(&POSTFIX);
}

#[test]
fn sendmail_from_the_other_side() {
    drives_as_recorded(&SENDMAIL);
}

/// The recorded edits: as our filter side writes them, as our MTA side takes them, and what they
/// make of the header, which was the same on both MTAs.
#[test]
fn edits_in_the_order_that_both_mtas_agree_on() {
    let replies: Vec<Reply> = frames(edits())
        .into_iter()
        .map(|frame| Reply::parse(frame).unwrap())
        .collect();
    let recorded: Vec<Edit> = replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::Edit(edit) => Some(edit.clone()),
            _ => None,
        })
        .collect();
    let mut side = with(Actions::all(), Steps::empty());
    run(&mut side, "CMRTN");
    side.receive(Command::EndOfMessage(Bytes::new())).unwrap();
    let outcome = Outcome {
        edits: recorded.clone(),
        verdict: Verdict::Continue,
    };
    let mut out = BytesMut::new();
    for reply in side.finish(outcome).unwrap() {
        reply.encode(&mut out).unwrap();
    }
    assert_eq!(out, edits());

    let mut side = agreed_to(Actions::all());
    play(&mut side, "CcMcRcTcNcE");
    let mut taken = Vec::new();
    for reply in replies {
        match side.receive(reply).unwrap() {
            Answer::Edit(edit) => taken.push(edit),
            answer => assert_eq!(answer, Answer::Verdict(Verdict::Continue)),
        }
    }
    assert_eq!(taken, recorded);

    let names = "Received Received A A B From Message-Id Date Subject";
    let field = |name: &str| Header::new(name.to_owned(), "v");
    let header = names.split(' ').map(field).collect();
    let sender = Path {
        address: Bytes::new(),
        args: Vec::new(),
    };
    let mut mail = Mail::new(sender, Vec::new(), field("Own"), header);
    mail.apply(&taken, Rules::Postfix).unwrap();
    let names: Vec<String> = mail
        .header()
        .map(|field| String::from_utf8_lossy(&field.name).into_owned())
        .collect();
    let expected = "Top1 Top2 Own Below1 Below2 Received A Mid B From Message-Id Date Subject \
         Tail1 Tail2";
    assert_eq!(names.join(" "), expected);
}
