//! Scenarios as text.

use std::fmt::{self, Display, Formatter};

use bytes::Bytes;

use super::command::{Bits, macro_stage};
use super::reply::write_bytes;
use crate::testkit::mta::{MtaScript, Turn};
use crate::testkit::scenario::{Chain, Claim, Dialogue, Scenario, SmtpStep};
use crate::testkit::script::{Act, At, Cue, FilterScript, Nth};
use crate::wire::VERSION;

/// A value as it is written in scripts: commands, replies, edits, acts, claims.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a, T>(pub &'a T);

/// A string in quotes; a long one that repeats itself is written as such.
pub(super) struct Quoted<'a>(pub(super) &'a [u8]);

/// Strings below this are written out.
const LONG: usize = 200;

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match period(self.0) {
            Some(period) => {
                let (once, times) = (&self.0[..period], self.0.len() / period);
                write!(f, "{} * {times}", Quoted(once))
            }
            None => {
                f.write_str("\"")?;
                self.0.iter().try_for_each(|byte| escape(*byte, f))?;
                f.write_str("\"")
            }
        }
    }
}

fn escape(byte: u8, f: &mut Formatter<'_>) -> fmt::Result {
    match byte {
        b'\n' => f.write_str("\\n"),
        b'\r' => f.write_str("\\r"),
        b'\t' => f.write_str("\\t"),
        0 => f.write_str("\\0"),
        b'"' => f.write_str("\\\""),
        b'\\' => f.write_str("\\\\"),
        b' '..=b'~' => write!(f, "{}", char::from(byte)),
        other => write!(f, "\\x{other:02x}"),
    }
}

/// After how many bytes a long string begins anew, as often as it is long.
fn period(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < LONG {
        return None;
    }
    let repeats = |period: &usize| {
        bytes.len().is_multiple_of(*period) && bytes[*period..] == bytes[..bytes.len() - period]
    };
    (1..LONG / 2).find(repeats)
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.filters.iter().try_for_each(|filter| filter.fmt(f))?;
        self.chain.fmt(f)?;
        self.mtas.iter().try_for_each(|mta| mta.fmt(f))?;
        self.smtp.iter().try_for_each(|dialogue| dialogue.fmt(f))?;
        self.claims
            .iter()
            .try_for_each(|claim| writeln!(f, "{}", Text(claim)))
    }
}

impl Display for FilterScript {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "filter {}", self.name)?;
        if self.offer.version != VERSION {
            writeln!(f, "  version {}", self.offer.version)?;
        }
        if !self.offer.actions.is_empty() {
            writeln!(f, "  actions {}", Bits(self.offer.actions))?;
        }
        if !self.offer.steps.is_empty() {
            writeln!(f, "  steps {}", Bits(self.offer.steps))?;
        }
        for (stage, names) in &self.offer.macros {
            writeln!(f, "  macros {} {}", macro_stage(*stage), Quoted(names))?;
        }
        self.cues.iter().try_for_each(|cue| cue.fmt(f))
    }
}

impl Display for Cue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "  at {}", self.at.name())?;
        match self.nth {
            None => {}
            Some(Nth::OfMessage(nth)) => write!(f, " {nth}")?,
            Some(Nth::OfConnection(nth)) => write!(f, " {nth} of-connection")?,
        }
        if let Some(message) = self.message {
            write!(f, " in-message {message}")?;
        }
        if let Some(connection) = self.connection {
            write!(f, " on-connection {connection}")?;
        }
        f.write_str(": ")?;
        if self.acts.is_empty() {
            return writeln!(f, "nothing");
        }
        list(&self.acts, f, |act: &Act, f| Text(act).fmt(f))
    }
}

/// A line's end: things with semicolons between.
fn list<T>(
    things: &[T],
    f: &mut Formatter<'_>,
    write: impl Fn(&T, &mut Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (index, thing) in things.iter().enumerate() {
        if index > 0 {
            f.write_str("; ")?;
        }
        write(thing, f)?;
    }
    writeln!(f)
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("chain")?;
        for segment in &self.segments {
            let names: Vec<&str> = segment.iter().map(|place| place.filter.as_str()).collect();
            match names[..] {
                [alone] => write!(f, " {alone}")?,
                _ => write!(f, " [{}]", names.join(" "))?,
            }
        }
        writeln!(f)?;
        if self.strict {
            writeln!(f, "  strict")?;
        }
        for place in self.segments.iter().flatten() {
            if let Some(policy) = place.on_failure {
                writeln!(f, "  on-failure {} {}", place.filter, policy.name())?;
            }
            if let Some(time) = place.timeout {
                writeln!(f, "  timeout {} {}ms", place.filter, time.as_millis())?;
            }
        }
        Ok(())
    }
}

impl Display for MtaScript {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "mta")?;
        for turn in &self.turns {
            match turn {
                Turn::Send(command) => writeln!(f, "  > {}", Text(command))?,
                Turn::Raw(bytes) => {
                    f.write_str("  > ")?;
                    write_bytes(bytes, f)?;
                    writeln!(f)?;
                }
                Turn::Wait(time) => writeln!(f, "  > wait {}ms", time.as_millis())?,
                Turn::Close => writeln!(f, "  > close")?,
                // Nothing is expected: there is nothing to write.
                Turn::Expect(expected) if expected.is_empty() => {}
                Turn::Expect(expected) => {
                    f.write_str("  < ")?;
                    list(expected, f, |one, f| Text(one).fmt(f))?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Dialogue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "smtp")?;
        for step in &self.steps {
            match step {
                SmtpStep::Command(line) => verbatim("  C: ", line, f)?,
                SmtpStep::Message(lines) => {
                    lines
                        .iter()
                        .try_for_each(|line| verbatim("  | ", line, f))?;
                }
            }
        }
        Ok(())
    }
}

/// A line as it is, or in quotes where that would not be read back.
fn verbatim(mark: &str, line: &Bytes, f: &mut Formatter<'_>) -> fmt::Result {
    let plain = line.iter().all(|byte| matches!(byte, b' '..=b'~'))
        && line.first() != Some(&b'"')
        && !(line.starts_with(b" ") && mark.ends_with(": "))
        && line.last().is_none_or(|byte| *byte != b' ');
    if plain {
        return writeln!(f, "{mark}{}", String::from_utf8_lossy(line));
    }
    f.write_str(mark)?;
    f.write_str("\"")?;
    line.iter().try_for_each(|byte| escape(*byte, f))?;
    writeln!(f, "\"")
}

impl Display for Text<'_, Claim> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "told {}", self.0.filter())?;
        match self.0 {
            Claim::Sequence {
                connection,
                commands,
                ..
            } => {
                if let Some(connection) = connection {
                    write!(f, " on {connection}")?;
                }
                f.write_str(":")?;
                commands
                    .iter()
                    .try_for_each(|at| write!(f, " {}", Text(at)))
            }
            Claim::Has { command, .. } => write!(f, " has {}", Text(command)),
            Claim::HasNot { command, .. } => write!(f, " has-not {}", Text(command)),
            Claim::Connections { count, .. } => write!(f, " connections {count}"),
        }
    }
}

impl Display for Text<'_, At> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}
