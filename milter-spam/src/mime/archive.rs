//! What is in a ZIP file, without unpacking it: the names in its central directory and whether any
//! of it is encrypted.
//!
//! Reads PKWARE's APPNOTE sections 4.3.12 and 4.3.16. Anything that is not as it says there is no
//! archive, or has no more entries; nothing is decompressed.

/// The outside of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// Names of files, as far as the limit allows.
    pub names: Vec<String>,
    /// Whether a file in it is encrypted.
    pub encrypted: bool,
    /// Whether there are more names than the limit.
    pub cut: bool,
}

/// Signature of the end of the central directory.
const END: &[u8] = b"PK\x05\x06";
/// Signature of one file in the central directory.
const FILE: &[u8] = b"PK\x01\x02";
/// A comment of 65,535 bytes may follow the end record of 22.
const TAIL: usize = 22 + 65_535;

/// Reads the directory of `bytes`; `None` where it is no ZIP file, or is cut off.
#[must_use]
pub fn parse(bytes: &[u8], names_max: usize) -> Option<Archive> {
    if !bytes.starts_with(b"PK") {
        return None;
    }
    let tail = bytes.len().saturating_sub(TAIL);
    let end = bytes
        .get(tail..)?
        .windows(END.len())
        .rposition(|at| at == END)?;
    let record = bytes.get(tail + end..)?;
    let mut at = usize::try_from(u32_at(record, 16)?).ok()?;
    let mut archive = Archive::default();
    while let Some(entry) = bytes.get(at..).filter(|entry| entry.starts_with(FILE)) {
        if archive.names.len() >= names_max {
            archive.cut = true;
            break;
        }
        let Some((name, length)) = file(entry, &mut archive.encrypted) else {
            break;
        };
        archive.names.push(name);
        at += length;
    }
    Some(archive)
}

/// The name of one entry, and its length in the directory.
fn file(entry: &[u8], encrypted: &mut bool) -> Option<(String, usize)> {
    *encrypted |= u16_at(entry, 8)? & 1 == 1;
    let name = usize::from(u16_at(entry, 28)?);
    let extra = usize::from(u16_at(entry, 30)?);
    let comment = usize::from(u16_at(entry, 32)?);
    let text = String::from_utf8_lossy(entry.get(46..46 + name)?).into_owned();
    Some((text, 46 + name + extra + comment))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_le_bytes(pair.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ZIP file with empty files of these names.
    pub(crate) fn zip(names: &[&str], encrypted: bool) -> Vec<u8> {
        let mut directory = Vec::new();
        for name in names {
            let mut entry = [0_u8; 46];
            entry[..4].copy_from_slice(FILE);
            entry[8] = u8::from(encrypted);
            entry[28] = name.len() as u8;
            directory.extend_from_slice(&entry);
            directory.extend_from_slice(name.as_bytes());
        }
        let mut bytes = b"PK\x03\x04 local part".to_vec();
        let start = bytes.len() as u32;
        bytes.extend_from_slice(&directory);
        let mut end = [0_u8; 22];
        end[..4].copy_from_slice(END);
        end[16..20].copy_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&end);
        bytes
    }

    #[test]
    fn reads_names() {
        let archive = parse(&zip(&["a.txt", "b.exe"], false), 10);
        let archive = archive.unwrap_or_default();
        assert_eq!(archive.names, ["a.txt", "b.exe"]);
        assert!(!archive.encrypted && !archive.cut);
        assert!(parse(&zip(&["a"], true), 10).is_some_and(|found| found.encrypted));
        assert!(parse(&zip(&["a"; 5], false), 3).is_some_and(|found| found.cut));
    }

    #[test]
    fn anything_else_is_no_archive() {
        assert_eq!(parse(b"", 10), None);
        assert_eq!(parse(b"PK", 10), None);
        let whole = zip(&["a.txt", "b.exe"], false);
        for cut in 0..whole.len() {
            let _ = parse(&whole[..cut], 10);
            let _ = parse(&whole[cut..], 10);
        }
    }
}
