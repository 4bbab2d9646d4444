//! Bytes in a named character set to text.
//!
//! Never fails: an unknown name is read as UTF-8 where the bytes are, and as Windows-1252
//! otherwise, which is what mail readers show; bytes that the set does not have become U+FFFD.

use encoding_rs::{Encoding, WINDOWS_1252};

/// `bytes` as text. `label` is the name of the character set as the message gives it; empty for
/// none.
pub(crate) fn decode(bytes: &[u8], label: &[u8]) -> String {
    let named = Encoding::for_label(label.trim_ascii());
    if let Some(encoding) = named.filter(|encoding| *encoding != WINDOWS_1252) {
        let (text, _) = encoding.decode_without_bom_handling(bytes);
        return text.into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if named.is_none() => text.to_owned(),
        _ => WINDOWS_1252
            .decode_without_bom_handling(bytes)
            .0
            .into_owned(),
    }
}

/// At most `most` bytes from the start of `text`, whole characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::{cut, decode};

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn decodes_by_name() {
        for (bytes, label, text) in [
            (&b"caf\xe9"[..], "iso-8859-1", "café"),
            (b"caf\xc3\xa9", "UTF-8", "café"),
            (b"caf\xc3\xa9", "", "café"),
            (b"caf\xe9", "", "café"),
            (b"caf\xe9", "x-unheard-of", "café"),
            (b"\xcf\xf0\xe8", "windows-1251", "При"),
            (b"\x1b$B$\"\x1b(B", "iso-2022-jp", "あ"),
            (b"a\xff", "utf-8", "a\u{fffd}"),
        ] {
            assert_eq!(decode(bytes, label.as_bytes()), text, "{label}");
        }
    }
}
