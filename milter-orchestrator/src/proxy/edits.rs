//! Edits of filters in the terms of the MTA: leading white space, and reasons for quarantine.
//!
//! That an edit was negotiated and is harmless was seen to before ([`MtaSide`]). Pure.
//!
//! [`MtaSide`]: milter_proto::session::MtaSide

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::Header;

/// How leading white space of header values is written on both sides (`SMFIP_HDR_LEADSPC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spacing {
    /// The MTA sends and takes values with their leading space.
    pub(crate) mta: bool,
    /// The filter wants them so.
    pub(crate) filter: bool,
}

impl Spacing {
    /// A field as the filter is shown it.
    pub(crate) fn shown(self, header: &Header) -> Header {
        let mut header = header.clone();
        if self.mta && !self.filter && header.value.first() == Some(&b' ') {
            header.value = header.value.slice(1..);
        }
        header
    }

    /// An edit of the filter's as the MTA must be told it.
    pub(crate) fn told(self, mut edit: Edit) -> Edit {
        if !self.mta || self.filter {
            return edit;
        }
        match &mut edit {
            Edit::AddHeader { value, .. } | Edit::InsertHeader { value, .. } => {
                *value = spaced(value);
            }
            // Empty deletes; a space would not.
            Edit::ChangeHeader { value, .. } if !value.is_empty() => *value = spaced(value),
            Edit::ChangeHeader { .. }
            | Edit::AddRecipient { .. }
            | Edit::DeleteRecipient { .. }
            | Edit::ChangeSender { .. }
            | Edit::ReplaceBody(_)
            | Edit::Quarantine { .. } => {}
        }
        edit
    }
}

/// With the space that an MTA would write, whatever the value begins with.
fn spaced(value: &[u8]) -> Bytes {
    let mut spaced = Vec::with_capacity(value.len() + 1);
    spaced.push(b' ');
    spaced.extend_from_slice(value);
    Bytes::from(spaced)
}

/// Bytes of memory that an edit holds.
pub(crate) fn weight(edit: &Edit) -> usize {
    match edit {
        Edit::AddHeader { name, value }
        | Edit::InsertHeader { name, value, .. }
        | Edit::ChangeHeader { name, value, .. } => name.len() + value.len(),
        Edit::AddRecipient { address, args } | Edit::ChangeSender { address, args } => {
            address.len() + args.len()
        }
        Edit::DeleteRecipient { address } => address.len(),
        Edit::ReplaceBody(piece) => piece.len(),
        Edit::Quarantine { reason } => reason.len(),
    }
}

/// The reason for quarantine that the MTA is told, of those that filters gave in their order: a
/// filter's last one. Of several filters each is told with its name, or, where only the `last` is
/// to count as it does in the MTA's own chain, that one alone.
pub(crate) fn one_reason(given: &[(String, Bytes)], last: bool) -> Option<Bytes> {
    let (last_name, last_reason) = given.last()?;
    if last || given.iter().all(|(name, _)| name == last_name) {
        return Some(last_reason.clone());
    }
    let is_last = |number: usize, name: &str| given[number + 1..].iter().all(|(n, _)| n != name);
    let numbered = given.iter().enumerate();
    let joined: Vec<Vec<u8>> = numbered
        .filter(|(number, (name, _))| is_last(*number, name))
        .map(|(_, (name, reason))| [name.as_bytes(), b": ", reason].concat())
        .collect();
    let mut joined = joined.join(&b"; "[..]);
    joined.truncate(Edit::REASON_MAX);
    Some(Bytes::from(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Spacing = Spacing {
        mta: false,
        filter: false,
    };
    const CONVERTS: Spacing = Spacing {
        mta: true,
        filter: false,
    };
    const BOTH: Spacing = Spacing {
        mta: true,
        filter: true,
    };

    #[test]
    fn leading_space_is_converted_both_ways() {
        let field = |value: &'static [u8]| Header::new("Subject", value);
        let table: [(Spacing, &'static [u8], &'static [u8]); 6] = [
            (CONVERTS, b" x", b"x"),
            (CONVERTS, b"  x", b" x"),
            (CONVERTS, b"\tx", b"\tx"),
            (CONVERTS, b"", b""),
            (SAME, b" x", b" x"),
            (BOTH, b" x", b" x"),
        ];
        for (spacing, sent, shown) in table {
            assert_eq!(spacing.shown(&field(sent)), field(shown));
        }
        let table = [
            (
                CONVERTS,
                Edit::change(1, "X", "y"),
                Edit::change(1, "X", " y"),
            ),
            (
                CONVERTS,
                Edit::insert(1, "X", "\ty"),
                Edit::insert(1, "X", " \ty"),
            ),
            (CONVERTS, Edit::delete(1, "X"), Edit::delete(1, "X")),
            (BOTH, Edit::add("X", "y"), Edit::add("X", "y")),
            (SAME, Edit::add("X", "y"), Edit::add("X", "y")),
        ];
        for (spacing, edit, told) in table {
            assert_eq!(spacing.told(edit), told);
        }
    }

    #[test]
    fn a_reason_for_quarantine_says_whose_it_is_where_there_are_several() {
        let check = |given: &[(&str, &str)], joined: Option<&str>, last: Option<&str>| {
            let owned = |(name, reason): &(&str, &str)| {
                (
                    String::from(*name),
                    Bytes::copy_from_slice(reason.as_bytes()),
                )
            };
            let given: Vec<(String, Bytes)> = given.iter().map(owned).collect();
            let text = |reason: Option<Bytes>| reason.map(|it| it.escape_ascii().to_string());
            assert_eq!(text(one_reason(&given, false)).as_deref(), joined);
            assert_eq!(text(one_reason(&given, true)).as_deref(), last);
        };
        check(&[], None, None);
        check(&[("a", "x")], Some("x"), Some("x"));
        check(&[("a", "x"), ("a", "y")], Some("y"), Some("y"));
        let several = [("a", "bad thing"), ("b", "x"), ("b", "y")];
        check(&several, Some("a: bad thing; b: y"), Some("y"));
        let long = "x".repeat(5000);
        let given = [("a", &*long), ("b", &*long)]
            .map(|(name, reason)| (name.to_owned(), Bytes::copy_from_slice(reason.as_bytes())));
        assert_eq!(one_reason(&given, false).unwrap().len(), Edit::REASON_MAX);
    }
}
