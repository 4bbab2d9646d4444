//! Both sides driven against each other, and each against nonsense: one answer for each question,
//! never one too many, and no panic.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::edit::Edit;
use crate::filter::Needs;
use crate::message::{Address, Connection, Header, Path};
use crate::session::*;
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::{Actions, Command, Decoder, Macros, Offer, Reply, Steps};

fn path(byte: u8) -> Path {
    Path {
        address: Bytes::from(format!("<{byte}@x>")),
        args: Vec::new(),
    }
}

fn client() -> Connection {
    Connection {
        hostname: Bytes::from_static(b"x"),
        address: Address::Unknown,
    }
}

fn event(byte: u8) -> Event {
    match byte % 16 {
        0 => Event::Connect(client()),
        1 => Event::Helo(Bytes::from_static(b"h")),
        2 | 12 => Event::Mail(path(byte)),
        3 | 13 => Event::Rcpt(path(byte)),
        4 => Event::Data,
        5 => Event::Header(Header::new("X", "v")),
        6 => Event::EndOfHeaders,
        7 => Event::Body(Bytes::from_static(b"body")),
        8 | 14 | 15 => Event::EndOfMessage,
        9 => Event::Unknown(Bytes::from_static(b"u")),
        10 => Event::Abort,
        _ => Event::QuitReuse,
    }
}

fn command(byte: u8) -> Command {
    match byte {
        0..20 => Command::Macros(Macros {
            stage: byte,
            pairs: Vec::new(),
        }),
        20..25 => Command::EndOfMessage(Bytes::from_static(b"last")),
        25..28 => Command::Negotiate(Offer::full()),
        28..30 => Command::Quit,
        30.. => event(byte).into_command(),
    }
}

fn verdict(byte: u8) -> Verdict {
    match byte {
        0..200 => Verdict::Continue,
        200..210 => Verdict::Accept,
        210..225 => Verdict::Reject,
        225..240 => Verdict::TempFail,
        240.. => Verdict::Discard,
    }
}

fn edits(byte: u8) -> Vec<Edit> {
    vec![
        Edit::add("X", format!("{byte}\r\nY: z")),
        Edit::delete(u32::from(byte), "X"),
        Edit::ReplaceBody(Bytes::from(vec![byte; usize::from(byte) * 1000])),
        Edit::Quarantine {
            reason: Bytes::from_static(b"why"),
        },
    ]
}

/// A filter that answers whatever it is asked; replies go through bytes.
struct Filter {
    side: FilterSide,
    needs: Needs,
    answers: Vec<u8>,
}

impl Filter {
    fn byte(&mut self) -> u8 {
        self.answers.pop().unwrap_or(0)
    }

    /// All replies to one command.
    fn take(&mut self, command: Command) -> Vec<Reply> {
        let mut replies = Vec::new();
        let mut step = Some(self.side.receive(command).unwrap());
        while let Some(now) = step {
            match now {
                Step::Negotiate(_) => replies.push(self.side.accept(&self.needs).unwrap()),
                Step::Ask(event) => replies.extend(self.decide(&event)),
                Step::Answer(reply) => replies.push(reply),
                Step::Tell(_) | Step::Silent | Step::Close => {}
            }
            step = self.side.next_step();
        }
        assert!(!self.side.answer_owed());
        replies
    }

    fn decide(&mut self, event: &Event) -> Vec<Reply> {
        let byte = self.byte();
        let verdict = verdict(byte);
        match event {
            Event::Connect(_) | Event::Helo(_) => {
                let greeting = if byte > 200 {
                    Greeting::Accept
                } else {
                    Greeting::Continue
                };
                vec![self.side.greet(greeting).unwrap()]
            }
            Event::Body(_) if byte.is_multiple_of(7) => {
                Vec::from_iter(self.side.body(BodyVerdict::Skip).unwrap())
            }
            Event::Body(_) => Vec::from_iter(self.side.body(BodyVerdict::Go(verdict)).unwrap()),
            Event::EndOfMessage => {
                let mut outcome = Outcome::from(verdict);
                outcome.edits = edits(byte);
                let error = Outcome::from(Verdict::TempFail);
                let result = self.side.finish(outcome);
                result.unwrap_or_else(|_| self.side.finish(error).unwrap())
            }
            Event::Unknown(_) => {
                let result = self.side.reply(verdict);
                vec![result.unwrap_or_else(|_| self.side.reply(Verdict::Reject).unwrap())]
            }
            _ => vec![self.side.reply(verdict).unwrap()],
        }
    }
}

fn over_the_wire(command: &Command) -> Command {
    let mut out = BytesMut::new();
    command.encode(&mut out).unwrap();
    let frame = Decoder::default().decode(&mut out).unwrap().unwrap();
    Command::parse(frame).unwrap()
}

/// Sends what `send` made of an event, and checks that just what it expects comes back.
fn exchange(mta: &mut MtaSide, filter: &mut Filter, sent: &Sent) {
    let mut replies = Vec::new();
    for command in &sent.commands {
        replies.extend(filter.take(over_the_wire(command)));
        assert_eq!(filter.side.take_complaint(), None, "{command:?}");
    }
    let mut verdicts = 0;
    for reply in replies {
        match mta.receive(reply).unwrap() {
            Answer::Progress | Answer::Edit(_) => assert_eq!(sent.expect, Expect::EndOfMessage),
            Answer::Verdict(_) | Answer::Skip => verdicts += 1,
        }
    }
    assert_eq!(verdicts, i32::from(sent.expect != Expect::Nothing));
    assert!(!mta.answer_owed());
}

type Input = ((u32, u32, u32), (u32, u32), Vec<u8>, Vec<u8>);

fn converse(input: &Input) {
    let ((version, offered, possible), (actions, wished), events, answers) = input;
    let offered = Actions::from_bits_truncate(*offered);
    let (mut mta, opening) = MtaSide::offer(
        2 + version % 5,
        offered,
        Steps::from_bits_truncate(*possible),
    );
    let mut filter = Filter {
        side: FilterSide::new(),
        needs: Needs {
            actions: Actions::from_bits_truncate(*actions) & offered,
            steps: Steps::from_bits_truncate(*wished),
            macros: Vec::new(),
        },
        answers: answers.clone(),
    };
    let mut replies = filter.take(over_the_wire(&opening));
    assert_eq!(replies.len(), 1);
    assert_eq!(mta.negotiated(replies.remove(0)), Ok(vec![]));
    for byte in events {
        let mut next = Some(event(*byte));
        while let Some(event) = next {
            let pairs: &[_] = &[];
            match mta.send(event, (*byte > 128).then_some(pairs)) {
                Ok(sent) => {
                    exchange(&mut mta, &mut filter, &sent);
                    next = sent.then;
                }
                Err(error) => {
                    assert_eq!(error.fault, Fault::Caller, "{error}");
                    next = None;
                }
            }
        }
    }
    for command in mta.quit() {
        assert!(filter.take(command).is_empty());
    }
}

#[test]
fn both_sides_stay_in_step() {
    bolero::check!()
        .with_type::<Input>()
        .with_test_time(Duration::from_secs(2))
        .for_each(converse);
}

/// Whether an MTA waits for a verdict after this command.
fn is_answered(command: &Command, steps: Steps) -> bool {
    let unanswered = match command {
        Command::Connect(_) => Steps::NR_CONNECT,
        Command::Helo(_) => Steps::NR_HELO,
        Command::Mail(_) => Steps::NR_MAIL,
        Command::Rcpt(_) => Steps::NR_RCPT,
        Command::Data => Steps::NR_DATA,
        Command::Header(_) => Steps::NR_HEADER,
        Command::EndOfHeaders => Steps::NR_EOH,
        Command::Body(_) => Steps::NR_BODY,
        Command::Unknown(_) => Steps::NR_UNKNOWN,
        Command::EndOfMessage(_) => return true,
        Command::Macros(_)
        | Command::Abort
        | Command::Quit
        | Command::QuitReuse
        | Command::Negotiate(_) => return false,
    };
    !steps.contains(unanswered)
}

#[test]
fn any_command_gets_the_answer_that_is_waited_for() {
    bolero::check!()
        .with_type::<(u32, u32, Vec<u8>, Vec<u8>)>()
        .with_test_time(Duration::from_secs(2))
        .for_each(|(possible, wished, commands, answers)| {
            let mut filter = Filter {
                side: FilterSide::new(),
                needs: Needs {
                    actions: Actions::ADD_HEADERS,
                    steps: Steps::from_bits_truncate(*wished),
                    macros: Vec::new(),
                },
                answers: answers.clone(),
            };
            filter.take(Command::Negotiate(Offer {
                steps: Steps::from_bits_retain(*possible),
                ..Offer::full()
            }));
            // A last word on content was given, and no message begun since: more content may have
            // been on the way, to which nobody waits for an answer.
            let mut over = false;
            for byte in commands {
                let command = command(*byte);
                if matches!(command, Command::Negotiate(_)) {
                    assert!(filter.side.receive(command).is_err());
                    continue;
                }
                let steps = filter.side.facts().steps();
                let answered = is_answered(&command, steps);
                let is_content = match &command {
                    Command::Header(_) | Command::EndOfHeaders | Command::Body(_) => true,
                    // The last piece of the body is in it.
                    Command::EndOfMessage(piece) => !piece.is_empty(),
                    _ => false,
                };
                let replies = filter.take(command);
                let finals = replies
                    .iter()
                    .filter(|reply| !matches!(reply, Reply::Edit(_)));
                let silent = over && is_content && replies.is_empty();
                assert_eq!(finals.count(), usize::from(answered && !silent));
                let in_order = filter.side.take_complaint().is_none();
                over |= is_content && in_order;
                over &= !filter.side.stage().in_message();
            }
        });
}

#[test]
fn no_reply_confuses_the_side_that_drives() {
    let reply = |byte: u8| match byte % 12 {
        0 => Reply::Continue,
        1 => Reply::Accept,
        2 => Reply::Reject,
        3 => Reply::TempFail,
        4 => Reply::Discard,
        5 => Reply::Skip,
        6 => Reply::Progress,
        7 => Reply::Edit(Edit::add("X", "v")),
        8 => Reply::Edit(Edit::ReplaceBody(Bytes::new())),
        9 => Reply::Shutdown,
        10 => Reply::ConnectionFailed,
        _ => Reply::Negotiate(Offer::full()),
    };
    bolero::check!()
        .with_type::<(u32, Vec<(u8, u8)>)>()
        .with_test_time(Duration::from_secs(1))
        .for_each(|(steps, script)| {
            let (mut mta, _) = MtaSide::offer(6, Actions::ADD_HEADERS, Steps::all());
            assert!(mta.receive(Reply::Continue).is_err());
            let wish = Offer {
                version: 6,
                actions: Actions::empty(),
                steps: Steps::from_bits_truncate(*steps),
                macros: Vec::new(),
            };
            mta.negotiated(Reply::Negotiate(wish)).unwrap();
            for (one, other) in script {
                let expected = mta.send(event(*one), None).map(|sent| sent.expect);
                if matches!(expected, Ok(Expect::Nothing)) {
                    assert!(mta.receive(reply(*other)).is_err());
                } else if mta.answer_owed() {
                    // Errors leave the answer owed; any verdict settles it.
                    let _ = mta.receive(reply(*other));
                    if mta.answer_owed() {
                        assert!(mta.send(Event::Abort, None).is_err());
                        mta.receive(Reply::Continue).unwrap();
                    }
                }
            }
        });
}
