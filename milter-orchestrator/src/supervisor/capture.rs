//! What children write to their standard output and error: line by line into our log, under their
//! name.
//!
//! A line is cut at [`LINE_MAX`], and everything that is no plain text in it is escaped, so that no
//! child can forge a line of ours or make us keep what it writes. A line of our own daemons' JSON
//! keeps its level and is shown as text, since JSON within JSON is for nobody. While we do not
//! read, the child waits in its write: nothing is buffered beyond one line.

use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;

use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

/// Bytes of a line that are logged; the rest of it is counted and dropped.
pub const LINE_MAX: usize = 4096;

/// Fields of a line in JSON that our own line has anyway.
const KNOWN_FIELDS: [&str; 4] = ["timestamp", "level", "message", "target"];

/// What a child writes, and whoever reads it.
#[derive(Debug, Default)]
pub struct Output {
    milter: String,
    pipes: Vec<(&'static str, OwnedFd)>,
    readers: Vec<oneshot::Sender<()>>,
}

impl Output {
    /// The streams of a child, which nobody reads yet.
    #[must_use]
    pub fn new(milter: &str, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        let streams = [("stdout", stdout), ("stderr", stderr)].into_iter();
        Self {
            milter: milter.to_owned(),
            pipes: streams
                .filter_map(|(name, pipe)| Some((name, pipe?)))
                .collect(),
            readers: Vec::new(),
        }
    }

    /// Has it logged from now on, until the child closes it: this may be dropped before.
    pub fn listen(&mut self) {
        for (stream, pipe) in &self.pipes {
            match pipe.try_clone() {
                Ok(pipe) => {
                    let (reader, stop) = oneshot::channel();
                    self.readers.push(reader);
                    tokio::spawn(log(self.milter.clone(), stream, pipe, stop));
                }
                Err(error) => complain(&self.milter, stream, &error),
            }
        }
    }

    /// Leaves what it writes from now on to somebody else.
    pub fn leave(&mut self) {
        for reader in self.readers.drain(..) {
            // One that has read to the end is gone.
            let _ = reader.send(());
        }
    }
}

fn complain(milter: &str, stream: &str, error: &io::Error) {
    tracing::error!(milter, stream, %error, "the output of a child cannot be read");
}

/// Reads one stream of a child until it is closed, or until told to stop, and logs its lines.
async fn log(milter: String, stream: &'static str, pipe: OwnedFd, stop: oneshot::Receiver<()>) {
    let mut pipe = match Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => return complain(&milter, stream, &error),
    };
    let emit = |said: Said| match said.level {
        Level::Error => tracing::error!(milter, stream, "{}", said.text),
        Level::Warn => tracing::warn!(milter, stream, "{}", said.text),
        Level::Info => tracing::info!(milter, stream, "{}", said.text),
        Level::Debug => tracing::debug!(milter, stream, "{}", said.text),
    };
    let mut lines = Lines::default();
    let mut chunk = [0; 4096];
    let told_to_stop = async {
        // A keeper that has forgotten us wants everything.
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(told_to_stop);
    loop {
        let length = tokio::select! {
            length = pipe.read(&mut chunk) => length,
            () = &mut told_to_stop => break,
        };
        match length {
            Ok(length @ 1..) => lines.push(&chunk[..length], emit),
            Ok(0) | Err(_) => break,
        }
    }
    lines.finish(emit);
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// Bytes of the line beyond [`LINE_MAX`].
    dropped: usize,
}

/// A line of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    level: Level,
    /// Escaped.
    text: String,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warn,
    /// Also what does not say how important it is.
    Info,
    Debug,
}

impl Lines {
    /// Takes the next bytes; `emit` gets each line that is complete.
    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(Said)) {
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
    fn finish(&mut self, mut emit: impl FnMut(Said)) {
        let mut said = Said::of(self.line.trim_ascii_end());
        if self.dropped > 0 {
            let _ = write!(said.text, " … ({} more bytes)", self.dropped);
        }
        self.line.clear();
        self.dropped = 0;
        if !said.text.is_empty() {
            emit(said);
        }
    }
}

impl Said {
    fn of(line: &[u8]) -> Self {
        if line.starts_with(b"{")
            && let Ok(object) = serde_json::from_slice::<Map<String, Value>>(line)
            && let Some(level) = object.get("level").and_then(Value::as_str)
        {
            return Self {
                level: Level::named(level),
                text: escape(as_text(&object).as_bytes()),
            };
        }
        Self {
            level: Level::Info,
            text: escape(line),
        }
    }
}

impl Level {
    fn named(name: &str) -> Self {
        match name {
            "ERROR" => Self::Error,
            "WARN" => Self::Warn,
            "DEBUG" | "TRACE" => Self::Debug,
            _ => Self::Info,
        }
    }
}

/// The message, then all fields that are not [`KNOWN_FIELDS`].
fn as_text(object: &Map<String, Value>) -> String {
    let message = object.get("message").and_then(Value::as_str);
    let mut text = message.unwrap_or_default().to_owned();
    for (name, value) in object {
        if KNOWN_FIELDS.contains(&name.as_str()) {
            continue;
        }
        let space = if text.is_empty() { "" } else { " " };
        let _ = match value {
            Value::String(value) => write!(text, "{space}{name}={value}"),
            value => write!(text, "{space}{name}={value}"),
        };
    }
    text
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
            lines.push(chunk, |said| out.push(said));
        }
        lines.finish(|said| out.push(said));
        assert!(out.iter().all(|said| said.level == Level::Info));
        out.into_iter().map(|said| said.text).collect()
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

    #[test]
    fn json_keeps_its_level_and_becomes_text() {
        for (line, level, text) in [
            (
                r#"{"timestamp":"t","level":"WARN","message":"odd","n":3,"target":"x"}"#,
                Level::Warn,
                "odd n=3",
            ),
            (
                r#"{"level":"ERROR","message":"a\nb\u001b[1m"}"#,
                Level::Error,
                "a\\nb\\u{1b}[1m",
            ),
            (
                r#"{"level":"INFO","queue_id":"4 2"}"#,
                Level::Info,
                "queue_id=4 2",
            ),
            (r#"{"level":"TRACE","message":"x"}"#, Level::Debug, "x"),
            (
                r#"{"message":"no level"}"#,
                Level::Info,
                r#"{"message":"no level"}"#,
            ),
            (r#"{"level":"WARN""#, Level::Info, r#"{"level":"WARN""#),
            ("{", Level::Info, "{"),
        ] {
            let said = Said::of(line.as_bytes());
            assert_eq!((said.level, said.text.as_str()), (level, text), "{line}");
        }
    }
}
