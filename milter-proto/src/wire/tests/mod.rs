//! The vectors, in both directions, and what does not fit.

mod cases;
mod fuzz;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::edit::Edit;
use crate::message::{Address, Connection, Header, Path};
use crate::verdict::{InvalidReply, SmtpReply};

fn hex(text: &str) -> BytesMut {
    text.split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn frames(mut input: BytesMut) -> Result<Vec<Frame>, WireError> {
    let decoder = Decoder::default();
    let mut all = Vec::new();
    while let Some(frame) = decoder.decode(&mut input)? {
        all.push(frame);
    }
    decoder.finish(&input)?;
    Ok(all)
}

pub(super) fn one(input: BytesMut) -> Frame {
    let mut all = frames(input).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn client(hostname: &'static str, address: Address) -> Command {
    Command::Connect(Connection {
        hostname: b(hostname),
        address,
    })
}

fn inet(hostname: &'static str, socket: &str) -> Command {
    client(hostname, Address::Inet(socket.parse().unwrap()))
}

fn path(address: &'static str, args: &[&'static str]) -> Path {
    Path {
        address: b(address),
        args: args.iter().map(|arg| b(arg)).collect(),
    }
}

fn offer(version: u32, actions: u32, steps: u32, macros: &[(MacroStage, &'static str)]) -> Offer {
    Offer {
        version,
        actions: Actions::from_bits_retain(actions),
        steps: Steps::from_bits_retain(steps),
        macros: macros
            .iter()
            .map(|(stage, names)| (*stage, b(names)))
            .collect(),
    }
}

pub(super) fn command_vectors() -> Vec<(&'static str, Command)> {
    [option_vectors(), envelope_vectors(), content_vectors()].concat()
}

fn option_vectors() -> Vec<(&'static str, Command)> {
    let macros = |stage, pairs: &[(&'static str, &'static str)]| {
        Command::Macros(Macros {
            stage,
            pairs: pairs.iter().map(|(k, v)| (b(k), b(v))).collect(),
        })
    };
    vec![
        (
            "00 00 00 0d 4f 00 00 00 06 00 00 01 ff 00 1f ff ff",
            Command::Negotiate(Offer::full()),
        ),
        (
            "00 00 00 0d 4f 00 00 00 02 00 00 01 ff 00 00 00 7f",
            Command::Negotiate(offer(2, 0x1ff, 0x7f, &[])),
        ),
        (
            "00 00 00 17 44 43 6a 00 6d 78 00 5f 00 78 20 5b 31 39 32 2e 30 2e 32 2e 31 5d 00",
            macros(b'C', &[("j", "mx"), ("_", "x [192.0.2.1]")]),
        ),
        ("00 00 00 02 44 48", macros(b'H', &[])),
        ("00 00 00 05 44 4d 69 00 00", macros(b'M', &[("i", "")])),
    ]
}

fn envelope_vectors() -> Vec<(&'static str, Command)> {
    vec![
        (
            "00 00 00 15 43 78 2e 74 65 73 74 00 34 04 d2 31 39 32 2e 30 2e 32 2e 31 00",
            inet("x.test", "192.0.2.1:1234"),
        ),
        (
            "00 00 00 17 43 78 2e 74 65 73 74 00 36 04 d2 32 30 30 31 3a 64 62 38 3a 3a 31 00",
            inet("x.test", "[2001:db8::1]:1234"),
        ),
        (
            "00 00 00 1c 43 78 2e 74 65 73 74 00 36 04 d2 49 50 76 36 3a 32 30 30 31 3a 64 62 38 \
             3a 3a 31 00",
            client(
                "x.test",
                Address::TaggedInet6("[2001:db8::1]:1234".parse().unwrap()),
            ),
        ),
        (
            "00 00 00 15 43 6c 6f 63 61 6c 68 6f 73 74 00 4c 00 00 2f 74 6d 70 2f 73 00",
            client("localhost", Address::Unix(b("/tmp/s"))),
        ),
        (
            "00 00 00 0a 43 75 6e 6b 6e 6f 77 6e 00 55",
            client("unknown", Address::Unknown),
        ),
        (
            "00 00 00 08 48 63 2e 74 65 73 74 00",
            Command::Helo(b("c.test")),
        ),
        ("00 00 00 04 4d 3c 3e 00", Command::Mail(path("<>", &[]))),
        ("00 00 00 02 4d 00", Command::Mail(path("", &[]))),
        (
            "00 00 00 1e 4d 3c 73 40 78 3e 00 42 4f 44 59 3d 38 42 49 54 4d 49 4d 45 00 \
             53 49 5a 45 3d 31 30 30 00",
            Command::Mail(path("<s@x>", &["BODY=8BITMIME", "SIZE=100"])),
        ),
        (
            "00 00 00 07 52 3c 72 40 78 3e 00",
            Command::Rcpt(path("<r@x>", &[])),
        ),
    ]
}

fn content_vectors() -> Vec<(&'static str, Command)> {
    vec![
        ("00 00 00 01 54", Command::Data),
        (
            "00 00 00 0e 4c 53 75 62 6a 65 63 74 00 61 0a 20 62 00",
            Command::Header(Header::new("Subject", "a\n b")),
        ),
        (
            "00 00 00 0c 4c 53 75 62 6a 65 63 74 00 20 61 00",
            Command::Header(Header::new("Subject", " a")),
        ),
        (
            "00 00 00 06 4c 58 00 ff fe 00",
            Command::Header(Header::new("X", &b"\xff\xfe"[..])),
        ),
        ("00 00 00 01 4e", Command::EndOfHeaders),
        ("00 00 00 05 42 68 69 0d 0a", Command::Body(b("hi\r\n"))),
        ("00 00 00 01 45", Command::EndOfMessage(Bytes::new())),
        (
            "00 00 00 05 45 6c 61 73 74",
            Command::EndOfMessage(b("last")),
        ),
        ("00 00 00 01 41", Command::Abort),
        ("00 00 00 01 51", Command::Quit),
        ("00 00 00 01 4b", Command::QuitReuse),
        (
            "00 00 00 08 55 42 41 52 20 7a 7a 00",
            Command::Unknown(b("BAR zz")),
        ),
    ]
}

fn reply_vectors() -> Vec<(&'static str, Reply)> {
    let edits = edit_vectors().into_iter();
    let edits = edits.map(|(bytes, edit)| (bytes, Reply::Edit(edit)));
    verdict_vectors().into_iter().chain(edits).collect()
}

fn verdict_vectors() -> Vec<(&'static str, Reply)> {
    let text = |text: &str| Reply::SmtpReply(SmtpReply::parse(text.as_bytes()).unwrap());
    let lists = [
        (MacroStage::Mail, "i {auth_authen}"),
        (MacroStage::EndOfMessage, "i {msg_id}"),
        (MacroStage::EndOfHeaders, "i"),
    ];
    vec![
        (
            "00 00 00 0d 4f 00 00 00 06 00 00 00 11 00 14 04 80",
            Reply::Negotiate(offer(6, 0x11, 0x14_0480, &[])),
        ),
        (
            "00 00 00 36 4f 00 00 00 06 00 00 01 11 00 00 00 00 00 00 00 02 69 20 7b 61 75 74 68 \
             5f 61 75 74 68 65 6e 7d 00 00 00 00 05 69 20 7b 6d 73 67 5f 69 64 7d 00 00 00 00 06 \
             69 00",
            Reply::Negotiate(offer(6, 0x111, 0, &lists)),
        ),
        ("00 00 00 01 63", Reply::Continue),
        ("00 00 00 01 61", Reply::Accept),
        ("00 00 00 01 72", Reply::Reject),
        ("00 00 00 01 74", Reply::TempFail),
        ("00 00 00 01 64", Reply::Discard),
        ("00 00 00 01 73", Reply::Skip),
        ("00 00 00 01 70", Reply::Progress),
        ("00 00 00 01 34", Reply::Shutdown),
        ("00 00 00 01 66", Reply::ConnectionFailed),
        (
            "00 00 00 0e 79 35 35 30 20 35 2e 37 2e 31 20 6e 6f 00",
            text("550 5.7.1 no"),
        ),
        (
            "00 00 00 1a 79 35 35 30 2d 35 2e 37 2e 31 20 61 0d 0a 35 35 30 20 35 2e 37 2e 31 20 \
             62 00",
            text("550-5.7.1 a\r\n550 5.7.1 b"),
        ),
    ]
}

fn edit_vectors() -> Vec<(&'static str, Edit)> {
    vec![
        ("00 00 00 07 68 58 2d 41 00 76 00", Edit::add("X-A", "v")),
        (
            "00 00 00 0b 69 00 00 00 00 58 2d 41 00 76 00",
            Edit::insert(0, "X-A", "v"),
        ),
        (
            "00 00 00 12 6d 00 00 00 02 52 65 63 65 69 76 65 64 00 6e 65 77 00",
            Edit::change(2, "Received", "new"),
        ),
        (
            "00 00 00 0e 6d 00 00 00 01 53 75 62 6a 65 63 74 00 00",
            Edit::delete(1, "Subject"),
        ),
        (
            "00 00 00 09 69 7f ff ff ff 58 00 76 00",
            Edit::insert(0x7fff_ffff, "X", "v"),
        ),
        (
            "00 00 00 06 62 6e 65 77 0d 0a",
            Edit::ReplaceBody(b("new\r\n")),
        ),
        ("00 00 00 01 62", Edit::ReplaceBody(Bytes::new())),
        ("00 00 00 07 65 3c 6e 40 78 3e 00", sender("<n@x>", "")),
        (
            "00 00 00 18 65 3c 6e 40 78 3e 00 52 45 54 3d 48 44 52 53 20 45 4e 56 49 44 3d 31 00",
            sender("<n@x>", "RET=HDRS ENVID=1"),
        ),
        ("00 00 00 07 2b 3c 61 40 78 3e 00", recipient("<a@x>", "")),
        (
            "00 00 00 14 32 3c 61 40 78 3e 00 4e 4f 54 49 46 59 3d 4e 45 56 45 52 00",
            recipient("<a@x>", "NOTIFY=NEVER"),
        ),
        (
            "00 00 00 07 2d 3c 61 40 78 3e 00",
            Edit::DeleteRecipient {
                address: b("<a@x>"),
            },
        ),
        (
            "00 00 00 05 71 77 68 79 00",
            Edit::Quarantine { reason: b("why") },
        ),
    ]
}

fn sender(address: &'static str, args: &'static str) -> Edit {
    Edit::ChangeSender {
        address: b(address),
        args: b(args),
    }
}

fn recipient(address: &'static str, args: &'static str) -> Edit {
    Edit::AddRecipient {
        address: b(address),
        args: b(args),
    }
}

#[test]
fn case_015_commands_both_ways() {
    for (bytes, command) in command_vectors() {
        let mut out = BytesMut::new();
        command.encode(&mut out).unwrap();
        assert_eq!(out, hex(bytes), "{command:?}");
        assert_eq!(Command::parse(one(hex(bytes))).unwrap(), command, "{bytes}");
    }
}

#[test]
fn case_015_replies_both_ways() {
    for (bytes, reply) in reply_vectors() {
        let mut out = BytesMut::new();
        reply.encode(&mut out).unwrap();
        assert_eq!(out, hex(bytes), "{reply:?}");
        assert_eq!(Reply::parse(one(hex(bytes))).unwrap(), reply, "{bytes}");
    }
}

#[test]
fn other_spellings_mean_the_same() {
    let check = |code, payload: &'static [u8], command: Command| {
        let payload = Bytes::from_static(payload);
        assert_eq!(Command::parse(Frame { code, payload }), Ok(command));
    };
    check(b'C', b"x\0U\0\0y\0", client("x", Address::Unknown));
    let text = Address::Unparsable {
        family: b'4',
        port: 25,
        text: b("192.0.2.256"),
    };
    check(b'C', b"x\x004\x00\x19192.0.2.256\0", client("x", text));
    check(
        b'L',
        b"X\0v\0more\0",
        Command::Header(Header::new("X", "v")),
    );
    let reply = |code, payload: &'static [u8], reply: Reply| {
        let payload = Bytes::from_static(payload);
        assert_eq!(Reply::parse(Frame { code, payload }), Ok(reply));
    };
    reply(b'c', b"bytes", Reply::Continue);
    reply(b'2', b"<a@x>\0", Reply::Edit(recipient("<a@x>", "")));
    let stage9 = b"\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\x09a\0\0\0\0\x02i\0";
    reply(
        b'O',
        stage9,
        Reply::Negotiate(offer(6, 0, 0, &[(MacroStage::Mail, "i")])),
    );
}

#[test]
fn commands_that_do_not_fit() {
    use Malformed as M;
    let command: &[(u8, &'static [u8], Malformed)] = &[
        (b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff", M::TooShort),
        (
            b'O',
            b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0\0\0",
            M::TooShort,
        ),
        (
            b'O',
            b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0\0\0\x01ab",
            M::NoNul,
        ),
        (b'D', b"", M::TooShort),
        (b'D', b"Ci\0x", M::NoNul),
        (b'D', b"Ci\0", M::NoValue),
        (b'C', b"x", M::NoNul),
        (b'C', b"x\0", M::TooShort),
        (b'C', b"x\x004", M::TooShort),
        (b'C', b"x\x004\0\0", M::NoNul),
        (b'C', b"x\x004\0\x01192.0.2.1", M::NoNul),
        (b'C', b"x\x004\0\x01192.0.2.1\0y\0", M::InnerNul),
        (b'C', b"x\x005\0\x01a\0", M::Family(b'5')),
        (b'H', b"", M::NoNul),
        (b'H', b"c.test", M::NoNul),
        (b'H', b"c\0test\0", M::InnerNul),
        (b'M', b"", M::NoNul),
        (b'M', b"<s@x>", M::NoNul),
        (b'M', b"<s@x>\0SIZE=1", M::NoNul),
        (b'R', b"<s@x>\0A\0B", M::NoNul),
        (b'T', b"x", M::Trailing),
        (b'L', b"X\0", M::NoNul),
        (b'L', b"X\0v", M::NoNul),
        (b'L', b"\0v\0", M::NoName),
        (b'L', b"X\0v\0w", M::NoNul),
        (b'N', b"\0", M::Trailing),
        (b'A', b"\0", M::Trailing),
        (b'U', b"BAR", M::NoNul),
        (b'Q', b"x", M::Trailing),
        (b'K', b"x", M::Trailing),
    ];
    for (code, payload, reason) in command {
        let payload = Bytes::from_static(payload);
        let error = Command::parse(Frame {
            code: *code,
            payload,
        })
        .unwrap_err();
        assert_eq!(error, reason.clone().of(*code), "{}", char::from(*code));
    }
}

#[test]
fn replies_that_do_not_fit() {
    use Malformed as M;
    let reply: &[(u8, &'static [u8], Malformed)] = &[
        (b'O', b"\0\0\0\x06", M::TooShort),
        (b'y', b"550 5.7.1 no", M::NoNul),
        (b'y', b"550 \x00no\0", M::InnerNul),
        (b'y', b"25 \0", M::Reply(InvalidReply::Malformed)),
        (b'h', b"X\0v", M::NoNul),
        (b'h', b"X\0v\0w\0", M::InnerNul),
        (b'h', b"\0v\0", M::NoName),
        (b'i', b"\0\0\0", M::TooShort),
        (b'm', b"\0\0\0\x01X\0", M::NoNul),
        (b'+', b"<a@x>", M::NoNul),
        (b'+', b"<a@x>\0A\0", M::InnerNul),
        (b'2', b"<a@x>\0A\0B\0", M::InnerNul),
        (b'-', b"", M::NoNul),
        (b'e', b"<a@x>\0A", M::NoNul),
        (b'q', b"why", M::NoNul),
    ];
    for (code, payload, reason) in reply {
        let payload = Bytes::from_static(payload);
        let error = Reply::parse(Frame {
            code: *code,
            payload,
        })
        .unwrap_err();
        assert_eq!(error, reason.clone().of(*code), "{}", char::from(*code));
    }
}

#[test]
fn unknown_types() {
    for code in [0x00, 0x01, b'X', b'l', 0xff] {
        let frame = Frame {
            code,
            payload: Bytes::new(),
        };
        assert_eq!(
            Command::parse(frame.clone()),
            Err(WireError::UnknownCode(code))
        );
        assert_eq!(Reply::parse(frame), Err(WireError::UnknownCode(code)));
    }
}

#[test]
fn streams_that_are_no_frames() {
    let check = |bytes: &[u8], error: WireError| {
        assert_eq!(frames(BytesMut::from(bytes)), Err(error), "{bytes:?}");
    };
    let cap = Decoder::CAP;
    check(b"\0\0\0\0", WireError::Empty);
    check(b"\0\0\0\0T", WireError::Empty);
    check(
        b"\0\x10\0\x02",
        WireError::TooLong {
            length: cap + 1,
            cap,
        },
    );
    check(
        b"\xff\xff\xff\xff",
        WireError::TooLong {
            length: u32::MAX,
            cap,
        },
    );
    check(b"UNKNOWN COMMAND\n", WireError::Text("UNKN".into()));
    check(b"GET / HTTP/1.1\r\n", WireError::Text("GET ".into()));
    check(b"EHLO x\r\n", WireError::Text("EHLO".into()));
    check(b"Hi\n", WireError::Text("Hi\n".into()));
    check(b"\0\0\0", WireError::CutOff { have: 3 });
    check(b"\0\0\0\x05Bhi", WireError::CutOff { have: 7 });
}

#[test]
fn case_034_a_frame_shares_the_buffer_that_was_read() {
    let mut input = BytesMut::new();
    Command::Body(b("hi\r\n")).encode(&mut input).unwrap();
    let place = input[5..].as_ptr();
    assert_eq!(one(input).payload.as_ptr(), place);
}

/// What a peer could make large: the number of strings in a payload, and the payload.
#[test]
fn no_payload_costs_many_times_its_bytes() {
    let code_of = |code: u8, payload: Vec<u8>| {
        let payload = payload.into();
        Command::parse(Frame { code, payload }).map(|command| command.code())
    };
    let repeated = |head: &[u8], one: &[u8], times: usize| {
        let mut payload = head.to_vec();
        payload.extend(std::iter::repeat_n(one, times).flatten());
        payload
    };
    let heads: [(u8, &[u8], &[u8]); 3] = [
        (b'D', b"C", b"\0\0"),
        (b'M', b"a\0", b"\0"),
        (b'R', b"a\0", b"\0"),
    ];
    for (code, head, one) in heads {
        assert_eq!(code_of(code, repeated(head, one, 1024)), Ok(code));
        let reason = Malformed::TooMany(1024);
        let refused = Err(WireError::Malformed { code, reason });
        assert_eq!(code_of(code, repeated(head, one, 1025)), refused);
    }
    for code in *b"HMRU" {
        let long = |length: usize| repeated(&[], b"x", length - 1).into_iter().chain([0]);
        assert_eq!(code_of(code, long(COMMAND_MAX).collect()), Ok(code));
        let reason = Malformed::TooLong(COMMAND_MAX);
        let refused = Err(WireError::Malformed { code, reason });
        assert_eq!(code_of(code, long(COMMAND_MAX + 1).collect()), refused);
    }
    for code in *b"BE" {
        assert_eq!(code_of(code, vec![b'x'; 1 << 20]), Ok(code));
    }
}

#[test]
fn case_013_strings_with_a_nul_are_not_written() {
    let mut out = BytesMut::new();
    let nul = b("a\0b");
    let commands = [
        Command::Helo(nul.clone()),
        Command::Unknown(nul.clone()),
        Command::Header(Header::new("X", nul.clone())),
        Command::Mail(path("<s@x>", &["A\0B"])),
        client("x", Address::Unix(nul.clone())),
        client("x\0y", Address::Unknown),
        Command::Macros(Macros {
            stage: b'C',
            pairs: vec![(b("i"), nul.clone())],
        }),
    ];
    for command in commands {
        let error = Malformed::InnerNul.of(command.code());
        assert_eq!(command.encode(&mut out), Err(error));
    }
    let replies = [
        Reply::Edit(Edit::add("X", nul.clone())),
        Reply::Edit(Edit::insert(0, nul.clone(), "v")),
        Reply::Edit(sender("a\0b", "")),
        Reply::Edit(Edit::Quarantine {
            reason: nul.clone(),
        }),
        Reply::Negotiate(offer(6, 0, 0, &[(MacroStage::Mail, "a\0b")])),
    ];
    for reply in replies {
        let error = Malformed::InnerNul.of(reply.code());
        assert_eq!(reply.encode(&mut out), Err(error));
    }
    assert!(out.is_empty());
}
