//! The recorded conversations, replayed command by command.

use bytes::BytesMut;

use super::captures::{Capture, POSTFIX, SENDMAIL};
use crate::filter::Needs;
use crate::session::*;
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::{Actions, Command, Decoder, Reply, Steps};

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
    let expected = "C -, H -, U -, M -, R -, R 1E2149DC027, T 1E2149DC027, \
         L 1E2149DC027, L 1E2149DC027, L 1E2149DC027, L 1E2149DC027, L 1E2149DC027, \
         L 1E2149DC027, N 1E2149DC027, B 1E2149DC027, E 1E2149DC027, M -, A";
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
