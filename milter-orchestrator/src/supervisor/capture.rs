//! What children write to their standard output and error: line by line into our log, under their
//! name.
//!
//! A line is cut at [`LINE_MAX`], and everything that is no plain text in it is escaped, so that no
//! child can forge a line of ours or make us keep what it writes. While we do not read, the child
//! waits in its write: nothing is buffered beyond one line.

use std::fmt::Write;
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Bytes of a line that are logged; the rest of it is counted and dropped.
pub const LINE_MAX: usize = 4096;

/// Reads one stream of a child until it is closed, and logs its lines.
pub async fn log(milter: String, stream: &'static str, pipe: OwnedFd) {
    let mut pipe = match Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::error!(milter, stream, %error, "the output of a child cannot be read");
            return;
        }
    };
    let mut lines = Lines::default();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        lines.push(&chunk[..length], |line| {
            tracing::info!(milter, stream, "{line}");
        });
    }
    lines.finish(|line| tracing::info!(milter, stream, "{line}"));
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// Bytes of the line beyond [`LINE_MAX`].
    dropped: usize,
}

impl Lines {
    /// Takes the next bytes; `emit` gets each line that is complete, escaped.
    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = text.len().min(LINE_MAX - self.line.len());
            self.line.extend_from_slice(&text[..room]);
            self.dropped += text.len() - room;
            if text.len() < piece.len() {
                self.finish(&mut emit);
            }
        }
    }

    /// The stream has ended, or a line has: emits what there is.
    fn finish(&mut self, mut emit: impl FnMut(&str)) {
        let mut text = escape(self.line.trim_ascii_end());
        if self.dropped > 0 {
            let _ = write!(text, " … ({} more bytes)", self.dropped);
        }
        self.line.clear();
        self.dropped = 0;
        if !text.is_empty() {
            emit(&text);
        }
    }
}

/// Bytes from outside as one line of text: control characters and what is no UTF-8 become escapes.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\t' {
                text.push(' ');
            } else if character.is_control() || is_layout(character) {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that change how the rest of the line is shown: line and paragraph separators, changes
/// of direction.
fn is_layout(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line| out.push(line.to_owned()));
        }
        lines.finish(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text: &[u8] = b"one\r\n\ntwo \x1b[31mred\x07\nth\xffree\n\xe2\x80\xaeevil\nlast";
        let whole = lines(&[text]);
        assert_eq!(
            whole,
            [
                "one",
                "two \\u{1b}[31mred\\u{7}",
                "th\\xffree",
                "\\u{202e}evil",
                "last"
            ]
        );
        for at in 0..=text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(lines(&[left, right]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes), whole);
    }

    #[test]
    fn long_lines_are_cut_and_the_next_line_is_whole() {
        let long = vec![b'x'; LINE_MAX + 100];
        let out = lines(&[&long, b"yyy", b"\nnext\n"]);
        assert_eq!(out.len(), 2);
        assert!(out[0].ends_with("x … (103 more bytes)"));
        assert!(out[0].len() < LINE_MAX + 40);
        assert_eq!(out[1], "next");
    }
}
