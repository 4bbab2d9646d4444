//! Scripts as text: what is printed reads back, and mistakes are named.

use std::time::Duration;

use bytes::Bytes;

use crate::edit::Edit;
use crate::message::{Address, Connection, Header, Path};
use crate::testkit::*;
use crate::verdict::SmtpReply;
use crate::wire::{Actions, Command, MacroStage, Macros, Offer, Reply, Steps};

#[test]
fn a_text_that_an_administrator_could_write() {
    let text = r#"# two filters, and what becomes of a message
filter first
  actions add-headers change-headers
  steps no-helo nr-header skip
  macros mail "i {auth_authen}"
  at rcpt 2: reply "550 5.7.1 no"
  at header 3 of-connection in-message 2 on-connection 1: wait 100ms; progress; continue
  at end: add "X-A" "v"; insert 0 "X-B" "v"; delete 1 "X-C"; continue
filter second
  at end: replace-body "abc\r\n" * 1000; continue
  at quit: nothing
chain [first second]
  strict
  timeout first 500ms
  on-failure second accept
mta
  > connect "mx.test" [2001:db8::1]:4000
  < continue
  > rcpt "<b@x>" "NOTIFY=NEVER"
  < any reply; nothing
  > frame "x"
  > raw "\0"
  < closed
smtp
  C: EHLO client.test
  | Subject: x
  |
  |  folded
  | "tab\t"
  C: QUIT
told first: connect rcpt
told second on 2: helo
told first has rcpt "<b@x>" "NOTIFY=NEVER"
told second has-not data
told second connections 1
"#;
    let scenario = Scenario::parse("test", text).unwrap();
    let printed = scenario.to_string();
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    assert_eq!(plain(&printed), plain(text));
    assert_eq!(Scenario::parse("test", &printed).unwrap(), scenario);
    let Act::Say(Reply::Edit(Edit::ReplaceBody(body))) = &scenario.filters[1].cues[0].acts[0]
    else {
        panic!("{:?}", scenario.filters[1]);
    };
    assert_eq!(body.len(), 5000);
}

#[test]
fn a_statement_goes_on_behind_a_semicolon() {
    let read = |text: &str| Scenario::parse("test", text);
    let filter = "filter a\n at end: add \"X\" \"v;\"";
    let rest = "smtp\n C: A;\n C: B";
    let one = read(&format!(
        "{filter}; continue\n at quit: nothing # so;\n{rest}"
    ));
    let two = read(&format!("{filter};\n  continue\n at quit: nothing\n{rest}"));
    assert_eq!(one.unwrap(), two.unwrap());
    let lines = [
        "filter a\n at end: continue;\n nonsense",
        "filter a\n at end: continue;",
    ];
    for text in lines {
        assert!(read(text).is_err_and(|error| error.line == 2), "{text}");
    }
}

#[test]
fn without_a_chain_the_filters_stand_as_written() {
    let scenario = Scenario::parse("test", "filter b\nfilter a").unwrap();
    assert_eq!(scenario.chain, Chain::of(["b", "a"]));
}

/// Texts, and how the error begins.
const MISTAKES: [(&str, &str); 32] = [
    (
        "filter",
        "x.milter:1: the line ends where the filter's name",
    ),
    (
        "filter a/b",
        "x.milter:1: \"a/b\" is no name: write letters",
    ),
    (
        "filter a\n\nfilter a",
        "x.milter:3: there is a filter \"a\" already: ",
    ),
    (
        "filter a b",
        "x.milter:1: \"b\" is too much here: end the line",
    ),
    (
        "filters",
        "x.milter:1: \"filters\" is no statement: write filter, chain",
    ),
    (
        "\"x\"",
        "x.milter:1: the string \"x\" stands where a statement is",
    ),
    (
        "filter a\nfoo",
        "x.milter:2: \"foo\" says nothing about a filter: ",
    ),
    (
        "filter a\nactions fly",
        "x.milter:2: \"fly\" is no action: write all, none",
    ),
    ("filter a\nsteps", "x.milter:2: no step is named: write all"),
    (
        "filter a\nmacros body \"i\"",
        "x.milter:2: \"body\" has no macros",
    ),
    (
        "filter a\nat lunch: reject",
        "x.milter:2: \"lunch\" is no stage: write open",
    ),
    (
        "filter a\nat rcpt reject",
        "x.milter:2: \"reject\" stands where ':'",
    ),
    (
        "filter a\nat rcpt: fly",
        "x.milter:2: \"fly\" is nothing that a filter does",
    ),
    ("filter a\nat rcpt: reply \"250 ok\"", "x.milter:2: "),
    (
        "filter a\nat rcpt: wait 5",
        "x.milter:2: \"5\" is no time: write 100ms or 2s",
    ),
    (
        "filter a\nat end: add X \"v\"",
        "x.milter:2: \"X\" stands where a field's name in",
    ),
    (
        "filter a\nat end: add \"X\\q\"",
        "x.milter:2: a backslash is not",
    ),
    (
        "filter a\nat end: raw \"\\x0g\"",
        "x.milter:2: \\x is not followed by two",
    ),
    (
        "filter a\nat end: add \"X",
        "x.milter:2: a string has no end: write \"",
    ),
    (
        "chain a",
        "x.milter:1: there is no filter \"a\": write filter a",
    ),
    (
        "filter a\nchain a a",
        "x.milter:2: \"a\" stands in the chain twice: ",
    ),
    (
        "filter a\nchain [a",
        "x.milter:2: the line ends where a filter's name or ]",
    ),
    (
        "filter a\nchain a\non-failure a shrug",
        "x.milter:3: \"shrug\" is no policy: ",
    ),
    (
        "filter a\nchain\ntimeout a 1s",
        "x.milter:3: \"a\" is not in the chain: ",
    ),
    (
        "> quit",
        "x.milter:1: \">\" stands outside of a conversation: write a line",
    ),
    (
        "| x",
        "x.milter:1: \"|\" stands outside of a conversation: write a line \"smtp\"",
    ),
    (
        "mta\n> jump",
        "x.milter:2: \"jump\" is no command: write negotiate",
    ),
    (
        "mta\n> connect \"h\" 1.2.3",
        "x.milter:2: \"1.2.3\" is no address with a port: ",
    ),
    ("mta\n< any fly", "x.milter:2: \"fly\" is no reply: write"),
    (
        "smtp\nC: \"x\" y",
        "x.milter:2: something follows the string: ",
    ),
    ("told a: helo", "x.milter:1: there is no filter \"a\""),
    (
        "filter a\n\nat end: replace-body \"0123456789\" * 99999999",
        "x.milter:3: that string is too long: ",
    ),
];

#[test]
fn mistakes_say_where_and_what_to_write() {
    for (text, message) in MISTAKES {
        let error = Scenario::parse("x.milter", text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}

/// Numbers out of what the fuzzer gives; zeros when it has nothing more.
struct Source<'a>(std::slice::Iter<'a, u8>);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn number(&mut self) -> u32 {
        u32::from(self.below(5)) * u32::from(self.byte()) * 77_777
    }

    fn bytes(&mut self) -> Bytes {
        let length = match self.below(8) {
            7 => 250 + usize::from(self.byte()),
            short => usize::from(short),
        };
        let palette = b"ab \"\\\r\n\t\0#;:|\xff\xe9\x7f*]";
        let mut one = || {
            let index = usize::from(self.byte()) % palette.len();
            palette[index]
        };
        (0..length).map(|_| one()).collect()
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 1).then(|| one(self))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn offer(&mut self) -> Offer {
        if self.below(4) == 0 {
            return Offer::full();
        }
        Offer {
            version: self.number(),
            actions: Actions::from_bits_retain(self.number()),
            steps: Steps::from_bits_retain(self.number()),
            macros: self.list(|it| (it.pick(&MacroStage::ALL), it.bytes())),
        }
    }

    fn address(&mut self) -> Address {
        match self.below(5) {
            0 => Address::Unknown,
            1 => Address::Unix(self.bytes()),
            2 => Address::Inet(
                self.pick(&["192.0.2.1:25", "[2001:db8::1]:0"])
                    .parse()
                    .unwrap(),
            ),
            3 => Address::TaggedInet6("[2001:db8::1]:25".parse().unwrap()),
            _ => Address::Unparsable {
                family: self.pick(b"46L"),
                port: u16::from(self.byte()),
                text: self.bytes(),
            },
        }
    }

    fn command(&mut self) -> Command {
        let path = |it: &mut Self| Path {
            address: it.bytes(),
            args: it.list(Self::bytes),
        };
        match self.below(15) {
            0 => Command::Negotiate(self.offer()),
            1 => Command::Macros(Macros {
                stage: self.byte(),
                pairs: self.list(|it| (it.bytes(), it.bytes())),
            }),
            2 => Command::Connect(Connection {
                hostname: self.bytes(),
                address: self.address(),
            }),
            3 => Command::Helo(self.bytes()),
            4 => Command::Mail(path(self)),
            5 => Command::Rcpt(path(self)),
            6 => Command::Data,
            7 => Command::Header(Header::new(self.bytes(), self.bytes())),
            8 => Command::EndOfHeaders,
            9 => Command::Body(self.bytes()),
            10 => Command::EndOfMessage(self.bytes()),
            11 => Command::Abort,
            12 => Command::Unknown(self.bytes()),
            13 => Command::Quit,
            _ => Command::QuitReuse,
        }
    }

    fn edit(&mut self) -> Edit {
        match self.below(8) {
            0 => Edit::add(self.bytes(), self.bytes()),
            1 => Edit::insert(self.number(), self.bytes(), self.bytes()),
            2 => Edit::change(self.number(), self.bytes(), self.bytes()),
            3 => Edit::AddRecipient {
                address: self.bytes(),
                args: self.bytes(),
            },
            4 => Edit::DeleteRecipient {
                address: self.bytes(),
            },
            5 => Edit::ChangeSender {
                address: self.bytes(),
                args: self.bytes(),
            },
            6 => Edit::ReplaceBody(self.bytes()),
            _ => Edit::Quarantine {
                reason: self.bytes(),
            },
        }
    }

    fn reply(&mut self) -> Reply {
        match self.below(14) {
            0 => Reply::Negotiate(self.offer()),
            1 => Reply::Continue,
            2 => Reply::Accept,
            3 => Reply::Reject,
            4 => Reply::TempFail,
            5 => Reply::Discard,
            6 => Reply::Skip,
            7 => Reply::Progress,
            8 => Reply::Shutdown,
            9 => Reply::ConnectionFailed,
            10 => Reply::SmtpReply(SmtpReply::new(550, "5.7.1", "100% no\n\"x\"").unwrap()),
            _ => Reply::Edit(self.edit()),
        }
    }

    fn time(&mut self) -> Duration {
        Duration::from_millis(u64::from(self.number()))
    }

    fn act(&mut self) -> Act {
        match self.below(8) {
            0 => Act::Raw(self.bytes()),
            1 => Act::Wait(self.time()),
            2 => Act::Close,
            3 => Act::Hang,
            _ => Act::Say(self.reply()),
        }
    }

    fn cue(&mut self) -> Cue {
        Cue {
            at: self.pick(&At::ALL),
            nth: self.maybe(|it| match it.below(2) {
                0 => Nth::OfMessage(it.number()),
                _ => Nth::OfConnection(it.number()),
            }),
            message: self.maybe(Self::number),
            connection: self.maybe(Self::number),
            acts: self.list(Self::act),
        }
    }

    fn turn(&mut self) -> Turn {
        match self.below(6) {
            0 => Turn::Raw(self.bytes()),
            1 => Turn::Wait(self.time()),
            2 => Turn::Close,
            3 => Turn::Send(self.command()),
            _ => {
                let mut expected = self.list(|it| match it.below(5) {
                    0 => Expect::Kind(it.pick(b"Ocartdspy4fhim+2-ebq")),
                    1 => Expect::Silence,
                    2 => Expect::Closed,
                    _ => Expect::Reply(it.reply()),
                });
                expected.push(Expect::Silence);
                Turn::Expect(expected)
            }
        }
    }

    fn step(&mut self) -> SmtpStep {
        SmtpStep::Command(self.bytes())
    }

    fn claim(&mut self) -> Claim {
        let filter = self.pick(&["a", "b"]).to_owned();
        match self.below(4) {
            0 => Claim::Sequence {
                filter,
                connection: self.maybe(Self::number),
                commands: self.list(|it| it.pick(&At::ALL)),
            },
            1 => Claim::Has {
                filter,
                command: self.command(),
            },
            2 => Claim::HasNot {
                filter,
                command: self.command(),
            },
            _ => Claim::Connections {
                filter,
                count: self.number(),
            },
        }
    }

    fn scenario(&mut self) -> Scenario {
        let filter = |it: &mut Self, name: &str| FilterScript {
            name: name.to_owned(),
            offer: it.offer(),
            cues: it.list(Self::cue),
        };
        let mut chain = Chain::of(self.pick(&[&["a"][..], &["b", "a"], &[]]).iter().copied());
        if self.below(2) == 1 {
            chain.segments = vec![chain.segments.concat()];
        }
        chain.strict = self.below(2) == 1;
        for place in chain.segments.iter_mut().flatten() {
            place.on_failure = self.maybe(|it| it.pick(&OnFailure::ALL));
            place.timeout = self.maybe(Self::time);
        }
        Scenario {
            filters: vec![filter(self, "a"), filter(self, "b")],
            chain,
            mtas: self.list(|it| MtaScript {
                turns: it.list(Self::turn),
            }),
            smtp: self.list(|it| {
                let mut steps = it.list(Self::step);
                // Two messages in a row would be one.
                steps.push(SmtpStep::Message(vec![it.bytes(), it.bytes()]));
                Dialogue { steps }
            }),
            claims: self.list(Self::claim),
        }
    }
}

#[test]
fn what_is_printed_reads_back() {
    bolero::check!()
        .with_max_len(2048)
        .with_iterations(3000)
        .for_each(|entropy: &[u8]| {
            let scenario = Source(entropy.iter()).scenario();
            let text = scenario.to_string();
            let read = Scenario::parse("printed", &text);
            assert_eq!(read.as_ref(), Ok(&scenario), "{text}");
        });
}

#[test]
fn no_text_is_too_strange() {
    bolero::check!()
        .with_max_len(512)
        .with_iterations(3000)
        .for_each(|text: &[u8]| {
            let lines = ["filter a", "chain a", "mta", "smtp", "told a"];
            let text = String::from_utf8_lossy(text);
            for line in lines {
                let _ = Scenario::parse("strange", &format!("{line}\n{text}"));
                let _ = Scenario::parse("strange", &format!("filter a\n{line} {text}"));
            }
        });
}
