//! The MIME tree of a message (RFC 2045, RFC 2046): a flat list of parts, each knowing its parent.
//!
//! Own walker instead of a library's, because three things are needed at once: one pass over the
//! body however deep or broken the nesting is, limits on parts, depth and decoded bytes that are
//! reached instead of refused, and what was wrong with each part. Nothing is an error; a body that
//! is no MIME is one text part.

pub mod archive;
mod content;
pub mod content_type;
mod walk;

pub use content::{Content, FileKind, Text};
pub use walk::walk;

use std::ops::Range;

use crate::header::Headers;
use crate::transfer::Encoding;
use content_type::ContentType;

/// One part of a message; the first is the message itself.
#[derive(Debug, Clone)]
pub struct Part {
    /// Index of the multipart or message that it is in.
    pub parent: Option<usize>,
    /// Multiparts and messages around it.
    pub depth: usize,
    /// Its type; `text/plain` where nothing is said.
    pub content_type: ContentType,
    /// Whether it has a Content-Type field at all.
    pub declared: bool,
    /// How its body is encoded.
    pub encoding: Encoding,
    /// The word of Content-Disposition, in lower case; empty for none.
    pub disposition: String,
    /// The name of the file, from either field.
    pub filename: Option<String>,
    /// Whether it has a Content-ID, which an HTML part can refer to.
    pub has_content_id: bool,
    /// Where the body is, in the body of the message; of a multipart the preamble. Empty for
    /// messages.
    pub body: Range<usize>,
    /// What is in it.
    pub content: Content,
}

impl Part {
    /// From its header, with an empty body.
    fn new(headers: &Headers, parent: Option<usize>, depth: usize) -> Self {
        let declared = headers.first("Content-Type");
        let content_type = declared.map(ContentType::parse).unwrap_or_default();
        let (disposition, parameters) = headers
            .first("Content-Disposition")
            .map(content_type::disposition)
            .unwrap_or_default();
        let filename = parameters
            .get("filename")
            .or_else(|| content_type.parameters.get("name"))
            .filter(|name| !name.is_empty())
            .cloned();
        Self {
            parent,
            depth,
            declared: declared.is_some(),
            encoding: headers
                .first("Content-Transfer-Encoding")
                .map(Encoding::named)
                .unwrap_or_default(),
            disposition,
            filename,
            has_content_id: headers.has("Content-ID"),
            body: 0..0,
            content: Content::Other {
                kind: FileKind::Unknown,
                archive: None,
            },
            content_type,
        }
    }

    /// Whether it is `multipart/*`.
    #[must_use]
    pub fn is_multipart(&self) -> bool {
        self.content_type.kind == "multipart"
    }

    /// Whether it is meant to be saved, not shown.
    #[must_use]
    pub fn is_attachment(&self) -> bool {
        self.disposition == "attachment"
    }

    /// The decoded text, where it is a text part.
    #[must_use]
    pub fn text(&self) -> Option<&Text> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Multipart | Content::Message | Content::Other { .. } => None,
        }
    }

    /// The last extensions of the file name, in lower case: `["pdf", "exe"]` of `bill.pdf.exe`; at
    /// most two.
    #[must_use]
    pub fn extensions(&self) -> Vec<String> {
        self.filename.as_deref().map(extensions).unwrap_or_default()
    }
}

/// The last extensions of a file name, in lower case, at most two. White space around them is not
/// part of them.
#[must_use]
pub fn extensions(name: &str) -> Vec<String> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let mut dots = name.rsplit('.');
    let mut found: Vec<String> = dots
        .by_ref()
        .take(2)
        .map(|extension| extension.trim().to_lowercase())
        .collect();
    // What stands before the first dot is the name, not an extension.
    if dots.next().is_none() {
        found.pop();
    }
    found.reverse();
    found
}
