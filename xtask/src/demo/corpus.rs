//! Mixed mail to send in bulk: from the archive of test mail where it is there, else generated.
//!
//! The archive is unpacked once, into the build folder, under its own checksum. Its mail is data:
//! it is sent to the private server and never opened, followed or run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::mail;
use crate::workspace;

/// The archive, relative to the root of the workspace.
pub(crate) const ARCHIVE: &str = "../shared/data/corpus.tar.xz";
/// The list of its files: one a line, tab-separated, the path and the label first.
const MANIFEST: &str = "MANIFEST.tsv";
/// Folder and addresses of the private server's bulk mail: `bulk17@…`.
const NAME: &str = "bulk";

/// Bulk mail and where it came from.
pub(super) struct Bulk {
    /// Recipient's local part, and the message.
    pub(super) messages: Vec<(String, Vec<u8>)>,
    /// Whether it is from the archive.
    pub(super) archived: bool,
}

/// `count` messages, half of them wanted and half not where the archive says which is which.
pub(super) fn bulk(root: &Path, target: &Path, count: usize, domain: &str) -> Result<Bulk> {
    let archive = root.join(ARCHIVE);
    if !archive.is_file() {
        let message = |index| {
            let name = format!("{NAME}{index}");
            let message = mail::generated(index, &format!("{name}@{domain}"));
            (name, message)
        };
        return Ok(Bulk {
            messages: (0..count).map(message).collect(),
            archived: false,
        });
    }
    let folder = unpacked(&archive, target)?;
    let manifest = fs::read_to_string(folder.join(MANIFEST)).context(MANIFEST)?;
    let read = |(index, file): (usize, &str)| {
        let path = folder.join(file);
        let message = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok((format!("{NAME}{index}"), message))
    };
    let files = chosen(&manifest, count);
    let messages: Result<Vec<_>> = files.into_iter().enumerate().map(read).collect();
    Ok(Bulk {
        messages: messages?,
        archived: true,
    })
}

/// Files spread evenly over each label, the labels in turn.
fn chosen(manifest: &str, count: usize) -> Vec<&str> {
    let labelled = |label: &str| -> Vec<&str> {
        let rows = manifest.lines().skip(1).map(|row| row.split('\t'));
        let all: Vec<&str> = rows
            .filter_map(|mut row| Some((row.next()?, row.next()?)))
            .filter(|(file, of)| *of == label && is_inside(file))
            .map(|(file, _)| file)
            .collect();
        let wanted = count.div_ceil(2).max(1);
        let step = (all.len() / wanted).max(1);
        all.into_iter().step_by(step).collect()
    };
    let (ham, spam) = (labelled("ham"), labelled("spam"));
    let longest = ham.len().max(spam.len());
    (0..longest)
        .flat_map(|index| [ham.get(index), spam.get(index)])
        .flatten()
        .copied()
        .take(count)
        .collect()
}

/// Whether a name from the list stays in its folder.
fn is_inside(file: &str) -> bool {
    let path = Path::new(file);
    path.components()
        .all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// The folder with the archive's content.
fn unpacked(archive: &Path, target: &Path) -> Result<PathBuf> {
    let sum = workspace::output(Command::new("sha256sum").arg(archive))?;
    let sum = String::from_utf8_lossy(&sum);
    let sum = sum
        .get(..16)
        .context("sha256sum gave no checksum")?
        .to_owned();
    let data = target.join("data");
    let folder = data.join(format!("corpus-{sum}"));
    if folder.join(MANIFEST).is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&data)?;
    // Into a folder of its own first: two runs may unpack at once, and a run may be killed.
    let partial = tempfile::tempdir_in(&data)?;
    let mut tar = Command::new("tar");
    tar.arg("xJf").arg(archive).arg("-C").arg(partial.path());
    workspace::output(tar.arg("--no-same-owner"))?;
    if fs::rename(partial.path(), &folder).is_err() {
        ensure!(
            folder.join(MANIFEST).is_file(),
            "{} cannot be made",
            folder.display()
        );
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_spread_and_mixed() {
        let mut manifest = String::from("file\tlabel\n");
        for index in 0..10 {
            manifest.push_str(&format!("ham/{index}.eml\tham\t\n"));
        }
        manifest.push_str("spam/a.eml\tspam\n../../etc/passwd\tspam\n/etc/passwd\tham\n");
        assert_eq!(
            chosen(&manifest, 4),
            ["ham/0.eml", "spam/a.eml", "ham/5.eml"]
        );
        assert_eq!(chosen("file\tlabel\n", 4), [""; 0]);
    }

    #[test]
    fn without_the_archive_mail_is_generated() {
        let nowhere = Path::new("/nonexistent/workspace");
        let bulk = bulk(nowhere, nowhere, 7, "demo.test").unwrap();
        assert!(!bulk.archived);
        assert_eq!(bulk.messages.len(), 7);
        assert!(bulk.messages.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
