//! Lists of entries in files of their own, one a line, read again when they change.
//!
//! A list that cannot be read, or in which one line is wrong, does not count: the one before stays,
//! and [`ListError`] names file and line. Readers never wait for the disk; whoever calls
//! [`List::refresh`] does.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use thiserror::Error;

use super::entries::{Entries, EntryError, Kind};

/// Bytes of a list at most.
const FILE_MAX: u64 = 64 << 20;

/// Why a list does not count.
#[derive(Debug, Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is too large.
    #[error("{}: larger than {FILE_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A line of it is no entry.
    #[error("{}:{line}: {error}; {}", path.display(), error.help)]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        #[source]
        error: EntryError,
    },
}

/// What tells one state of a file from another.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// A list as it was read last.
#[derive(Debug)]
pub struct List {
    path: PathBuf,
    kind: Kind,
    entries: RwLock<Arc<Entries>>,
    /// Of the file that was read last; none where there was none.
    stamp: Mutex<Stamps>,
}

/// States of a file.
#[derive(Debug)]
struct Stamps {
    /// As it was read.
    read: Option<Stamp>,
    /// As it was seen last, which may be in the middle of being written.
    seen: Option<Stamp>,
}

/// What became of looking at a file again.
#[derive(Debug)]
pub enum Refreshed {
    /// It is as it was.
    Same,
    /// It counts from now on.
    Anew {
        /// So many entries.
        entries: usize,
    },
    /// It has changed and does not count.
    Bad(ListError),
}

impl List {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it is no entry of that kind.
    pub fn read(path: &Path, kind: Kind) -> Result<Self, ListError> {
        let (entries, stamp) = read(path, kind);
        Ok(Self {
            path: path.to_owned(),
            kind,
            entries: RwLock::new(Arc::new(entries?)),
            stamp: Mutex::new(Stamps {
                read: stamp,
                seen: stamp,
            }),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    #[must_use]
    pub fn entries(&self) -> Arc<Entries> {
        let entries = self.entries.read();
        Arc::clone(&entries.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again if it is another than before, and has stayed so since the last look: it
    /// may be written meanwhile. A bad one is told once.
    pub fn refresh(&self) -> Refreshed {
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let found = std::fs::metadata(&self.path).ok().as_ref().map(stamp_of);
        let settled = found == known.seen || found.is_none();
        known.seen = found;
        if found == known.read || !settled {
            return Refreshed::Same;
        }
        let (entries, stamp) = read(&self.path, self.kind);
        known.read = stamp;
        match entries {
            Ok(entries) => {
                let count = entries.len();
                let mut current = self.entries.write();
                let current = current.as_deref_mut();
                match current {
                    Ok(current) => *current = Arc::new(entries),
                    Err(poisoned) => **poisoned.get_mut() = Arc::new(entries),
                }
                Refreshed::Anew { entries: count }
            }
            Err(error) => Refreshed::Bad(error),
        }
    }
}

fn stamp_of(meta: &Metadata) -> Stamp {
    (
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// The entries of a file, and which state of it that was.
fn read(path: &Path, kind: Kind) -> (Result<Entries, ListError>, Option<Stamp>) {
    let io = |error| ListError::Io {
        path: path.to_owned(),
        error,
    };
    // A pipe would be waited for.
    let regular = || match std::fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    };
    let opened = regular()
        .and_then(|()| File::open(path))
        .and_then(|file| Ok((stamp_of(&file.metadata()?), file)));
    let (stamp, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return (Err(io(error)), None),
    };
    let mut bytes = Vec::new();
    let entries = match file.take(FILE_MAX + 1).read_to_end(&mut bytes) {
        Err(error) => Err(io(error)),
        Ok(_) if bytes.len() as u64 > FILE_MAX => Err(ListError::TooLarge(path.to_owned())),
        Ok(_) => parse(&bytes, kind).map_err(|(line, error)| ListError::Line {
            path: path.to_owned(),
            line,
            error,
        }),
    };
    (entries, Some(stamp))
}

/// One entry a line; what follows `#` at the beginning of a line or behind a space is a remark.
fn parse(bytes: &[u8], kind: Kind) -> Result<Entries, (usize, EntryError)> {
    let mut entries = Entries::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = str::from_utf8(line).map_err(|_| {
            let what = "not UTF-8 text".to_owned();
            let help = "write one entry a line";
            (number + 1, EntryError { what, help })
        })?;
        let entry = match line.find(" #").or_else(|| line.find("\t#")) {
            Some(remark) => line.get(..remark).unwrap_or(line).trim(),
            None => line.trim(),
        };
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        entries
            .add(kind, entry)
            .map_err(|error| (number + 1, error))?;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_again_when_it_changes_and_a_bad_one_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nets");
        std::fs::write(
            &path,
            "# ours\n\n192.0.2.0/24 # office\r\n  2001:db8::/32\n",
        )
        .unwrap();
        let list = List::read(&path, Kind::Network).unwrap();
        let holds = |text: &str| list.entries().hold(Kind::Network, text.as_bytes());
        assert_eq!(list.entries().len(), 2);
        assert!(holds("192.0.2.1") && holds("2001:db8::1"));
        assert!(matches!(list.refresh(), Refreshed::Same));

        std::fs::write(&path, "198.51.100.0/24\n").unwrap();
        assert!(
            matches!(list.refresh(), Refreshed::Same),
            "may be half written"
        );
        assert!(holds("192.0.2.1"));
        assert!(matches!(list.refresh(), Refreshed::Anew { entries: 1 }));
        assert!(holds("198.51.100.1") && !holds("192.0.2.1"));

        std::fs::write(&path, "10.0.0.0/8\n\n10.0.0.0/99\n").unwrap();
        assert!(matches!(list.refresh(), Refreshed::Same));
        let Refreshed::Bad(error) = list.refresh() else {
            panic!("a bad list counts");
        };
        let told = error.to_string();
        assert!(told.contains("nets:3: \"10.0.0.0/99\""), "{told}");
        assert!(holds("198.51.100.1") && !holds("10.0.0.1"));
        assert!(matches!(list.refresh(), Refreshed::Same), "told once");

        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            list.refresh(),
            Refreshed::Bad(ListError::Io { .. })
        ));
        assert!(matches!(list.refresh(), Refreshed::Same), "told once");
        std::fs::write(&path, "10.0.0.0/8\n").unwrap();
        assert!(matches!(list.refresh(), Refreshed::Same));
        assert!(matches!(list.refresh(), Refreshed::Anew { .. }));
        assert!(holds("10.0.0.1"));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let absent = List::read(&directory.path().join("absent"), Kind::Text);
        assert!(absent.unwrap_err().to_string().contains("absent: No such"));
        let folder = List::read(directory.path(), Kind::Text);
        assert!(matches!(folder, Err(ListError::Io { .. })));
        let path = directory.path().join("bytes");
        std::fs::write(&path, b"good\n\xff\n").unwrap();
        let told = List::read(&path, Kind::Text).unwrap_err().to_string();
        assert!(told.contains("bytes:2: not UTF-8"), "{told}");
    }
}
