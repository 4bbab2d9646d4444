//! Checks on the MIME structure and on attachments.

use super::extensions::{badness, fits, is_archive, is_document};
use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::mime::archive::Archive;
use crate::mime::{Content, FileKind, Part, extensions};
use crate::script;
use crate::transfer::Encoding;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "MISSING_MIME_VERSION",
        "MIME-Version header is missing in a MIME message",
        Group::Headers,
        2.0,
        missing_version,
    ),
    Rule::header(
        "MIME_HEADER_CTYPE_ONLY",
        "Content-Type is the only MIME header",
        Group::Headers,
        2.0,
        type_only,
    ),
    Rule::body(
        "BROKEN_CONTENT_TYPE",
        "A part has a broken content type",
        Group::Headers,
        1.5,
        broken_type,
    ),
    Rule::body(
        "MIME_BROKEN_BOUNDARY",
        "A multipart has no boundary, or it does not occur",
        Group::Mime,
        1.5,
        broken_boundary,
    ),
    Rule::body(
        "MIME_MA_MISSING_TEXT",
        "multipart/alternative without text/plain",
        Group::Headers,
        2.0,
        |facts| alternative_without(facts, "plain"),
    ),
    Rule::body(
        "MIME_MA_MISSING_HTML",
        "multipart/alternative without text/html",
        Group::Headers,
        1.0,
        |facts| alternative_without(facts, "html"),
    ),
    Rule::body(
        "MIME_HTML_ONLY",
        "HTML is the only text",
        Group::Headers,
        0.2,
        html_only,
    ),
    Rule::body(
        "CTYPE_MISSING_DISPOSITION",
        "application/octet-stream that is not an attachment",
        Group::Mime,
        4.0,
        missing_disposition,
    ),
    Rule::body(
        "CTYPE_MIXED_BOGUS",
        "multipart/mixed with nothing but text",
        Group::Mime,
        1.0,
        mixed_bogus,
    ),
    Rule::body(
        "MIME_BASE64_TEXT",
        "Text in base64",
        Group::Mime,
        0.1,
        base64_text,
    ),
    Rule::body(
        "MIME_BASE64_TEXT_BOGUS",
        "Text in base64 that is plain ASCII",
        Group::Mime,
        1.0,
        base64_text_bogus,
    ),
    Rule::body(
        "R_BAD_CTE_7BIT",
        "8-bit text in a part that says otherwise",
        Group::Headers,
        3.5,
        bad_7bit,
    ),
    Rule::body(
        "R_MISSING_CHARSET",
        "Text without a character set",
        Group::Headers,
        0.5,
        missing_charset,
    ),
    Rule::body(
        "HAS_ATTACHMENT",
        "Message has attachments",
        Group::Body,
        0.0,
        has_attachment,
    ),
    Rule::body(
        "MIME_GOOD",
        "Known content type",
        Group::MimeTypes,
        -0.1,
        good_type,
    ),
    Rule::body(
        "MIME_UNKNOWN",
        "Attachment without a content type",
        Group::MimeTypes,
        0.1,
        unknown_type,
    ),
    Rule::body(
        "MIME_BAD",
        "Content type of programs",
        Group::MimeTypes,
        1.0,
        bad_type,
    ),
    Rule::body(
        "MIME_BAD_ATTACHMENT",
        "Attachment is not what its type says",
        Group::MimeTypes,
        4.0,
        bad_attachment,
    ),
    Rule::body(
        "MIME_BAD_EXTENSION",
        "Attachment has the extension of a program",
        Group::MimeTypes,
        2.0,
        bad_extension,
    ),
    Rule::body(
        "MIME_DOUBLE_BAD_EXTENSION",
        "Attachment hides the extension of a program behind another",
        Group::MimeTypes,
        3.0,
        double_extension,
    ),
    Rule::body(
        "MIME_BAD_UNICODE",
        "File name has characters that hide what it is",
        Group::MimeTypes,
        8.0,
        bad_unicode,
    ),
    Rule::body(
        "MIME_ENCRYPTED_ARCHIVE",
        "Archive is encrypted",
        Group::MimeTypes,
        2.0,
        encrypted_archive,
    ),
    Rule::body(
        "MIME_ARCHIVE_IN_ARCHIVE",
        "Archive in an archive",
        Group::MimeTypes,
        5.0,
        archive_in_archive,
    ),
    Rule::body(
        "SIGNED_PGP",
        "Message is signed with OpenPGP",
        Group::MimeTypes,
        -2.0,
        |facts| has_type(facts, &["application/pgp-signature"]),
    ),
    Rule::body(
        "SIGNED_SMIME",
        "Message is signed with S/MIME",
        Group::MimeTypes,
        -2.0,
        |facts| {
            has_type(
                facts,
                &[
                    "application/pkcs7-signature",
                    "application/x-pkcs7-signature",
                ],
            )
        },
    ),
    Rule::body(
        "ENCRYPTED_PGP",
        "Message is encrypted with OpenPGP",
        Group::MimeTypes,
        -0.5,
        |facts| has_type(facts, &["application/pgp-encrypted"]),
    ),
];

fn is_leaf(part: &Part) -> bool {
    !matches!(part.content, Content::Multipart | Content::Message)
}

/// Text that is shown.
fn shown_texts(facts: &Facts) -> impl Iterator<Item = &Part> {
    facts
        .parts
        .iter()
        .filter(|part| part.content_type.kind == "text" && !part.is_attachment())
}

/// Plain 7-bit text needs none.
fn missing_version(facts: &Facts) -> Option<Hit> {
    let whole = facts.parts.first()?;
    let simple = whole.content_type.kind == "text" && whole.encoding == Encoding::SevenBit;
    Hit::when(whole.declared && !simple && !facts.headers.has("MIME-Version"))
}

fn type_only(facts: &Facts) -> Option<Hit> {
    let others = [
        "Content-Disposition",
        "Content-Transfer-Encoding",
        "MIME-Version",
    ];
    let whole = facts.parts.first()?;
    let plain = whole.content_type.is("text", "plain");
    Hit::when(whole.declared && !plain && !others.iter().any(|name| facts.headers.has(name)))
}

fn broken_type(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.parts.iter().any(|part| part.content_type.broken))
}

fn broken_boundary(facts: &Facts) -> Option<Hit> {
    let mut parts = facts.parts.iter().filter(|part| part.is_multipart());
    let limited =
        facts.reached.names().contains(&"depth") || facts.reached.names().contains(&"body");
    Hit::when(!limited && parts.any(is_leaf))
}

fn alternative_without(facts: &Facts, subtype: &str) -> Option<Hit> {
    let alternative = |part: &Part| part.content_type.is("multipart", "alternative");
    let has_one = facts.parts.iter().any(alternative);
    let has_text = facts
        .parts
        .iter()
        .any(|part| part.content_type.is("text", subtype));
    Hit::when(has_one && !has_text)
}

fn html_only(facts: &Facts) -> Option<Hit> {
    let mut texts = shown_texts(facts).peekable();
    texts.peek()?;
    Hit::when(texts.all(|part| part.content_type.subtype == "html"))
}

fn missing_disposition(facts: &Facts) -> Option<Hit> {
    let in_encrypted = |part: &Part| {
        part.parent
            .and_then(|parent| facts.parts.get(parent))
            .is_some_and(|parent| parent.content_type.is("multipart", "encrypted"))
    };
    let bytes = facts
        .parts
        .iter()
        .filter(|part| part.content_type.is("application", "octet-stream"));
    let mut odd =
        bytes.filter(|part| !part.is_attachment() && !part.has_content_id && !in_encrypted(part));
    Hit::when(odd.next().is_some())
}

fn mixed_bogus(facts: &Facts) -> Option<Hit> {
    let whole = facts.parts.first()?;
    if !whole.content_type.is("multipart", "mixed") || matches!(whole.content, Content::Text(_)) {
        return None;
    }
    let text = |part: &&Part| part.content_type.kind == "text" && !part.is_attachment();
    let other = facts
        .parts
        .iter()
        .any(|part| !part.is_multipart() && !text(&part));
    // Lists add a footer as a part of its own.
    Hit::when(!other && facts.parts.iter().filter(text).count() <= 2)
}

fn base64_text(facts: &Facts) -> Option<Hit> {
    Hit::when(shown_texts(facts).any(|part| part.encoding == Encoding::Base64))
}

fn base64_text_bogus(facts: &Facts) -> Option<Hit> {
    Hit::when(shown_texts(facts).any(|part| {
        let ascii = part
            .text()
            .is_some_and(|text| !text.decoded_8bit && !text.text.is_empty());
        part.encoding == Encoding::Base64 && ascii
    }))
}

/// Less sure for UTF-8, of which many programs do not know that it is 8-bit.
fn bad_7bit(facts: &Facts) -> Option<Hit> {
    let odd = shown_texts(facts).find(|part| {
        let clean = matches!(part.encoding, Encoding::EightBit | Encoding::Binary);
        !clean && part.text().is_some_and(|text| text.raw_8bit)
    })?;
    let charset = odd.content_type.parameter("charset").unwrap_or_default();
    let factor = if charset.eq_ignore_ascii_case("utf-8") {
        0.3
    } else {
        1.0
    };
    Some(Hit::new().times(factor).with(charset))
}

fn missing_charset(facts: &Facts) -> Option<Hit> {
    Hit::when(shown_texts(facts).any(|part| {
        let needed = part.encoding != Encoding::SevenBit && part.content_type.is("text", "plain");
        let some = part.text().is_some_and(|text| !text.text.trim().is_empty());
        needed && some && part.content_type.parameter("charset").is_none()
    }))
}

fn has_attachment(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.parts.iter().any(Part::is_attachment))
}

fn good_type(facts: &Facts) -> Option<Hit> {
    let whole = facts.parts.first().filter(|part| part.declared)?;
    let good = [
        "text/plain",
        "text/html",
        "multipart/alternative",
        "multipart/mixed",
        "multipart/related",
        "multipart/report",
        "multipart/signed",
        "multipart/encrypted",
    ];
    let name = whole.content_type.name();
    (good.contains(&&name[..]) && !whole.content_type.broken).then(|| Hit::new().with(name))
}

fn unknown_type(facts: &Facts) -> Option<Hit> {
    let mut parts = facts.parts.iter().filter(|part| part.filename.is_some());
    Hit::when(parts.any(|part| !part.declared || part.content_type.broken))
}

fn bad_type(facts: &Facts) -> Option<Hit> {
    const BAD: [&str; 8] = [
        "application/x-msdownload",
        "application/x-msdos-program",
        "application/x-dosexec",
        "application/x-ms-shortcut",
        "application/hta",
        "application/x-executable",
        "application/vbscript",
        "text/x-vbscript",
    ];
    has_type(facts, &BAD)
}

fn has_type(facts: &Facts, types: &[&str]) -> Option<Hit> {
    let mut names = facts.parts.iter().map(|part| part.content_type.name());
    let found = names.find(|name| types.contains(&&name[..]))?;
    Some(Hit::new().with(found))
}

fn last_extension(part: &Part) -> Option<String> {
    part.extensions().pop()
}

/// A program under a harmless type, or a name that says another type than the part does.
fn bad_attachment(facts: &Facts) -> Option<Hit> {
    facts
        .parts
        .iter()
        .filter(|part| is_leaf(part))
        .find_map(|part| {
            let name = part.content_type.name();
            let program = matches!(
                part.content,
                Content::Other {
                    kind: FileKind::WindowsProgram,
                    ..
                }
            );
            let harmless = ["image", "audio", "video"].contains(&&part.content_type.kind[..])
                || name == "application/pdf";
            if program && harmless {
                return Some(Hit::new().with(format!("program as {name}")));
            }
            let extension = last_extension(part)?;
            let telling = matches!(&extension[..], "pdf" | "html" | "htm" | "txt");
            let wrong = part.declared && !fits(&extension, &name);
            wrong.then(|| {
                let factor = if telling { 1.0 } else { 0.4 };
                Hit::new()
                    .times(factor)
                    .with(format!("{extension} as {name}"))
            })
        })
}

fn archives(facts: &Facts) -> impl Iterator<Item = &Archive> {
    facts.parts.iter().filter_map(|part| match &part.content {
        Content::Other { archive, .. } => archive.as_ref(),
        Content::Multipart | Content::Message | Content::Text(_) => None,
    })
}

/// Names of attachments and of the files in archives. Office documents are archives too, but hold
/// no programs by name.
fn file_names(facts: &Facts) -> impl Iterator<Item = &str> {
    let attached = facts
        .parts
        .iter()
        .filter_map(|part| part.filename.as_deref());
    let packed = archives(facts).flat_map(|archive| archive.names.iter().map(String::as_str));
    attached.chain(packed)
}

fn bad_extension(facts: &Facts) -> Option<Hit> {
    let bad = file_names(facts).filter_map(|name| {
        let extension = extensions(name).pop()?;
        Some((badness(&extension)?, extension))
    });
    let (factor, extension) = bad.max_by(|one, other| one.0.total_cmp(&other.0))?;
    Some(Hit::new().times(factor).with(extension))
}

fn double_extension(facts: &Facts) -> Option<Hit> {
    file_names(facts).find_map(|name| {
        let pair = extensions(name);
        let [first, last] = &pair[..] else {
            return None;
        };
        let first = first.split(' ').next().unwrap_or(first);
        (is_document(first) && badness(last).is_some())
            .then(|| Hit::new().with(format!(".{first}.{last}")))
    })
}

/// Right-to-left marks that turn `exe.pdf` around, and letters without width.
fn bad_unicode(facts: &Facts) -> Option<Hit> {
    let hides = |c: char| script::is_bidi_override(c) || c != '\u{ad}' && script::is_zero_width(c);
    let joins = |c: char| matches!(c, '\u{200c}' | '\u{200d}');
    let name = file_names(facts).find(|name| name.chars().any(|c| hides(c) && !joins(c)))?;
    Some(Hit::new().with(name))
}

fn encrypted_archive(facts: &Facts) -> Option<Hit> {
    Hit::when(archives(facts).any(|archive| archive.encrypted))
}

fn archive_in_archive(facts: &Facts) -> Option<Hit> {
    let mut names = archives(facts).flat_map(|archive| &archive.names);
    let inner = names.find(|name| extensions(name).pop().is_some_and(|last| is_archive(&last)))?;
    Some(Hit::new().with(inner))
}
