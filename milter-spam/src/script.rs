//! What kind of characters a text is made of: scripts that look alike, characters that cannot be
//! seen.
//!
//! Pure and in one pass; knows just the ranges that are used to deceive readers of Latin script.

/// A writing system, as far as the checks tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    Latin,
    Greek,
    Cyrillic,
    Other,
}

/// The script of a letter; `None` for digits, marks and everything that all scripts share.
pub(crate) fn of(letter: char) -> Option<Script> {
    match letter {
        'a'..='z' | 'A'..='Z' => Some(Script::Latin),
        '\u{c0}'..='\u{24f}' if letter.is_alphabetic() => Some(Script::Latin),
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' if letter.is_alphabetic() => {
            Some(Script::Greek)
        }
        '\u{400}'..='\u{52f}' => Some(Script::Cyrillic),
        _ if letter.is_ascii() || !letter.is_alphabetic() => None,
        _ => Some(Script::Other),
    }
}

/// Whether `word` has both Latin letters and Greek or Cyrillic ones.
pub(crate) fn is_mixed(word: &str) -> bool {
    let mut latin = false;
    let mut lookalike = false;
    for script in word.chars().filter_map(of) {
        match script {
            Script::Latin => latin = true,
            Script::Greek | Script::Cyrillic => lookalike = true,
            Script::Other => {}
        }
    }
    latin && lookalike
}

/// Words of at least three letters in `text`, and those among them that mix scripts. `text` is
/// expected to be bounded.
pub(crate) fn mixed_words(text: &str) -> (usize, usize) {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().nth(2).is_some())
        .fold((0, 0), |(all, mixed), word| {
            (all + 1, mixed + usize::from(is_mixed(word)))
        })
}

/// Whether the character takes no place: zero-width spaces and joiners, soft hyphen, byte order
/// mark.
pub(crate) fn is_zero_width(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{180e}'
    )
}

/// Whether the character turns the direction of writing (Unicode bidirectional controls, marks
/// aside).
pub(crate) fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_scripts_apart() {
        assert_eq!(of('é'), Some(Script::Latin));
        assert_eq!(of('ω'), Some(Script::Greek));
        assert_eq!(of('ж'), Some(Script::Cyrillic));
        assert_eq!(of('字'), Some(Script::Other));
        assert_eq!(of('7'), None);
        assert_eq!(of('×'), None);
    }

    #[test]
    fn counts_mixed_words() {
        assert_eq!(mixed_words("paypаl is раypal, ok plain"), (3, 2));
        assert_eq!(mixed_words("привет world µ"), (2, 0));
    }
}
