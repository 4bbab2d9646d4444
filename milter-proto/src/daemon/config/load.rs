//! Reads a configuration file into settings.
//!
//! A file is read whole (up to [`FILE_MAX`]), as one owner of its text, so that a later mistake can
//! still name its line. Nothing else is opened here. Failures are [`Failure`]s with the exit code
//! that fits: no file, no permission, a mistake in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::mistake::Mistake;
use crate::daemon::exit::{EX_CONFIG, EX_IOERR, EX_NOINPUT, EX_NOPERM};
use crate::daemon::{Failure, Program};

/// Bytes of a configuration file at most.
pub(crate) const FILE_MAX: u64 = 4 << 20;

/// A configuration file as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
    /// Permission bits of the file.
    mode: u32,
}

impl Source {
    /// Reads the file.
    pub(crate) fn read<P: Program>(path: &Path) -> Result<Self, Failure> {
        let opened = File::open(path).and_then(|file| {
            let meta = file.metadata()?;
            let mut bytes = Vec::new();
            file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
            Ok((meta.permissions().mode(), bytes))
        });
        let (mode, bytes) = opened.map_err(|error| unreadable::<P>(path, &error))?;
        if bytes.len() as u64 > FILE_MAX {
            let message = format!(
                "{}: larger than {FILE_MAX} bytes, not a configuration",
                path.display()
            );
            return Err(Failure::new(EX_CONFIG, message));
        }
        let path = path.to_owned();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text, mode }),
            Err(error) => Err(not_utf8(path, mode, &error)),
        }
    }

    /// No file: the defaults alone.
    pub(crate) fn absent(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            text: String::new(),
            mode: 0o644,
        }
    }

    /// Text that is not from a file; `name` stands for it in messages.
    pub(crate) fn of_text(name: &str, text: &str) -> Self {
        Self {
            text: text.to_owned(),
            ..Self::absent(Path::new(name))
        }
    }

    /// One section, as far as the lines that belong to it can be understood: a file that is broken
    /// elsewhere has it too.
    pub(crate) fn section<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let header = format!("[{name}]");
        let bare = |line: &&str| line.split('#').next().map(str::trim) != Some(&*header);
        let mut lines = self.text.lines().skip_while(bare);
        lines.next()?;
        let own = lines.take_while(|line| !line.trim_start().starts_with('['));
        toml::from_str(&own.collect::<Vec<_>>().join("\n")).ok()
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the file without being a mistake in it; for the log and for `check`.
    pub(crate) fn warnings(&self) -> Option<String> {
        (self.mode & 0o002 != 0).then(|| {
            format!(
                "{0} can be written by every user of this machine (mode {1:04o}): chmod o-w {0}",
                self.path.display(),
                self.mode & 0o7777
            )
        })
    }

    pub(crate) fn failure(&self, mistake: &Mistake) -> Failure {
        let rendered = mistake.render(&self.path.display().to_string(), &self.text);
        Failure::new(EX_CONFIG, rendered)
    }
}

/// Why the file could not be read, and what to do.
fn unreadable<P: Program>(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            EX_NOINPUT,
            format!(
                "no configuration file {shown}: write one with `{} default-config > {shown}`, \
                 or name another with --config",
                P::NAME
            ),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            EX_NOPERM,
            format!(
                "{shown}: user {} may not read it; change its owner or mode \
                 (chown, chmod), or start as another user",
                crate::daemon::privileges::current_user()
            ),
        ),
        io::ErrorKind::IsADirectory => Failure::new(
            EX_NOINPUT,
            format!("{shown} is a directory; name the file in it with --config"),
        ),
        _ => Failure::new(EX_IOERR, format!("{shown}: {error}")),
    }
}

/// The place of the first byte that is no UTF-8, in the text up to it.
fn not_utf8(path: PathBuf, mode: u32, error: &std::string::FromUtf8Error) -> Failure {
    let valid = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    let source = Source { path, text, mode };
    let mistake = Mistake::new("not UTF-8 text", Some(valid..valid + 1));
    source.failure(&mistake)
}
