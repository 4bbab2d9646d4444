//! As much HTTP/1.1 as a monitoring system speaks: one GET or HEAD a connection, a short answer.
//!
//! Pure: bytes in, a [`Request`] or a [`Refusal`] out, and an answer as bytes. A body of a request
//! is not read, connections are not kept, nothing is decoded. What is too long, or is no HTTP, is
//! refused with the status that says so.

use std::fmt::Write;

/// Bytes of a request line and its header fields at most.
pub(super) const HEAD_MAX: usize = 8 * 1024;
/// Header fields at most.
const FIELDS_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Without its query.
    pub(super) path: String,
    /// HEAD: the answer goes without its body.
    pub(super) head: bool,
    /// The text of the metrics may be that of OpenMetrics.
    pub(super) open_metrics: bool,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no HTTP.
    Malformed,
    /// Neither GET nor HEAD.
    Method,
    /// Longer than [`HEAD_MAX`], or more fields than [`FIELDS_MAX`].
    TooLong,
    /// Another version than 1.0 and 1.1.
    Version,
    /// Not complete in time.
    Slow,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The code and its phrase.
    pub(super) status: &'static str,
    /// The media type of the body.
    pub(super) kind: &'static str,
    /// The body.
    pub(super) body: String,
}

/// Text for people.
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

impl Request {
    /// Reads a request; `None` while its header is not complete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let shown = &bytes[..bytes.len().min(HEAD_MAX)];
        let Some(head) = head(shown) else {
            if bytes.len() >= HEAD_MAX {
                return Err(Refusal::TooLong);
            }
            // What cannot become a request is refused before it is long.
            return match shown.iter().all(|byte| is_text(*byte)) {
                true => Ok(None),
                false => Err(Refusal::Malformed),
            };
        };
        let head = std::str::from_utf8(head).map_err(|_| Refusal::Malformed)?;
        let mut lines = head.split('\n').map(|line| line.trim_end_matches('\r'));
        let (path, is_head) = request_line(lines.next().unwrap_or_default())?;
        let mut open_metrics = false;
        for (number, line) in lines.enumerate() {
            if number >= FIELDS_MAX {
                return Err(Refusal::TooLong);
            }
            let (name, value) = line.split_once(':').ok_or(Refusal::Malformed)?;
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(Refusal::Malformed);
            }
            open_metrics |= name.eq_ignore_ascii_case("accept")
                && value.contains("application/openmetrics-text");
        }
        Ok(Some(Self {
            path,
            head: is_head,
            open_metrics,
        }))
    }
}

/// Everything before the empty line.
fn head(bytes: &[u8]) -> Option<&[u8]> {
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let lf = bytes.windows(2).position(|two| two == b"\n\n");
    let end = crlf.into_iter().chain(lf).min()?;
    bytes.get(..end)
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~')
}

/// The path, and whether it is HEAD.
fn request_line(line: &str) -> Result<(String, bool), Refusal> {
    if !line.bytes().all(is_text) {
        return Err(Refusal::Malformed);
    }
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return Err(Refusal::Malformed);
    };
    let is_method = |byte: u8| byte.is_ascii_uppercase();
    if !target.starts_with('/') || method.is_empty() || !method.bytes().all(is_method) {
        return Err(Refusal::Malformed);
    }
    match version {
        "HTTP/1.1" | "HTTP/1.0" => {}
        other if other.starts_with("HTTP/") => return Err(Refusal::Version),
        _ => return Err(Refusal::Malformed),
    }
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::Method),
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok((path.to_owned(), head))
}

impl Answer {
    /// With a line for people.
    pub(super) fn plain(status: &'static str, line: &str) -> Self {
        Self {
            status,
            kind: PLAIN,
            body: format!("{line}\n"),
        }
    }

    /// As bytes; to HEAD without the body.
    pub(super) fn encode(&self, head: bool) -> Vec<u8> {
        let Self { status, kind, body } = self;
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
            body.len()
        );
        if status.starts_with("405") {
            text.push_str("Allow: GET, HEAD\r\n");
        }
        text.push_str("Connection: close\r\n\r\n");
        if !head {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Self::plain("400 Bad Request", "this is no HTTP request"),
            Refusal::Method => Self::plain("405 Method Not Allowed", "only GET and HEAD"),
            Refusal::TooLong => Self::plain(
                "431 Request Header Fields Too Large",
                "the request is too long",
            ),
            Refusal::Version => Self::plain("505 HTTP Version Not Supported", "only HTTP/1.1"),
            Refusal::Slow => Self::plain("408 Request Timeout", "the request took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(path: &str) -> Result<Option<Request>, Refusal> {
        Ok(Some(Request {
            path: path.to_owned(),
            head: false,
            open_metrics: false,
        }))
    }

    #[test]
    fn requests_and_what_is_none() {
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(FIELDS_MAX + 1)
        );
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX));
        for (text, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", asks("/metrics")),
            ("GET /livez?verbose=1 HTTP/1.0\r\n\r\n", asks("/livez")),
            ("GET / HTTP/1.1\nHost: x\n\n", asks("/")),
            (
                "GET / HTTP/1.1\r\nHost: x\r\n\r\nbody is not read",
                asks("/"),
            ),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", Ok(None)),
            ("", Ok(None)),
            ("POST / HTTP/1.1\r\n\r\n", Err(Refusal::Method)),
            ("get / HTTP/1.1\r\n\r\n", Err(Refusal::Malformed)),
            ("GET / HTTP/2.0\r\n\r\n", Err(Refusal::Version)),
            ("GET http://x/ HTTP/1.1\r\n\r\n", Err(Refusal::Malformed)),
            ("GET  / HTTP/1.1\r\n\r\n", Err(Refusal::Malformed)),
            ("GET /\r\n\r\n", Err(Refusal::Malformed)),
            (
                "GET / HTTP/1.1\r\nno colon\r\n\r\n",
                Err(Refusal::Malformed),
            ),
            ("GET / HTTP/1.1\r\n: empty\r\n\r\n", Err(Refusal::Malformed)),
            ("GET / HTTP/1.1\r\na b: c\r\n\r\n", Err(Refusal::Malformed)),
            ("\r\n\r\n", Err(Refusal::Malformed)),
            ("\0\0\0\r", Err(Refusal::Malformed)),
            (&many, Err(Refusal::TooLong)),
            (&long, Err(Refusal::TooLong)),
        ] {
            let shown = &text[..text.len().min(60)];
            assert_eq!(Request::parse(text.as_bytes()), expected, "{shown:?}");
        }
    }

    #[test]
    fn no_piece_of_a_request_is_taken_for_a_whole_one() {
        let whole = b"HEAD /metrics?x HTTP/1.1\r\nHost: x\r\n\
            accept: application/openmetrics-text; version=1.0.0\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(Request::parse(&whole[..end]), Ok(None), "{end}");
        }
        let request = Request::parse(whole).unwrap().unwrap();
        assert!(request.head && request.open_metrics && request.path == "/metrics");
    }

    #[test]
    fn any_bytes_are_a_request_or_refused() {
        bolero::check!().with_type().for_each(|bytes: &Vec<u8>| {
            if let Ok(Some(request)) = Request::parse(bytes) {
                assert!(request.path.starts_with('/') && request.path.is_ascii());
            }
        });
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let answer = Answer::plain("200 OK", "fine");
        let text = String::from_utf8(answer.encode(false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Content-Length: 5\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nfine\n"), "{text}");
        assert!(answer.encode(true).ends_with(b"\r\n\r\n"));
        let refused = Answer::from(Refusal::Method).encode(false);
        assert!(
            String::from_utf8(refused)
                .unwrap()
                .contains("Allow: GET, HEAD")
        );
    }
}
