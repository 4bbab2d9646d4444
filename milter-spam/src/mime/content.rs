//! What is in a part: its text, or what kind of file it is.
//!
//! Text is decoded within a budget for the whole message. Of other files just the first bytes are
//! decoded to know their kind, and the whole for the directory of an archive.

use super::Part;
use super::archive::{self, Archive};
use crate::charset;
use crate::limits::{Limits, Reached};

/// What a part holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Further parts. A multipart whose boundary does not occur is text instead.
    Multipart,
    /// A message (`message/rfc822`), which follows as the next part.
    Message,
    /// Text.
    Text(Text),
    /// A file.
    Other {
        /// By its first bytes.
        kind: FileKind,
        /// The directory, where it is a ZIP file.
        archive: Option<Archive>,
    },
}

/// The text of a part.
#[derive(Debug, Clone, Default)]
pub struct Text {
    /// Decoded, at most as much as the budget allows.
    pub text: String,
    /// Whether the body as sent has bytes over 127.
    pub raw_8bit: bool,
    /// Whether the decoded bytes have some over 127.
    pub decoded_8bit: bool,
}

/// The kind of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A program for Windows or DOS.
    WindowsProgram,
    /// A program for Unix (ELF).
    UnixProgram,
    /// A ZIP file, and what is built on it.
    Zip,
    /// Another archive that can hold programs.
    Archive,
    /// Adobe's portable document format.
    Pdf,
    /// Anything else.
    Unknown,
}

/// How much text may still be decoded.
pub(super) struct Budget {
    text: usize,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            text: limits.text.as_len(),
        }
    }
}

/// Decodes the body of a leaf.
pub(super) fn fill(
    part: &mut Part,
    body: &[u8],
    limits: &Limits,
    budget: &mut Budget,
    reached: &mut Reached,
) {
    if !matches!(part.content, Content::Other { .. }) {
        return;
    }
    let raw = body.get(part.body.clone()).unwrap_or_default();
    part.content = if matches!(&part.content_type.kind[..], "text" | "multipart") {
        Content::Text(text(part, raw, budget, reached))
    } else {
        file(part, raw, limits, reached)
    };
}

fn text(part: &Part, raw: &[u8], budget: &mut Budget, reached: &mut Reached) -> Text {
    let decoded = part.encoding.decode(raw, budget.text.saturating_add(1));
    let kept = decoded.get(..budget.text).unwrap_or(&decoded);
    if kept.len() < decoded.len() {
        reached.note("text");
    }
    budget.text -= kept.len();
    let label = part.content_type.parameter("charset").unwrap_or_default();
    Text {
        text: charset::decode(kept, label.as_bytes()),
        raw_8bit: !raw.is_ascii(),
        decoded_8bit: !kept.is_ascii(),
    }
}

fn file(part: &Part, raw: &[u8], limits: &Limits, reached: &mut Reached) -> Content {
    /// Enough for every signature of [`kind_of`].
    const START: usize = 16;
    let kind = kind_of(&part.encoding.decode(raw, START));
    let archive = (kind == FileKind::Zip)
        .then(|| {
            let most = limits.attachment.as_len();
            if raw.len() > most {
                reached.note("attachment");
            }
            archive::parse(&part.encoding.decode(raw, most), limits.archive_entries)
        })
        .flatten();
    if archive.as_ref().is_some_and(|archive| archive.cut) {
        reached.note("archive_entries");
    }
    Content::Other { kind, archive }
}

fn kind_of(start: &[u8]) -> FileKind {
    let signatures: [(&[u8], FileKind); 8] = [
        (b"MZ", FileKind::WindowsProgram),
        (b"\x7fELF", FileKind::UnixProgram),
        (b"PK\x03\x04", FileKind::Zip),
        (b"PK\x05\x06", FileKind::Zip),
        (b"Rar!", FileKind::Archive),
        (b"7z\xbc\xaf\x27\x1c", FileKind::Archive),
        (b"MSCF", FileKind::Archive),
        (b"%PDF", FileKind::Pdf),
    ];
    signatures
        .iter()
        .find(|(signature, _)| start.starts_with(signature))
        .map_or(FileKind::Unknown, |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Headers;
    use crate::mime::{extensions, walk};

    fn only_part(header: &str, body: &[u8]) -> (Content, Reached) {
        let limits = Limits::default();
        let mut reached = Reached::default();
        let (headers, _) = Headers::parse(header.as_bytes(), &limits, &mut reached, |_| false);
        let mut parts = walk(&headers, body, &limits, &mut reached);
        (parts.remove(0).content, reached)
    }

    #[test]
    fn decodes_text() {
        let header = "Content-Type: text/plain; charset=iso-8859-1\n\
         Content-Transfer-Encoding: quoted-printable\n";
        let (content, _) = only_part(header, b"caf=E9");
        let Content::Text(text) = content else {
            panic!("not text");
        };
        assert_eq!(text.text, "café");
        assert!(!text.raw_8bit && text.decoded_8bit);
    }

    #[test]
    fn text_has_a_budget() {
        let (content, reached) = only_part("", &vec![b'x'; 2 << 20]);
        let Content::Text(text) = content else {
            panic!("not text");
        };
        assert_eq!(text.text.len(), Limits::default().text.as_len());
        assert_eq!(reached.names(), ["text"]);
    }

    #[test]
    fn knows_files() {
        let header = "Content-Type: application/octet-stream\n";
        let zip = archive::tests::zip(&["a.exe"], true);
        let (content, _) = only_part(header, &zip);
        assert!(matches!(
            content,
            Content::Other { kind: FileKind::Zip, archive: Some(found) } if found.encrypted
        ));
        let base64 = "Content-Type: image/png\nContent-Transfer-Encoding: base64\n";
        let (content, _) = only_part(base64, b"TVqQAAMAAAAEAAAA//8AALgAAAA=");
        assert!(matches!(
            content,
            Content::Other {
                kind: FileKind::WindowsProgram,
                ..
            }
        ));
    }

    #[test]
    fn extensions_of_names() {
        assert_eq!(extensions("bill.pdf.EXE "), ["pdf", "exe"]);
        assert_eq!(extensions("a.b.c.d"), ["c", "d"]);
        assert_eq!(extensions("bill.pdf"), ["pdf"]);
        assert_eq!(extensions("dir.d/bill"), [""; 0]);
        assert_eq!(extensions(""), [""; 0]);
    }
}
