//! `status`: once, or again and again on the same screen.
//!
//! Each picture is one write, so that an interrupt leaves no half of one and no colour behind; an
//! interrupt ends the program as any other, and there is nothing to restore. While watching, an
//! orchestrator that does not answer is shown, and asked again.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use milter_proto::daemon::Failure;
use milter_proto::daemon::exit::EX_IOERR;

use super::{Paint, Snapshot, render_in};

/// What `status` is told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Show {
    /// As JSON, for programs; with --watch one object a line.
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, until Ctrl-C.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    watch: Option<u64>,
}

impl Show {
    /// Shows what `ask` says.
    ///
    /// # Errors
    /// When the orchestrator does not answer at once, or nothing can be written.
    pub fn run(self, ask: impl Fn() -> Result<Snapshot, Failure>) -> Result<ExitCode, Failure> {
        let terminal = io::stdout().is_terminal();
        let variable = |name| env::var(name).ok();
        let (no_color, term) = (variable("NO_COLOR"), variable("TERM"));
        let paint = Paint::wanted(terminal, no_color.as_deref(), term.as_deref());
        let Some(seconds) = self.watch else {
            let text = self.picture(&ask()?, paint)?;
            write(&text)?;
            return Ok(ExitCode::SUCCESS);
        };
        let mut answer: Result<Snapshot, Failure> = Ok(ask()?);
        loop {
            let text = match answer {
                Ok(snapshot) => self.picture(&snapshot, paint)?,
                Err(failure) if self.json => {
                    format!("{}\n", serde_json::json!({ "error": failure.to_string() }))
                }
                Err(failure) => format!("{failure}\n"),
            };
            let frame = match terminal && !self.json {
                true => on_screen(&text),
                false => text,
            };
            if !write(&frame)? {
                return Ok(ExitCode::SUCCESS);
            }
            thread::sleep(Duration::from_secs(seconds));
            answer = ask();
        }
    }

    fn picture(self, snapshot: &Snapshot, paint: Paint) -> Result<String, Failure> {
        let text = match (self.json, self.watch) {
            (false, _) => return Ok(render_in(snapshot, paint)),
            (true, None) => serde_json::to_string_pretty(snapshot),
            (true, Some(_)) => serde_json::to_string(snapshot),
        };
        text.map(|text| text + "\n")
            .map_err(|error| Failure::new(EX_IOERR, error.to_string()))
    }
}

/// From the top left corner, each line up to its end, and nothing below.
fn on_screen(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// Writes to standard output; `false` when its reader has seen enough.
fn write(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(EX_IOERR, format!("standard output: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over() {
        assert_eq!(on_screen("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
