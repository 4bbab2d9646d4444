//! `import`: what milter-manager or Postfix was told of filters, as a configuration of ours.
//!
//! A file is read as text and never run: `ruby` understands the statements that configurations
//! of milter-manager are made of, `main_cf` the lines of `main.cf`. What has a counterpart here
//! becomes a section, what has none becomes a remark with its line, so that nothing is dropped
//! in silence. The result is a text on standard output that `check` accepts; nothing is installed.

mod main_cf;
mod manager;
mod ruby;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use milter_proto::daemon::Failure;
use milter_proto::daemon::exit::{EX_DATAERR, EX_IOERR, EX_NOINPUT, EX_SOFTWARE};
use milter_proto::net::Address;
use serde::Serialize;

use crate::member::OnFailure;

/// What `import` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `milter-manager.conf`, or the `main.cf` of a Postfix.
    file: PathBuf,
    /// Which of the two it is; without it the name of the file says so.
    #[arg(long, value_enum)]
    from: Option<Format>,
    /// Socket to listen on, where the file names none.
    #[arg(long, default_value = "inet:8890@127.0.0.1")]
    listen: Address,
}

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The Ruby of milter-manager.
    MilterManager,
    /// The `main.cf` of Postfix.
    Postfix,
}

/// Something that did not come over, or that the administrator has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remark {
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    what: String,
}

/// What a file comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Translation {
    sections: Sections,
    remarks: Vec<Remark>,
    /// Lines of another file that belong to it, with what to do with them first.
    advice: Vec<String>,
}

/// The part of a configuration that an import writes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Sections {
    listen: BTreeMap<String, Entrance>,
    milter: BTreeMap<String, Filter>,
    route: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Account>,
}

/// A `[listen.NAME]`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Entrance {
    socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
}

impl Entrance {
    fn at(socket: impl Into<String>) -> Self {
        Self {
            socket: socket.into(),
            mode: None,
            group: None,
            max_connections: None,
        }
    }
}

/// A `[milter.NAME]`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Filter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    socket: String,
    #[serde(skip_serializing_if = "is_false")]
    binds_itself: bool,
    on_failure: OnFailure,
    #[serde(skip_serializing_if = "is_false")]
    shadow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_of_message_timeout: Option<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
}

/// The `match` of a filter: all that is given.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Condition {
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not: Option<Clients>,
}

/// Networks of clients.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Clients {
    client: Vec<String>,
}

/// A `[[route]]`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Route {
    chain: Vec<String>,
}

/// The `[process]`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Account {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over references"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Translation {
    fn remark(&mut self, line: usize, what: impl Into<String>) {
        let what = what.into();
        self.remarks.push(Remark { line, what });
    }

    /// The configuration as text; `file` is where it came from.
    fn render(&self, file: &Path) -> Result<String, toml::ser::Error> {
        let name = file.display();
        let mut text = format!("# Made of {name}\n");
        if !self.remarks.is_empty() {
            text += "#\n# To be looked at, since it has no counterpart here or not the same one:\n";
        }
        let mut remarks: Vec<&Remark> = self.remarks.iter().collect();
        remarks.sort_by_key(|remark| remark.line);
        for Remark { line, what } in remarks {
            // Neither a name nor a value can end the comment.
            let what = what.escape_debug().to_string().replace("\\\"", "\"");
            let what = what.replace("\\'", "'");
            let _ = match line {
                0 => writeln!(text, "# * {what}"),
                line => writeln!(text, "# * line {line}: {what}"),
            };
        }
        text.push('\n');
        text += &toml::to_string(&self.sections)?;
        if !self.advice.is_empty() {
            text.push('\n');
        }
        for line in &self.advice {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        Ok(text)
    }
}

/// Does it.
///
/// # Errors
/// When the file cannot be read, or names no filter.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = &arguments.file;
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::new(EX_NOINPUT, format!("{}: {error}", file.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let listen = arguments.listen.to_string();
    let translation = match arguments.from.unwrap_or_else(|| guess(file)) {
        Format::MilterManager => manager::translate(&text, &listen),
        Format::Postfix => {
            let beside = file.with_file_name("master.cf");
            let master = std::fs::read_to_string(beside).ok();
            main_cf::translate(&text, master.as_deref(), &listen)
        }
    };
    if translation.sections.milter.is_empty() {
        let message = format!(
            "{}: no filter is configured there; write --from milter-manager or --from postfix if \
             it was taken for the wrong one of the two",
            file.display()
        );
        return Err(Failure::new(EX_DATAERR, message));
    }
    let text = translation
        .render(file)
        .map_err(|error| Failure::new(EX_SOFTWARE, error.to_string()))?;
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(EX_IOERR, format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

/// A file of Postfix ends in `.cf`.
fn guess(file: &Path) -> Format {
    match file.extension() {
        Some(extension) if extension == "cf" => Format::Postfix,
        _ => Format::MilterManager,
    }
}

/// A failure policy by the name that Postfix or milter-manager has for it.
fn policy(name: &str) -> Option<OnFailure> {
    match name {
        "accept" | "continue" => Some(OnFailure::Accept),
        "tempfail" | "temporary-failure" => Some(OnFailure::TempFail),
        "reject" => Some(OnFailure::Reject),
        "quarantine" => Some(OnFailure::Quarantine),
        _ => None,
    }
}
