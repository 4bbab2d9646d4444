//! The codec's cases of the conformance list, each by its number. Those that are tables stand
//! beside this file under theirs.

use bytes::{BufMut, Bytes, BytesMut};

use super::{b, client, frames, hex, inet, offer, one, path, recipient, sender};
use crate::edit::Edit;
use crate::message::{Address, Header};
use crate::wire::*;

fn command(code: u8, payload: &'static [u8]) -> Result<Command, WireError> {
    let payload = Bytes::from_static(payload);
    Command::parse(Frame { code, payload })
}

fn reply(code: u8, payload: &'static [u8]) -> Result<Reply, WireError> {
    let payload = Bytes::from_static(payload);
    Reply::parse(Frame { code, payload })
}

fn refuses(bytes: &[u8], error: &WireError) {
    assert_eq!(frames(BytesMut::from(bytes)).as_ref(), Err(error));
}

fn misfits(parsed: Result<Command, WireError>, code: u8, reason: Malformed) {
    assert_eq!(parsed, Err(WireError::Malformed { code, reason }));
}

#[test]
fn case_001_one_frame() {
    let frame = Frame {
        code: b'T',
        payload: Bytes::new(),
    };
    assert_eq!(frames(hex("00 00 00 01 54")), Ok(vec![frame]));
}

#[test]
fn case_002_three_frames_byte_by_byte() {
    let input = hex("00 00 00 01 54 00 00 00 03 42 68 69 00 00 00 01 45");
    let whole = frames(input.clone()).unwrap();
    assert_eq!(whole.len(), 3);
    let mut buffer = BytesMut::new();
    let mut pieces = Vec::new();
    for byte in input {
        buffer.put_u8(byte);
        pieces.extend(Decoder::default().decode(&mut buffer).unwrap());
    }
    assert_eq!(pieces, whole);
}

#[test]
fn case_003_length_zero() {
    refuses(b"\0\0\0\0", &WireError::Empty);
    refuses(b"\0\0\0\0T", &WireError::Empty);
}

/// The decoder never allocates: what it refuses stays in the buffer that the caller filled.
fn refused_in_place(bytes: &[u8], error: WireError) {
    let mut buffer = BytesMut::from(bytes);
    let before = (buffer.as_ptr(), buffer.capacity());
    assert_eq!(Decoder::default().decode(&mut buffer), Err(error));
    assert_eq!((buffer.as_ptr(), buffer.capacity()), before);
}

#[test]
fn case_004_over_the_cap() {
    let (length, cap) = (Decoder::CAP + 1, Decoder::CAP);
    refused_in_place(&length.to_be_bytes(), WireError::TooLong { length, cap });
}

#[test]
fn case_005_the_largest_length() {
    let (length, cap) = (u32::MAX, Decoder::CAP);
    refused_in_place(b"\xff\xff\xff\xff", WireError::TooLong { length, cap });
}

#[test]
fn case_006_the_end_inside_a_length_and_between_frames() {
    refuses(b"\0\0\0", &WireError::CutOff { have: 3 });
    assert_eq!(frames(BytesMut::new()), Ok(vec![]));
}

#[test]
fn case_007_the_end_inside_a_payload() {
    refuses(b"\0\0\0\x05Bhi", &WireError::CutOff { have: 7 });
}

fn is_text(bytes: &[u8], begins: &str) {
    let error = WireError::Text(begins.to_owned());
    refuses(bytes, &error);
    assert!(error.to_string().contains("not milter"), "{error}");
}

#[test]
fn case_008_text_of_a_log() {
    is_text(b"UNKNOWN COMMAND\n", "UNKN");
}

#[test]
fn case_009_http() {
    is_text(b"GET / HTTP/1.1\r\n", "GET ");
}

#[test]
fn case_010_the_largest_chunk_and_one_more() {
    let decode = |length: u32, cap: u32| {
        let mut input = BytesMut::new();
        input.put_u32(length);
        input.resize(4 + length as usize, b'B');
        Decoder::new(cap).decode(&mut input)
    };
    let payload = |length, cap| decode(length, cap).unwrap().unwrap().payload.len();
    assert_eq!(payload(65_536, 65_536), CHUNK_MAX);
    assert_eq!(payload(65_537, 65_537), CHUNK_MAX + 1);
    let (length, cap) = (65_537, 65_536);
    assert_eq!(decode(length, cap), Err(WireError::TooLong { length, cap }));
}

/// A frame of any type is a frame; what is unknown about it is said where commands and replies are
/// told apart, and the conversations decide.
#[test]
fn case_011_unknown_codes() {
    for code in [0x00, 0x01, b'Z', b'l', 0xff] {
        let frame = one(BytesMut::from(&[0, 0, 0, 1, code][..]));
        assert_eq!(frame.code, code);
        let unknown = WireError::UnknownCode(code);
        assert_eq!(Command::parse(frame.clone()), Err(unknown.clone()));
        assert_eq!(Reply::parse(frame), Err(unknown));
    }
}

fn written(reply: &Reply) -> BytesMut {
    let mut out = BytesMut::new();
    reply.encode(&mut out).unwrap();
    out
}

#[test]
fn case_012_continue() {
    assert_eq!(written(&Reply::Continue), hex("00 00 00 01 63"));
}

#[test]
fn case_013_a_value_with_a_nul() {
    let mut out = BytesMut::from(&b"before"[..]);
    let field = Command::Header(Header::new("X", "a\0b"));
    assert_eq!(field.encode(&mut out), Err(Malformed::InnerNul.of(b'L')));
    assert_eq!(out, b"before"[..]);
}

#[test]
fn case_014_a_changed_field() {
    assert_eq!(
        written(&Reply::Edit(Edit::change(2, "Received", "new"))),
        hex("00 00 00 12 6d 00 00 00 02 52 65 63 65 69 76 65 64 00 6e 65 77 00")
    );
}

fn macros(payload: &'static [u8]) -> Macros {
    match command(b'D', payload) {
        Ok(Command::Macros(macros)) => macros,
        other => panic!("{other:?}"),
    }
}

#[test]
fn case_016_macros_without_any() {
    let expected = Macros {
        stage: b'H',
        pairs: vec![],
    };
    assert_eq!(macros(b"H"), expected);
}

/// Strict: a frame that does not add up cannot be trusted in its other parts either.
#[test]
fn case_017_a_macro_without_a_value() {
    misfits(command(b'D', b"Ci\0"), b'D', Malformed::NoValue);
    misfits(command(b'D', b"Ci\0a\0j\0"), b'D', Malformed::NoValue);
}

#[test]
fn case_018_an_empty_value_is_a_value() {
    let macros = macros(b"Mi\0\0");
    assert_eq!(macros.get("i"), Some(&Bytes::new()));
    assert_eq!(macros.get("j"), None);
}

#[test]
fn case_019_an_unknown_client() {
    assert_eq!(
        command(b'C', b"unknown\0U"),
        Ok(client("unknown", Address::Unknown))
    );
}

#[test]
fn case_020_a_client_without_an_address() {
    for (payload, reason) in [
        (&b"x\x004"[..], Malformed::TooShort),
        (b"x\x004\0", Malformed::TooShort),
        (b"x\x004\0\0", Malformed::NoNul),
    ] {
        misfits(command(b'C', payload), b'C', reason);
    }
}

#[test]
fn case_021_both_spellings_of_ipv6() {
    let ip = |payload| match command(b'C', payload) {
        Ok(Command::Connect(connection)) => connection.address.socket(),
        other => panic!("{other:?}"),
    };
    let expected = Some("[2001:db8::1]:1234".parse().unwrap());
    assert_eq!(ip(b"x\x006\x04\xd2IPv6:2001:db8::1\0"), expected);
    assert_eq!(ip(b"x\x006\x04\xd22001:db8::1\0"), expected);
}

#[test]
fn case_022_a_client_on_a_unix_socket() {
    let frame = "00 00 00 15 43 6c 6f 63 61 6c 68 6f 73 74 00 4c 00 00 2f 74 6d 70 2f 73 00";
    let expected = client("localhost", Address::Unix(b("/tmp/s")));
    let parsed = Command::parse(one(hex(frame))).unwrap();
    assert_eq!(parsed, expected);
    let mut out = BytesMut::new();
    parsed.encode(&mut out).unwrap();
    assert_eq!(out, hex(frame));
}

#[test]
fn case_023_a_client_without_a_nul() {
    misfits(command(b'C', b"x"), b'C', Malformed::NoNul);
    misfits(command(b'C', b""), b'C', Malformed::NoNul);
}

#[test]
fn case_024_null_senders() {
    assert_eq!(command(b'M', b"<>\0"), Ok(Command::Mail(path("<>", &[]))));
    assert_eq!(command(b'M', b"\0"), Ok(Command::Mail(path("", &[]))));
    assert_eq!(path("<>", &[]).bare(), b"");
    assert_eq!(path("", &[]).bare(), b"");
}

#[test]
fn case_025_esmtp_parameters() {
    assert_eq!(
        command(b'M', b"<s@x>\0BODY=8BITMIME\0SIZE=100\0"),
        Ok(Command::Mail(path("<s@x>", &["BODY=8BITMIME", "SIZE=100"])))
    );
}

/// Strict, for MAIL and RCPT alike: to drop the parameter would change what the client said.
#[test]
fn case_026_a_parameter_without_its_nul() {
    for code in [b'M', b'R'] {
        misfits(command(code, b"<s@x>\0SIZE=1"), code, Malformed::NoNul);
    }
}

#[test]
fn case_027_a_folded_field() {
    let expected = Command::Header(Header::new("Subject", "a\n b"));
    assert_eq!(command(b'L', b"Subject\0a\n b\0"), Ok(expected));
}

#[test]
fn case_028_bytes_that_are_no_utf_8() {
    let parsed = command(b'L', b"X\0\xff\xfe\0").unwrap();
    assert_eq!(parsed, Command::Header(Header::new("X", &b"\xff\xfe"[..])));
    let mut out = BytesMut::new();
    parsed.encode(&mut out).unwrap();
    assert_eq!(out, b"\0\0\0\x06LX\0\xff\xfe\0"[..]);
}

#[test]
fn case_029_an_unknown_command_without_its_nul() {
    misfits(command(b'U', b"BAR"), b'U', Malformed::NoNul);
}

#[test]
fn case_030_lengths_of_an_offer() {
    let bare = b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    assert_eq!(command(b'O', bare), Ok(Command::Negotiate(Offer::full())));
    let lists = b"\0\0\0\x06\0\0\0\x01\0\0\0\0\0\0\0\x02i\0";
    let expected = offer(6, 1, 0, &[(MacroStage::Mail, "i")]);
    assert_eq!(reply(b'O', lists), Ok(Reply::Negotiate(expected)));
    misfits(command(b'O', &bare[..11]), b'O', Malformed::TooShort);
    for stray in [&b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0\0\0"[..]] {
        for length in 13..=15 {
            misfits(command(b'O', &stray[..length]), b'O', Malformed::TooShort);
        }
    }
}

/// What is left out is not logged here, where nothing is: a filter that names no stage of the
/// protocol cannot be told any macros for it.
#[test]
fn case_031_macro_lists() {
    let list = |payload| reply(b'O', payload);
    let expected =
        |lists: &[(MacroStage, &'static str)]| Ok(Reply::Negotiate(offer(6, 0, 0, lists)));
    let two = b"\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\x02i {auth_authen}\0";
    assert_eq!(
        list(two),
        expected(&[(MacroStage::Mail, "i {auth_authen}")])
    );
    let stage9 = b"\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\x09a\0\0\0\0\x02i\0";
    assert_eq!(list(stage9), expected(&[(MacroStage::Mail, "i")]));
}

#[test]
fn case_032_parameters_of_senders_and_recipients() {
    for (payload, args) in [
        (&b"<a@x>\0"[..], ""),
        (b"<a@x>\0RET=HDRS ENVID=1\0", "RET=HDRS ENVID=1"),
    ] {
        let added = Reply::Edit(recipient("<a@x>", args));
        assert_eq!(reply(b'2', payload), Ok(added));
        let changed = Reply::Edit(sender("<a@x>", args));
        assert_eq!(reply(b'e', payload), Ok(changed));
    }
}

#[test]
fn case_033_a_large_index() {
    for index in [0x7fff_ffff, 0xffff_ffff] {
        let edit = Edit::insert(index, "X", "v");
        let out = written(&Reply::Edit(edit.clone()));
        assert_eq!(Reply::parse(one(out)), Ok(Reply::Edit(edit)));
    }
}

#[test]
fn case_096_ipv6_with_and_without_its_tag() {
    let socket = "[2001:db8::1]:1234";
    let mut out = BytesMut::new();
    inet("x", socket).encode(&mut out).unwrap();
    assert_eq!(out, b"\0\0\0\x12Cx\x006\x04\xd22001:db8::1\0"[..]);
    out.clear();
    let tagged = client("x", Address::TaggedInet6(socket.parse().unwrap()));
    tagged.encode(&mut out).unwrap();
    assert_eq!(out, b"\0\0\0\x17Cx\x006\x04\xd2IPv6:2001:db8::1\0"[..]);
}
