//! A message as an MTA holds it, and what a filter's edits make of it.
//!
//! For whoever stands in an MTA's place: a mail server, a program that shows what a filter would
//! do, a test. Postfix and Sendmail differ in what positions mean, so [`Rules`] says whose hold.
//! Edits are applied all or none ([`Mail::apply`]). They are taken to be negotiated and harmless,
//! as
//! [`MtaSide`](crate::session::MtaSide) hands them out. Nothing is kept of the body but its
//! replacement.

use bytes::Bytes;
use thiserror::Error;

use crate::edit::Edit;
use crate::message::{Header, Path};

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Positions shift with every edit; an added field goes to the end; a new body comes in one
    /// piece after another, and its last line is completed.
    Postfix,
    /// A deleted field keeps its number until the filter is done; an added one goes above the first
    /// of its name; the pieces of a new body may come anywhere, and stay as they are.
    Sendmail,
}

/// Edits that the rules refuse as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("other edits come between the pieces of the new body")]
pub struct BodyInterrupted;

/// Where a field in the list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The MTA's own Received: counts for insertion, is never meant by a change.
    Own,
    /// Begins Sendmail's list for the sake of fields that the message may lack: never printed.
    Template,
    /// A field that filters see.
    Shown,
    /// A field that was deleted by the edits in hand.
    Deleted,
}

/// A message: envelope, header, and what has become of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Envelope sender.
    pub sender: Path,
    /// Envelope recipients.
    pub recipients: Vec<Path>,
    fields: Vec<(Place, Header)>,
    body: Option<Bytes>,
    quarantine: Option<Bytes>,
}

impl Mail {
    /// Templates in Sendmail's list behind its own Received, as its stock configuration has them.
    const TEMPLATES: usize = 7;

    /// A message with these fields below the MTA's own Received, which filters are not shown.
    #[must_use]
    pub fn new(sender: Path, recipients: Vec<Path>, own: Header, header: Vec<Header>) -> Self {
        let shown = header.into_iter().map(|field| (Place::Shown, field));
        Self {
            sender,
            recipients,
            fields: std::iter::once((Place::Own, own)).chain(shown).collect(),
            body: None,
            quarantine: None,
        }
    }

    /// The header as it will be delivered, the MTA's own Received in it.
    pub fn header(&self) -> impl Iterator<Item = &Header> {
        self.fields.iter().map(|(_, field)| field)
    }

    /// The header as the next filter is shown it.
    pub fn shown(&self) -> impl Iterator<Item = &Header> {
        let shown = self
            .fields
            .iter()
            .filter(|(place, _)| *place == Place::Shown);
        shown.map(|(_, field)| field)
    }

    /// The body that replaces the old one, if any does.
    #[must_use]
    pub fn new_body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// Why the message is held, if it is.
    #[must_use]
    pub fn quarantine(&self) -> Option<&Bytes> {
        self.quarantine.as_ref()
    }

    /// Applies what one filter said at the end of the message.
    ///
    /// # Errors
    /// When these rules refuse the edits; nothing is changed then.
    pub fn apply(&mut self, edits: &[Edit], rules: Rules) -> Result<(), BodyInterrupted> {
        let body = new_body(edits, rules)?;
        self.begin(rules);
        for edit in edits {
            match edit {
                Edit::AddHeader { name, value } => {
                    let field = Header::new(name.clone(), value.clone());
                    self.add(field, rules);
                }
                Edit::InsertHeader { index, name, value } => {
                    let field = Header::new(name.clone(), value.clone());
                    self.insert(*index, field, rules);
                }
                Edit::ChangeHeader { index, name, value } => {
                    let field = Header::new(name.clone(), value.clone());
                    self.change(*index, field, rules);
                }
                Edit::AddRecipient { address, args } => self.add_recipient(path(address, args)),
                Edit::DeleteRecipient { address } => {
                    let gone = path(address, &Bytes::new());
                    self.recipients.retain(|known| known.bare() != gone.bare());
                }
                Edit::ChangeSender { address, args } => self.sender = path(address, args),
                Edit::Quarantine { reason } => self.quarantine = Some(reason.clone()),
                Edit::ReplaceBody(_) => {}
            }
        }
        if let Some(body) = body {
            self.body = Some(body);
        }
        self.fields
            .retain(|(place, _)| matches!(place, Place::Own | Place::Shown));
        Ok(())
    }

    /// Puts the templates into Sendmail's list: one at its head, and those that follow its own
    /// Received.
    fn begin(&mut self, rules: Rules) {
        if rules == Rules::Postfix {
            return;
        }
        let template = || (Place::Template, Header::new("", ""));
        let own = self.own();
        let templates = std::iter::repeat_with(template).take(Self::TEMPLATES);
        self.fields.splice(own..own, templates);
        self.fields.insert(0, template());
    }

    /// Behind the MTA's own Received.
    fn own(&self) -> usize {
        let own = self
            .fields
            .iter()
            .position(|(place, _)| *place == Place::Own);
        own.map_or(0, |own| own + 1)
    }

    fn add(&mut self, field: Header, rules: Rules) {
        let same = |(_, known): &(Place, Header)| same_name(known, &field);
        let at = match rules {
            Rules::Postfix => None,
            Rules::Sendmail => self.fields.iter().position(same),
        };
        let at = at.unwrap_or(self.fields.len());
        self.fields.insert(at, (Place::Shown, field));
    }

    fn insert(&mut self, index: u32, field: Header, rules: Rules) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let at = match rules {
            Rules::Postfix => index,
            // Behind the node of that number, of which the first is never printed.
            Rules::Sendmail => index.saturating_add(1),
        };
        let at = at.min(self.fields.len());
        self.fields.insert(at, (Place::Shown, field));
    }

    fn change(&mut self, index: u32, field: Header, rules: Rules) {
        let nth = usize::try_from(index.max(1) - 1).unwrap_or(usize::MAX);
        let counts = |(place, known): &&mut (Place, Header)| {
            matches!(place, Place::Shown | Place::Deleted) && same_name(known, &field)
        };
        let found = self.fields.iter_mut().filter(counts).nth(nth);
        match (found, field.value.is_empty(), rules) {
            (None, true, _) => {}
            (None, false, _) => self.add(field, rules),
            (Some((place, _)), true, Rules::Sendmail) => *place = Place::Deleted,
            (Some((place, known)), false, Rules::Sendmail) => {
                *place = Place::Shown;
                known.value = field.value;
            }
            (Some((_, known)), false, Rules::Postfix) => *known = field,
            (Some(found), true, Rules::Postfix) => {
                found.0 = Place::Deleted;
                self.fields.retain(|(place, _)| *place != Place::Deleted);
            }
        }
    }

    fn add_recipient(&mut self, recipient: Path) {
        let known = self.recipients.iter();
        if !known
            .into_iter()
            .any(|known| known.bare() == recipient.bare())
        {
            self.recipients.push(recipient);
        }
    }
}

fn same_name(one: &Header, other: &Header) -> bool {
    let bare = |field: &Header| field.name.trim_ascii_end().to_ascii_lowercase();
    bare(one) == bare(other)
}

/// An address with its parameters, which edits separate by spaces.
fn path(address: &Bytes, args: &Bytes) -> Path {
    let args = args
        .split(|byte| *byte == b' ')
        .filter(|arg| !arg.is_empty());
    Path {
        address: address.clone(),
        args: args.map(Bytes::copy_from_slice).collect(),
    }
}

/// The new body, if there is one.
fn new_body(edits: &[Edit], rules: Rules) -> Result<Option<Bytes>, BodyInterrupted> {
    let is_piece = |edit: &Edit| matches!(edit, Edit::ReplaceBody(_));
    let (Some(first), Some(last)) = (
        edits.iter().position(is_piece),
        edits.iter().rposition(is_piece),
    ) else {
        return Ok(None);
    };
    let run = &edits[first..=last];
    if rules == Rules::Postfix && !run.iter().all(is_piece) {
        return Err(BodyInterrupted);
    }
    let mut body = Vec::new();
    for edit in run {
        if let Edit::ReplaceBody(piece) = edit {
            body.extend_from_slice(piece);
        }
    }
    if rules == Rules::Postfix {
        body = in_lines(&body);
    }
    Ok(Some(body.into()))
}

/// As Postfix stores it: a bare LF ends a line, and so does the end.
fn in_lines(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare
            .strip_suffix(b"\r")
            .filter(|_| bare.len() < line.len())
            .unwrap_or(bare);
        out.extend_from_slice(bare);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(fields: &[(&'static str, &'static str)]) -> Vec<Header> {
        let fields = fields.iter();
        fields
            .map(|(name, value)| Header::new(*name, *value))
            .collect()
    }

    fn recipient(address: &'static str) -> Path {
        path(&Bytes::from_static(address.as_bytes()), &Bytes::new())
    }

    fn mail(header: &[(&'static str, &'static str)]) -> Mail {
        let own = Header::new("Received", "own");
        let recipients = vec![recipient("<r@x>")];
        Mail::new(recipient("<s@x>"), recipients, own, list(header))
    }

    /// Names and values of the header in a line, after these edits.
    fn check(
        header: &[(&'static str, &'static str)],
        rules: Rules,
        edits: &[Edit],
        expected: &str,
    ) {
        let mut mail = mail(header);
        mail.apply(edits, rules).unwrap();
        let line: Vec<String> = mail
            .header()
            .map(|field| {
                let text = [&field.name[..], b":", &field.value[..]].concat();
                String::from_utf8(text).unwrap()
            })
            .collect();
        assert_eq!(line.join(" "), expected, "{rules:?} {edits:?}");
    }

    const BOTH: [Rules; 2] = [Rules::Postfix, Rules::Sendmail];
    const TWO: [(&str, &str); 2] = [("A", "1"), ("A", "2")];

    #[test]
    fn case_127_changes_beside_the_list() {
        for rules in BOTH {
            let check = |edit, expected| check(&TWO, rules, &[edit], expected);
            check(Edit::change(0, "A", "x"), "Received:own A:x A:2");
            check(Edit::delete(3, "A"), "Received:own A:1 A:2");
            check(Edit::change(1, "B", "x"), "Received:own A:1 A:2 B:x");
        }
        let third = [Edit::change(3, "A", "x")];
        check(&TWO, Rules::Postfix, &third, "Received:own A:1 A:2 A:x");
    }

    #[test]
    fn case_128_the_largest_index() {
        for rules in BOTH {
            let edits = [
                Edit::change(u32::MAX, "B", "x"),
                Edit::delete(u32::MAX, "A"),
                Edit::insert(u32::MAX, "C", "y"),
            ];
            check(&TWO, rules, &edits, "Received:own A:1 A:2 B:x C:y");
        }
    }

    #[test]
    fn case_129_two_deletions() {
        let (first, second) = (Edit::delete(1, "A"), Edit::delete(2, "A"));
        for rules in BOTH {
            let down = [second.clone(), first.clone()];
            check(&TWO, rules, &down, "Received:own");
        }
        let twice = [first.clone(), first.clone()];
        check(&TWO, Rules::Postfix, &twice, "Received:own");
        check(&TWO, Rules::Sendmail, &twice, "Received:own A:2");
        let again = [first, Edit::change(1, "A", "new")];
        check(&TWO, Rules::Postfix, &again, "Received:own A:new");
        check(&TWO, Rules::Sendmail, &again, "Received:own A:new A:2");
    }

    #[test]
    fn case_130_insertions() {
        let three = [("Received", "r1"), ("Received", "r2"), ("A", "1")];
        let check = |rules, index, expected: &str| {
            check(&three, rules, &[Edit::insert(index, "X", "")], expected);
        };
        let lines = [
            "X: Received:own Received:r1 Received:r2 A:1",
            "Received:own X: Received:r1 Received:r2 A:1",
            "Received:own Received:r1 Received:r2 X: A:1",
            "Received:own Received:r1 Received:r2 A:1 X:",
        ];
        for (index, line) in [0, 1, 3, 99].into_iter().zip(lines) {
            check(Rules::Postfix, index, line);
        }
        for (index, line) in [(0, 0), (1, 1), (8, 1), (10, 2), (99, 3)] {
            check(Rules::Sendmail, index, lines[line]);
        }
    }

    fn piece(text: &'static str) -> Edit {
        Edit::ReplaceBody(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn case_131_a_body_interrupted() {
        let edits = [piece("a\r\n"), Edit::add("X", "v"), piece("b\r\n")];
        let mut mail = mail(&TWO);
        let before = mail.clone();
        assert_eq!(mail.apply(&edits, Rules::Postfix), Err(BodyInterrupted));
        assert_eq!(mail, before);
        mail.apply(&edits, Rules::Sendmail).unwrap();
        assert_eq!(mail.new_body().unwrap(), "a\r\nb\r\n");
    }

    #[test]
    fn case_133_a_last_line_without_its_end() {
        let body = |edits: &[Edit], rules| {
            let mut mail = mail(&TWO);
            mail.apply(edits, rules).unwrap();
            mail.new_body().cloned().unwrap()
        };
        let edits = [piece("a\r"), piece("\nb\nc\rd")];
        assert_eq!(body(&edits, Rules::Postfix), "a\r\nb\r\nc\rd\r\n");
        assert_eq!(body(&edits, Rules::Sendmail), "a\r\nb\nc\rd");
        assert_eq!(body(&[piece("")], Rules::Postfix), "");
    }

    #[test]
    fn case_136_recipients() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let add = |address, args| Edit::AddRecipient {
            address: bytes(address),
            args: bytes(args),
        };
        let edits = [
            Edit::DeleteRecipient {
                address: bytes("r@x"),
            },
            add("<a@x>", "NOTIFY=NEVER ORCPT=rfc822;a@x"),
            add("<a@x>", ""),
            Edit::ChangeSender {
                address: bytes("<n@x>"),
                args: bytes("RET=HDRS"),
            },
            Edit::Quarantine {
                reason: bytes("why"),
            },
        ];
        let mut mail = mail(&TWO);
        mail.apply(&edits, Rules::Postfix).unwrap();
        let args = vec![bytes("NOTIFY=NEVER"), bytes("ORCPT=rfc822;a@x")];
        let address = bytes("<a@x>");
        assert_eq!(mail.recipients, [Path { address, args }]);
        assert_eq!(mail.sender.args, ["RET=HDRS"]);
        assert_eq!(mail.quarantine(), Some(&bytes("why")));
    }

    /// Measured on both MTAs: the order that means the same to them.
    #[test]
    fn edits_in_the_portable_order() {
        let header = [
            ("Received", "r1"),
            ("Received", "r2"),
            ("A", "1"),
            ("A", "2"),
            ("B", "b"),
            ("From", "f"),
        ];
        for (rules, middle) in [(Rules::Postfix, 3), (Rules::Sendmail, 12)] {
            let edits = [
                Edit::change(2, "A", "changed"),
                Edit::delete(1, "A"),
                Edit::delete(1, "Received"),
                Edit::insert(middle, "Mid", ""),
                Edit::insert(1, "Below2", ""),
                Edit::insert(1, "Below1", ""),
                Edit::insert(0, "Top2", ""),
                Edit::insert(0, "Top1", ""),
                Edit::add("Tail1", ""),
                Edit::add("Tail2", ""),
            ];
            let expected = "Top1: Top2: Received:own Below1: Below2: Received:r2 A:changed Mid: \
                 B:b From:f Tail1: Tail2:";
            check(&header, rules, &edits, expected);
        }
    }
}
