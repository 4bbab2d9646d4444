//! Changes to a message: asked for at the end of the message only.
//!
//! An [`Edit`] can hold any bytes, since much of them comes from mail. [`Edit::clean`] makes them
//! harmless, [`Edit::check`] refuses what is not. The side that drives a foreign filter cleans
//! every edit; the one that answers for a filter of ours checks it, since a line end that slipped
//! in is a mistake there. So no line of a header can be smuggled in either way. What is beyond both
//! is
//! [`InvalidEdit`].

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

use crate::wire::options::Actions;

/// One change, in the terms of the wire. Where an index means different things to different MTAs,
/// the wish is passed on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Append a header field (`SMFIR_ADDHEADER`).
    AddHeader {
        /// Field name.
        name: Bytes,
        /// Field body; folds are LF and white space.
        value: Bytes,
    },
    /// Insert a header field (`SMFIR_INSHEADER`): 0 is above everything, the MTA's own Received
    /// included.
    InsertHeader {
        /// Position.
        index: u32,
        /// Field name.
        name: Bytes,
        /// Field body.
        value: Bytes,
    },
    /// Change the `index`-th field of that name, counted from 1 (`SMFIR_CHGHEADER`); an empty value
    /// deletes it.
    ChangeHeader {
        /// Which one of that name, from 1.
        index: u32,
        /// Field name.
        name: Bytes,
        /// New field body, or empty to delete.
        value: Bytes,
    },
    /// Add an envelope recipient (`SMFIR_ADDRCPT`, with parameters `SMFIR_ADDRCPT_PAR`).
    AddRecipient {
        /// The address, brackets as the filter wrote them.
        address: Bytes,
        /// ESMTP parameters separated by spaces; empty for none.
        args: Bytes,
    },
    /// Remove an envelope recipient (`SMFIR_DELRCPT`).
    DeleteRecipient {
        /// The address, as given in the envelope.
        address: Bytes,
    },
    /// Replace the envelope sender (`SMFIR_CHGFROM`).
    ChangeSender {
        /// The address.
        address: Bytes,
        /// ESMTP parameters separated by spaces; empty for none.
        args: Bytes,
    },
    /// A piece of the new body (`SMFIR_REPLBODY`); all pieces together replace the old one.
    ReplaceBody(Bytes),
    /// Hold the message in the MTA's quarantine (`SMFIR_QUARANTINE`).
    Quarantine {
        /// Why, for the operator.
        reason: Bytes,
    },
}

impl Edit {
    /// Appends a header field.
    pub fn add(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::AddHeader {
            name: name.into(),
            value: value.into(),
        }
    }

    /// Inserts a header field at `index`.
    pub fn insert(index: u32, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::InsertHeader {
            index,
            name: name.into(),
            value: value.into(),
        }
    }

    /// Deletes the `index`-th field of that name, counted from 1.
    pub fn delete(index: u32, name: impl Into<Bytes>) -> Self {
        Self::ChangeHeader {
            index,
            name: name.into(),
            value: Bytes::new(),
        }
    }

    /// Changes the `index`-th field of that name, counted from 1.
    pub fn change(index: u32, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::ChangeHeader {
            index,
            name: name.into(),
            value: value.into(),
        }
    }

    /// What must have been negotiated for it.
    #[must_use]
    pub fn action(&self) -> Actions {
        match self {
            Self::AddHeader { .. } | Self::InsertHeader { .. } => Actions::ADD_HEADERS,
            Self::ChangeHeader { .. } => Actions::CHANGE_HEADERS,
            Self::AddRecipient { args, .. } if args.is_empty() => Actions::ADD_RECIPIENT,
            Self::AddRecipient { .. } => Actions::ADD_RECIPIENT_ARGS,
            Self::DeleteRecipient { .. } => Actions::DELETE_RECIPIENT,
            Self::ChangeSender { .. } => Actions::CHANGE_SENDER,
            Self::ReplaceBody(_) => Actions::CHANGE_BODY,
            Self::Quarantine { .. } => Actions::QUARANTINE,
        }
    }
}

/// What becomes of line ends in the value of a header field, where mail could not carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Fold {
    /// Line feeds that are no fold become one with a space, as Sendmail delivers them. What else is
    /// no part of a field (other CRs, NULs, line ends at the end) goes.
    #[default]
    Space,
    /// The same with a tab, as Postfix does it.
    Tab,
    /// A tab, and everything else stays as it is: exactly as Postfix does it.
    AsPostfix,
    /// Nothing: Sendmail shows later filters what was written, and folds what it delivers.
    AsSendmail,
}

/// Why an edit cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidEdit {
    /// RFC 5322 section 2.2: a field name is printable ASCII without a colon, and not empty.
    #[error("{:?} is no header field name", text(.0))]
    HeaderName(Bytes),
    /// A value with a line end that is no fold, or a NUL: other fields could hide behind it.
    #[error("the value of header field {:?} has a line end that is no fold, or a NUL", text(.0))]
    HeaderValue(Bytes),
    /// An address with control characters, with more than one pair of brackets, or too long.
    #[error("{:?} is no address that an envelope can hold", text(.0))]
    Address(Bytes),
    /// ESMTP parameters with anything but printable ASCII, or too long.
    #[error("{:?} are no ESMTP parameters", text(.0))]
    Arguments(Bytes),
}

/// A foreign text for a message.
fn text(bytes: &Bytes) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes))
}

impl Edit {
    /// Bytes in an address, or in its parameters, at most.
    pub const ADDRESS_MAX: usize = 1024;
    /// Bytes in the reason of a quarantine at most; Postfix logs half of it.
    pub const REASON_MAX: usize = 200;

    /// The edit as every MTA takes it. In a header field's value CR LF becomes LF, a line feed that
    /// is no fold gets a space after it (as MTAs themselves write it), other CRs become spaces,
    /// and NULs and line feeds at the end go. Control characters in a reason become spaces.
    ///
    /// # Errors
    /// When the field's name, the address or its parameters hold what they must not: they cannot be
    /// changed without changing their meaning.
    pub fn clean(self) -> Result<Self, InvalidEdit> {
        self.clean_with(Fold::Space)
    }

    /// As [`Edit::clean`], with that rule for line ends in the values of header fields.
    ///
    /// # Errors
    /// As [`Edit::clean`].
    pub fn clean_with(self, fold: Fold) -> Result<Self, InvalidEdit> {
        Ok(match self {
            Self::AddHeader { name, value } => Self::AddHeader {
                name: clean_name(name)?,
                value: clean_value(value, fold),
            },
            Self::InsertHeader { index, name, value } => Self::InsertHeader {
                index,
                name: clean_name(name)?,
                value: clean_value(value, fold),
            },
            Self::ChangeHeader { index, name, value } => Self::ChangeHeader {
                index,
                name: clean_name(name)?,
                value: clean_value(value, fold),
            },
            Self::AddRecipient { address, args } => Self::AddRecipient {
                address: check_address(address)?,
                args: check_args(args)?,
            },
            Self::DeleteRecipient { address } => Self::DeleteRecipient {
                address: check_address(address)?,
            },
            Self::ChangeSender { address, args } => Self::ChangeSender {
                address: check_address(address)?,
                args: check_args(args)?,
            },
            Self::ReplaceBody(piece) => Self::ReplaceBody(piece),
            Self::Quarantine { reason } => Self::Quarantine {
                reason: clean_reason(reason),
            },
        })
    }
}

impl Edit {
    /// The edit as every MTA takes it, if it can be had without guessing: folds may be CR LF and
    /// white space, and become LF and white space; everything else as in [`Edit::clean`].
    ///
    /// # Errors
    /// As [`Edit::clean`], and when a header field's value has a CR or LF that is no fold, or a
    /// NUL. Text that comes from mail is cleaned before it is put into an edit.
    pub fn check(self) -> Result<Self, InvalidEdit> {
        if let Self::AddHeader { name, value }
        | Self::InsertHeader { name, value, .. }
        | Self::ChangeHeader { name, value, .. } = &self
            && !is_folded(value)
        {
            return Err(InvalidEdit::HeaderValue(name.clone()));
        }
        self.clean()
    }
}

/// Whether line ends occur as folds alone.
fn is_folded(value: &[u8]) -> bool {
    let mut rest = value;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let line_end = match byte {
            0 => return false,
            b'\r' => after.strip_prefix(b"\n"),
            b'\n' => Some(after),
            _ => continue,
        };
        let Some(after) = line_end.filter(|after| matches!(after.first(), Some(b' ' | b'\t')))
        else {
            return false;
        };
        rest = after;
    }
    true
}

/// White space before the colon belongs to the old spelling of a name, not to the name.
fn clean_name(name: Bytes) -> Result<Bytes, InvalidEdit> {
    let end = name
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | b'\t'))
        .map_or(0, |last| last + 1);
    let bare = &name[..end];
    if bare.is_empty()
        || !bare
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b':')
    {
        return Err(InvalidEdit::HeaderName(name));
    }
    Ok(name.slice(..end))
}

fn clean_value(value: Bytes, fold: Fold) -> Bytes {
    if !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return value;
    }
    let (space, keeps) = match fold {
        Fold::Space => (b' ', false),
        Fold::Tab => (b'\t', false),
        Fold::AsPostfix => (b'\t', true),
        Fold::AsSendmail => return value,
    };
    let end = value
        .iter()
        .rposition(|byte| keeps || !matches!(byte, b'\r' | b'\n' | 0))
        .map_or(0, |last| last + 1);
    let mut out = Vec::with_capacity(end + 8);
    let mut rest = &value[..end];
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\n' if matches!(after.first(), Some(b' ' | b'\t')) => out.push(b'\n'),
            b'\n' => out.extend_from_slice(&[b'\n', space]),
            byte if keeps => out.push(*byte),
            0 => {}
            b'\r' if after.first() == Some(&b'\n') => {}
            b'\r' => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Bytes::from(out)
}

/// At most one pair of brackets, around everything; nothing that ends a line or a string.
fn check_address(address: Bytes) -> Result<Bytes, InvalidEdit> {
    let bare = address
        .strip_prefix(b"<")
        .and_then(|rest| rest.strip_suffix(b">"))
        .unwrap_or(&address);
    let legal = |byte: &u8| !byte.is_ascii_control() && !matches!(byte, b'<' | b'>');
    if address.len() > Edit::ADDRESS_MAX || !bare.iter().all(legal) {
        return Err(InvalidEdit::Address(address));
    }
    Ok(address)
}

fn check_args(args: Bytes) -> Result<Bytes, InvalidEdit> {
    if args.len() > Edit::ADDRESS_MAX || args.iter().any(u8::is_ascii_control) {
        return Err(InvalidEdit::Arguments(args));
    }
    Ok(args)
}

fn clean_reason(reason: Bytes) -> Bytes {
    let reason = reason.slice(..reason.len().min(Edit::REASON_MAX));
    if !reason.iter().any(u8::is_ascii_control) {
        return reason;
    }
    let clean = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
    reason.iter().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_smuggle_lines() {
        let check = |value: &'static str, clean: &str| {
            let edit = Edit::add("X", value).clean().unwrap();
            assert_eq!(edit, Edit::add("X", clean.to_owned()), "{value:?}");
            assert_eq!(edit.clone().clean().unwrap(), edit, "{value:?}");
        };
        check("plain", "plain");
        check(" a\n\tb\n  c", " a\n\tb\n  c");
        check("a\r\n b", "a\n b");
        check("a\nEvil: x", "a\n Evil: x");
        check("a\r\nEvil: x\r\n", "a\n Evil: x");
        check("a\rb", "a b");
        check("a\r\r\n b", "a \n b");
        check("a\n\nb", "a\n \n b");
        check("a\0b\0", "ab");
        check("\r\n", "");
        check("a\n", "a");
        let dirty = "a\r\nEvil: x\n b\rc\n";
        for (fold, expected) in [
            (Fold::Space, "a\n Evil: x\n b c"),
            (Fold::Tab, "a\n\tEvil: x\n b c"),
            (Fold::AsPostfix, "a\r\n\tEvil: x\n b\rc\n\t"),
            (Fold::AsSendmail, dirty),
        ] {
            let edit = Edit::add("X", dirty).clean_with(fold);
            assert_eq!(edit, Ok(Edit::add("X", expected)), "{fold:?}");
        }
    }

    #[test]
    fn case_065_names_are_names() {
        for name in ["", "Bad Name", "X:", "X\n", "X\0", "\u{e9}"] {
            let bytes = Bytes::from(name);
            let expected = Err(InvalidEdit::HeaderName(bytes));
            for edit in [
                Edit::add(name, "v"),
                Edit::insert(0, name, "v"),
                Edit::change(1, name, "v"),
            ] {
                assert_eq!(edit.clean(), expected, "{name:?}");
            }
        }
        assert_eq!(Edit::add("To ", "v").clean(), Ok(Edit::add("To", "v")));
    }

    #[test]
    fn addresses_are_addresses() {
        let check = |address: &str, good: bool| {
            let address = Bytes::from(address.to_owned());
            let edits = [
                Edit::DeleteRecipient {
                    address: address.clone(),
                },
                Edit::AddRecipient {
                    address: address.clone(),
                    args: Bytes::new(),
                },
                Edit::ChangeSender {
                    address,
                    args: Bytes::new(),
                },
            ];
            for edit in edits {
                assert_eq!(edit.clone().clean().is_ok(), good, "{edit:?}");
            }
        };
        check("<a@b>", true);
        check("a@b", true);
        check("<>", true);
        check("", true);
        check("<\u{e9}@b>", true);
        check("<<a@b>>", false);
        check("<a@b> <c@d>", false);
        check("<a@b>\r\nRCPT TO:<c@d>", false);
        check("a\0b", false);
        check(&"a".repeat(1025), false);
    }

    #[test]
    fn arguments_and_reasons() {
        let args = Bytes::from_static(b"NOTIFY=NEVER\n");
        let edit = Edit::AddRecipient {
            address: Bytes::from_static(b"<a@b>"),
            args: args.clone(),
        };
        assert_eq!(edit.clean(), Err(InvalidEdit::Arguments(args)));
        let reason = |text: &str| Edit::Quarantine {
            reason: Bytes::from(text.to_owned()),
        };
        assert_eq!(reason("a\r\nb").clean(), Ok(reason("a  b")));
        assert_eq!(
            reason(&"x".repeat(300)).clean(),
            Ok(reason(&"x".repeat(200)))
        );
    }
}
