//! Random talk of an SMTP client: one or two connections with messages of all shapes, and whatever
//! else clients say.

use bytes::Bytes;
use milter_proto::testkit::{Dialogue, SmtpStep};

use super::dice::Dice;
use super::generate::NAMES;
use super::postfix::REFUSED;

const SENDERS: &[&str] = &[
    "<s@from.test>",
    "<>",
    "<s@from.test> BODY=8BITMIME",
    "<s@from.test> SIZE=1000",
    "<s@from.test> RET=HDRS ENVID=env1",
    "<S.Upper@From.Test>",
    "<\"quoted part\"@from.test>",
];

const RECIPIENTS: &[&str] = &[
    "<r1@equal.test>",
    "<r2@equal.test>",
    "<r3@equal.test> NOTIFY=NEVER",
    "<r1@equal.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;orig@x.test",
    "<r4@other.test>",
    "<R1@Equal.Test>",
    "<>",
    "<not an address",
];

const ASIDES: &[&str] = &[
    "NOOP",
    "FOO bar baz",
    "BAR",
    "VRFY r1@equal.test",
    "RSET",
    "HELP",
];

/// What Postfix takes from clients that it trusts: another client speaks from here on.
const POSES: &[&str] = &[
    "XCLIENT NAME=other.test",
    "XCLIENT NAME=spike.test ADDR=127.0.0.9 PORT=1234",
    "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=other.test",
];

const VALUES: &[&[u8]] = &[
    b" v1",
    b"v2",
    b"",
    b" ",
    b"  two spaces",
    b"\ttab",
    b" a\r\n\tfolded",
    b" a\r\n b\r\n  c",
    b"\r\n folded at once",
    b" caf\xc3\xa9 \xff",
    b" 100% sure",
    b" trailing  ",
    b" bare\rcr",
    b" nul\0inside",
];

/// The talk on each connection.
pub(super) fn dialogues(dice: &mut Dice) -> Vec<Dialogue> {
    let count = if dice.once_in(8) { 2 } else { 1 };
    (0..count).map(|_| dialogue(dice)).collect()
}

fn dialogue(dice: &mut Dice) -> Dialogue {
    let mut steps = Vec::new();
    greet(dice, &mut steps);
    for _ in 0..1 + dice.roll(3) {
        aside(dice, &mut steps);
        message(dice, &mut steps);
        if dice.once_in(8) {
            greet(dice, &mut steps);
        } else if dice.once_in(16) {
            // From here on it poses as somebody else, as far as the server knows of that.
            say(&mut steps, *dice.pick(POSES));
            greet(dice, &mut steps);
        }
    }
    if !dice.once_in(8) {
        say(&mut steps, "QUIT");
    }
    Dialogue { steps }
}

fn say(steps: &mut Vec<SmtpStep>, line: impl Into<Bytes>) {
    steps.push(SmtpStep::Command(line.into()));
}

fn greet(dice: &mut Dice, steps: &mut Vec<SmtpStep>) {
    let greeting = *dice.pick(&[
        "EHLO client.test",
        "EHLO client.test",
        "HELO client.test",
        "EHLO [1.2.3.4]",
    ]);
    say(steps, greeting);
}

fn aside(dice: &mut Dice, steps: &mut Vec<SmtpStep>) {
    if dice.once_in(6) {
        say(steps, *dice.pick(ASIDES));
    }
}

fn message(dice: &mut Dice, steps: &mut Vec<SmtpStep>) {
    say(steps, format!("MAIL FROM:{}", dice.pick(SENDERS)));
    aside(dice, steps);
    interruption(dice, steps);
    for _ in 0..1 + dice.roll(3) {
        let recipient = match dice.roll(10) {
            0 | 1 => format!("<{}>", dice.pick(&REFUSED)),
            2 => (*dice.pick(RECIPIENTS)).to_owned(),
            _ => (*dice.pick(&RECIPIENTS[..4])).to_owned(),
        };
        say(steps, format!("RCPT TO:{recipient}"));
        aside(dice, steps);
    }
    interruption(dice, steps);
    match dice.roll(16) {
        0 => say(steps, "RSET"),
        1 => say(steps, "QUIT"),
        _ => {
            say(steps, "DATA");
            steps.push(SmtpStep::Message(lines(dice)));
        }
    }
}

/// Something that a message does not survive, or that cannot be said in the middle of one. Mostly
/// the client begins the message again.
fn interruption(dice: &mut Dice, steps: &mut Vec<SmtpStep>) {
    if !dice.once_in(16) {
        return;
    }
    match dice.roll(4) {
        0 => say(steps, "MAIL FROM:<again@from.test>"),
        1 => say(steps, "RSET"),
        _ => greet(dice, steps),
    }
    if !dice.once_in(4) {
        say(steps, "MAIL FROM:<s@from.test>");
        say(steps, "RCPT TO:<r2@equal.test>");
    }
}

/// Header, empty line, body.
fn lines(dice: &mut Dice) -> Vec<Bytes> {
    let mut lines = Vec::new();
    for _ in 0..dice.roll(8) {
        let name = dice.pick(NAMES).as_bytes();
        let value: &[u8] = dice.pick::<&[u8]>(VALUES);
        let field = [name, b":", value].concat();
        let pieces: Vec<&[u8]> = field.split_inclusive(|byte| *byte == b'\n').collect();
        for piece in pieces {
            let line = piece.strip_suffix(b"\r\n").unwrap_or(piece);
            lines.push(Bytes::copy_from_slice(line));
        }
    }
    if dice.once_in(12) {
        // No empty line: the header ends where something else begins.
        lines.push(Bytes::from_static(b"this is no header field"));
    } else {
        lines.push(Bytes::new());
    }
    lines.extend(body(dice));
    lines
}

fn body(dice: &mut Dice) -> Vec<Bytes> {
    let text: &[&[u8]] = match dice.roll(8) {
        0 => &[],
        1 => &[b""],
        2 => &[b".", b"..", ".x".as_bytes()],
        3 => &[b"bare\rcr", b"bare\nlf"],
        4 => &[b"nul\0here", b"8bit \xff\xfe", b""],
        5 => {
            let count = 1000 + dice.roll(2500);
            let line = Bytes::from_static(b"a line of a body that is too long for a single chunk");
            return vec![line; count];
        }
        _ => &[b"hello", b"", b"world"],
    };
    text.iter().map(|line| Bytes::from_static(line)).collect()
}
