//! Any split of the input gives the same frames; no input makes a decoder panic; what is read is
//! written back to the same value.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{command_vectors, one};
use crate::verdict::SmtpReply;
use crate::wire::*;

/// Feeds `input` to a decoder in pieces whose sizes are taken from `sizes` in turn.
fn in_pieces(input: &[u8], sizes: &[u8]) -> (Vec<Frame>, Option<WireError>) {
    let decoder = Decoder::new(4096);
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = input;
    while !rest.is_empty() {
        let size = usize::from(sizes.next().unwrap_or(u8::MAX)).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
    }
    let error = decoder.finish(&buffer).err();
    (all, error)
}

#[test]
fn case_002_any_split_gives_the_same_frames() {
    let mut input = BytesMut::new();
    for (_, command) in command_vectors() {
        command.encode(&mut input).unwrap();
    }
    let whole = in_pieces(&input, &[]);
    assert_eq!(whole.0.len(), command_vectors().len());
    assert_eq!(whole.1, None);
    bolero::check!()
        .with_type::<Vec<u8>>()
        .with_test_time(Duration::from_millis(500))
        .for_each(|sizes| assert_eq!(in_pieces(&input, sizes), whole));
}

#[test]
fn fuzz_frames() {
    bolero::check!()
        .with_type::<(Vec<u8>, Vec<u8>)>()
        .with_test_time(Duration::from_secs(1))
        .for_each(|(input, sizes)| {
            let whole = in_pieces(input, &[]);
            let pieces = in_pieces(input, sizes);
            assert_eq!(whole.0, pieces.0);
            assert_eq!(whole.1.is_some(), pieces.1.is_some());
        });
}

/// A payload after a code that is mostly one that exists, with NULs where strings could end.
fn frame_from(code: u8, mut payload: Vec<u8>) -> Frame {
    const CODES: &[u8] = b"ODCHMRTLNBEAUQKcardtspyhimb+2-eq4f";
    for byte in &mut payload {
        *byte = if *byte % 5 == 0 { 0 } else { *byte };
    }
    Frame {
        code: *CODES.get(usize::from(code)).unwrap_or(&code),
        payload: Bytes::from(payload),
    }
}

#[test]
fn fuzz_commands() {
    bolero::check!()
        .with_type::<(u8, Vec<u8>)>()
        .with_test_time(Duration::from_secs(1))
        .for_each(|(code, payload)| {
            let frame = frame_from(code % 40, payload.clone());
            if let Ok(command) = Command::parse(frame) {
                let mut out = BytesMut::new();
                command.encode(&mut out).unwrap();
                assert_eq!(Command::parse(one(out)), Ok(command));
            }
        });
}

#[test]
fn fuzz_replies() {
    bolero::check!()
        .with_type::<(u8, Vec<u8>)>()
        .with_test_time(Duration::from_secs(1))
        .for_each(|(code, payload)| {
            let frame = frame_from(code % 40, payload.clone());
            if let Ok(reply) = Reply::parse(frame) {
                let mut out = BytesMut::new();
                reply.encode(&mut out).unwrap();
                assert_eq!(Reply::parse(one(out)), Ok(reply.clone()));
            }
        });
}

#[test]
fn fuzz_reply_texts() {
    bolero::check!()
        .with_type::<(u16, Vec<u8>)>()
        .with_test_time(Duration::from_millis(500))
        .for_each(|(code, text)| {
            let code = 400 + code % 200;
            let text = String::from_utf8_lossy(text);
            if let Ok(reply) = SmtpReply::new(code, "", &text) {
                assert_eq!(SmtpReply::parse(reply.as_bytes()), Ok(reply));
            }
        });
}
