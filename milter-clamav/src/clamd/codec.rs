//! Requests, chunks and replies as bytes: no input or output, no clock.
//!
//! Replies come in any pieces. A [`ReplyDecoder`] holds at most [`REPLY_MAX`] bytes and turns
//! them into one [`Response`], or into a [`BadReply`] that says what is wrong with them. What is
//! not understood is never taken for an answer: bytes after the reply, a reply to another
//! question, and a connection that ends before the NUL are all errors.

use thiserror::Error;

use super::{Request, Response, Signature};

/// Bytes in a reply at most, its NUL included. clamd's own are a few hundred bytes long.
pub const REPLY_MAX: usize = 4096;

/// The length 0 that ends a stream.
pub const END_OF_STREAM: [u8; 4] = [0; 4];

/// Why bytes are no reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadReply {
    /// Nothing arrived before the connection was closed.
    #[error("clamd closed the connection without an answer")]
    Nothing,
    /// The connection was closed within the reply.
    #[error("clamd closed the connection in the middle of its answer \"{0}\"")]
    CutOff(String),
    /// No NUL within [`REPLY_MAX`] bytes.
    #[error("answer of clamd is longer than {REPLY_MAX} bytes")]
    TooLong,
    /// There are bytes behind the NUL.
    #[error("clamd sent more than one answer")]
    Trailing,
    /// None of the answers to this question.
    #[error("answer \"{0}\" is not one that clamd gives: is this socket clamd's?")]
    Unknown(String),
}

impl Request {
    /// The command as it is sent.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Ping => b"zPING\0",
            Self::Version => b"zVERSION\0",
            Self::InStream => b"zINSTREAM\0",
        }
    }
}

/// Collects the reply to one request.
#[derive(Debug)]
pub struct ReplyDecoder {
    request: Request,
    pending: Vec<u8>,
}

impl ReplyDecoder {
    /// For the reply to `request`.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self {
            request,
            pending: Vec::new(),
        }
    }

    /// Takes the next bytes of the connection; `None` means that the reply is not complete yet.
    ///
    /// # Errors
    /// When these bytes cannot be the reply, or more than the reply. The connection is of no
    /// further use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Response>, BadReply> {
        let room = REPLY_MAX - self.pending.len();
        let taken = &bytes[..bytes.len().min(room)];
        let Some(end) = taken.iter().position(|&byte| byte == 0) else {
            self.pending.extend_from_slice(taken);
            return if self.pending.len() == REPLY_MAX {
                Err(BadReply::TooLong)
            } else {
                Ok(None)
            };
        };
        if end + 1 < bytes.len() {
            return Err(BadReply::Trailing);
        }
        self.pending.extend_from_slice(&taken[..end]);
        let line = std::mem::take(&mut self.pending);
        parse(self.request, &line).map(Some)
    }

    /// What it means that the connection ended before the reply was complete.
    #[must_use]
    pub fn end(&self) -> BadReply {
        if self.pending.is_empty() {
            BadReply::Nothing
        } else {
            BadReply::CutOff(shown(&self.pending))
        }
    }
}

/// Reads a whole reply, without its NUL.
fn parse(request: Request, line: &[u8]) -> Result<Response, BadReply> {
    let response = match request {
        Request::Ping => (line == b"PONG").then_some(Response::Pong),
        Request::Version => line
            .starts_with(b"ClamAV ")
            .then(|| Response::Version(shown(line))),
        Request::InStream => parse_scan(line),
    };
    response
        .or_else(|| parse_failure(line))
        .ok_or_else(|| BadReply::Unknown(shown(line)))
}

/// `stream: OK` and `stream: NAME FOUND`.
fn parse_scan(line: &[u8]) -> Option<Response> {
    let result = line.strip_prefix(b"stream: ")?;
    if result == b"OK" {
        return Some(Response::Clean);
    }
    match result.strip_suffix(b" FOUND")? {
        b"" => None,
        name => Some(Response::Found(Signature::new(name))),
    }
}

/// `… ERROR` and `UNKNOWN COMMAND`, which any request can get.
fn parse_failure(line: &[u8]) -> Option<Response> {
    if line == b"INSTREAM size limit exceeded. ERROR" {
        return Some(Response::SizeLimit);
    }
    let failed = line == b"UNKNOWN COMMAND" || line == b"ERROR" || line.ends_with(b" ERROR");
    failed.then(|| Response::Failed(shown(line)))
}

/// Bytes of a reply for people: escaped, and not much of them.
fn shown(line: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let cut = &line[..line.len().min(SHOWN_MAX)];
    cut.trim_ascii().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Decodes `bytes` cut at `split`, then the end of the connection.
    fn decode(request: Request, bytes: &[u8], split: usize) -> Result<Response, BadReply> {
        let mut decoder = ReplyDecoder::new(request);
        let (first, second) = bytes.split_at(split);
        let mut answer = decoder.feed(first)?;
        if answer.is_some() && !second.is_empty() {
            return Err(BadReply::Trailing);
        }
        if answer.is_none() && !second.is_empty() {
            answer = decoder.feed(second)?;
        }
        answer.ok_or_else(|| decoder.end())
    }

    fn check(request: Request, bytes: &[u8], expected: Result<Response, BadReply>) {
        for split in 0..=bytes.len() {
            let got = decode(request, bytes, split);
            assert_eq!(got, expected, "{} cut at {split}", bytes.escape_ascii());
        }
    }

    fn found(name: &str) -> Result<Response, BadReply> {
        Ok(Response::Found(Signature::new(name.as_bytes())))
    }

    fn failed(text: &str) -> Result<Response, BadReply> {
        Ok(Response::Failed(text.to_owned()))
    }

    fn unknown(text: &str) -> Result<Response, BadReply> {
        Err(BadReply::Unknown(text.to_owned()))
    }

    #[test]
    fn answers_to_a_scan() {
        let check = |bytes: &[u8], expected| check(Request::InStream, bytes, expected);
        check(b"stream: OK\0", Ok(Response::Clean));
        check(b"stream: Win.Test.EICAR FOUND\0", found("Win.Test.EICAR"));
        check(b"stream: A B(1:2) FOUND\0", found("A_B(1:2)"));
        check(b"stream: \xff\n FOUND\0", found("__"));
        check(
            b"INSTREAM size limit exceeded. ERROR\0",
            Ok(Response::SizeLimit),
        );
        check(
            b"stream: Can't allocate memory ERROR\0",
            failed("stream: Can\\'t allocate memory ERROR"),
        );
        check(b"UNKNOWN COMMAND\0", failed("UNKNOWN COMMAND"));
    }

    #[test]
    fn what_is_no_answer_to_a_scan() {
        let check = |bytes: &[u8], expected| check(Request::InStream, bytes, expected);
        check(b"", Err(BadReply::Nothing));
        check(b"\0", unknown(""));
        check(b"stream: OK", Err(BadReply::CutOff("stream: OK".into())));
        check(b"stream: OK\0stream: OK\0", Err(BadReply::Trailing));
        check(b"stream: OK\0\0", Err(BadReply::Trailing));
        check(b"stream:  FOUND\0", unknown("stream:  FOUND"));
        check(b"stream: OK \0", unknown("stream: OK"));
        check(b"stream: ok\0", unknown("stream: ok"));
        check(b"PONG\0", unknown("PONG"));
        check(b"1: stream: OK\0", unknown("1: stream: OK"));
        check(b"HTTP/1.1 400 x\r\n\0", unknown("HTTP/1.1 400 x"));
    }

    #[test]
    fn answers_to_the_other_questions() {
        check(Request::Ping, b"PONG\0", Ok(Response::Pong));
        check(Request::Ping, b"stream: OK\0", unknown("stream: OK"));
        let version = "ClamAV 1.4.6/27500/Sat Nov 21 08:00:00 2026";
        check(
            Request::Version,
            format!("{version}\0").as_bytes(),
            Ok(Response::Version(version.to_owned())),
        );
        check(Request::Version, b"PONG\0", unknown("PONG"));
    }

    #[test]
    fn a_reply_has_a_limit() {
        let mut decoder = ReplyDecoder::new(Request::Ping);
        assert_eq!(decoder.feed(&[b'x'; REPLY_MAX - 1]), Ok(None));
        assert_eq!(decoder.feed(b"xxx"), Err(BadReply::TooLong));
        let mut decoder = ReplyDecoder::new(Request::Ping);
        assert_eq!(
            decoder.feed(&vec![b'x'; 10 * REPLY_MAX]),
            Err(BadReply::TooLong)
        );
    }

    #[test]
    fn a_signature_is_short_and_printable() {
        let name = Signature::new(&[b'x'; 1000]);
        assert_eq!(name.as_str().len(), Signature::LENGTH_MAX);
        let name = Signature::new(b"a\r\nX-Spam: no\0%s");
        assert_eq!(name.as_str(), "a__X-Spam:_no_%s");
    }

    /// Bytes of a reply from a recipe, so that pieces of real replies are met often.
    fn cook(recipe: &[u8]) -> Vec<u8> {
        const PIECES: [&[u8]; 8] = [
            b"stream: ",
            b"OK",
            b" FOUND",
            b"\0",
            b" ERROR",
            b"PONG",
            b"ClamAV ",
            b"Eicar",
        ];
        let piece = |byte: &u8| {
            PIECES
                .get(usize::from(*byte) % 11)
                .map(|piece| piece.to_vec())
        };
        let cooked = recipe
            .iter()
            .map(|byte| piece(byte).unwrap_or_else(|| vec![*byte]));
        cooked.flatten().collect()
    }

    #[test]
    fn any_bytes_in_any_pieces() {
        let requests = [Request::Ping, Request::Version, Request::InStream];
        bolero::check!()
            .with_test_time(Duration::from_millis(400))
            .with_type::<(u8, Vec<u8>, u8)>()
            .for_each(|(request, recipe, split)| {
                let bytes = &cook(recipe);
                let request = requests[usize::from(*request) % requests.len()];
                let whole = decode(request, bytes, 0);
                let split = usize::from(*split).min(bytes.len());
                // Which of two mistakes is seen first depends on the pieces.
                assert_eq!(decode(request, bytes, split).ok(), whole.clone().ok());
                if whole == Ok(Response::Clean) {
                    assert_eq!(bytes, b"stream: OK\0");
                }
            });
    }
}
