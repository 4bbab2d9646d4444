//! The header model against naive lists of fields, and the worked cases that are easy to get wrong.

use super::difference::END;
use super::*;

/// What Postfix does with edits, as plainly as it can be written; for Sendmail see `edit_log`. Of a
/// field that Postfix adds itself there is no text.
#[derive(Debug, Clone, PartialEq)]
struct Naive(Vec<Option<(String, String)>>);

impl Naive {
    fn new(fields: &[(String, String)]) -> Self {
        let sent = fields.iter().cloned().map(Some);
        Self(std::iter::once(None).chain(sent).collect())
    }

    /// One filter's edits at the end of a message.
    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::AddHeader { name, value } => self.0.push(field(name, value)),
                Edit::InsertHeader { index, name, value } => {
                    let place = self.0.len().min(*index as usize);
                    self.0.insert(place, field(name, value));
                }
                Edit::ChangeHeader { index, name, value } => self.change(*index, name, value),
                other => panic!("not an edit of the header: {other:?}"),
            }
        }
    }

    fn change(&mut self, index: u32, name: &Bytes, value: &Bytes) {
        let name_text = text(name);
        let is_named = |field: &Option<(String, String)>| {
            let own = field.as_ref().map(|(own, _)| own);
            own.is_some_and(|own| own.eq_ignore_ascii_case(&name_text))
        };
        let mut named = (0..self.0.len()).filter(|at| is_named(&self.0[*at]));
        match named.nth(index.max(1) as usize - 1) {
            None if value.is_empty() => {}
            None => self.0.push(field(name, value)),
            Some(at) if value.is_empty() => drop(self.0.remove(at)),
            Some(at) => self.0[at] = field(name, value),
        }
    }

    /// The fields that are there, the MTA's own as `@`.
    fn show(&self) -> Vec<String> {
        let shown = |field: &Option<(String, String)>| match field {
            None => "@".to_owned(),
            Some((name, value)) => format!("{name}:{value}"),
        };
        self.0.iter().map(shown).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field(name: &[u8], value: &[u8]) -> Option<(String, String)> {
    Some((text(name), text(value)))
}

/// The model's list, in the notation of [`Naive::show`].
fn show(headers: &Headers) -> Vec<String> {
    headers
        .order
        .iter()
        .map(|id| &headers.elements[*id])
        .filter(|element| !element.deleted)
        .map(|element| match element.origin {
            Origin::Own => "@".to_owned(),
            _ => format!(
                "{}:{}",
                text(&element.header.name),
                text(&element.header.value)
            ),
        })
        .collect()
}

fn model(kind: MtaKind, fields: &[(String, String)]) -> Headers {
    let mut headers = Headers::new(kind, HeaderLimits::default(), &stock_headers());
    for (name, value) in fields {
        headers
            .receive(Header::new(name.clone(), value.clone()))
            .unwrap();
    }
    headers
}

/// `"A:1 A:2"` as fields.
fn fields(text: &str) -> Vec<(String, String)> {
    text.split_whitespace()
        .map(|field| field.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// `"h X v"`, `"i 3 X v"`, `"m 1 X v"`, `"m 1 X"` as an edit.
fn edit(text: &str) -> Edit {
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let mut words = words.into_iter();
    let (kind, mut next) = (words.next().unwrap(), || words.next().unwrap_or_default());
    match kind.as_str() {
        "h" => Edit::add(next(), next()),
        "i" => Edit::insert(next().parse().unwrap(), next(), next()),
        "m" => Edit::change(next().parse().unwrap(), next(), next()),
        other => panic!("unknown edit {other}"),
    }
}

fn edits(texts: &[&str]) -> Vec<Edit> {
    texts.iter().map(|text| edit(text)).collect()
}

/// Runs filters one after the other and compares the edits that go to the MTA.
#[track_caller]
fn check(kind: MtaKind, sent: &str, filters: &[&[&str]], expected: &[&str]) {
    let mut headers = model(kind, &fields(sent));
    for filter in filters {
        let seen = headers.snapshot();
        headers
            .apply(&seen, Looked::AtHeader, &edits(filter))
            .unwrap();
    }
    assert_eq!(headers.difference(), edits(expected), "{filters:?}");
}

const RECEIVED: &str = "Received:r1 Received:r2 A:1 A:2 Subject:s";

#[test]
fn worked_examples_on_both_mtas() {
    use MtaKind::{Postfix, Sendmail};
    let inserts_then_changes: &[&[&str]] = &[&["i 0 X-A x"], &["m 2 Received new"]];
    let same_name: &[&[&str]] = &[&["i 0 Received a"], &["m 2 Received new"]];
    let deletes_then_changes: &[&[&str]] = &[&["m 1 A"], &["m 1 A new"]];
    let below_then_above: &[&[&str]] = &[&["i 1 A-Below x"], &["i 0 DKIM y"]];
    for kind in [Postfix, Sendmail] {
        check(
            kind,
            RECEIVED,
            inserts_then_changes,
            &["m 2 Received new", "i 0 X-A x"],
        );
        check(
            kind,
            RECEIVED,
            same_name,
            &["m 1 Received new", "i 0 Received a"],
        );
        check(
            kind,
            RECEIVED,
            deletes_then_changes,
            &["m 2 A new", "m 1 A"],
        );
        check(
            kind,
            RECEIVED,
            below_then_above,
            &["i 1 A-Below x", "i 0 DKIM y"],
        );
        // New and changed is one addition; new and deleted is nothing; changed back is nothing.
        check(kind, RECEIVED, &[&["h H 1"], &["m 1 H 2"]], &["h H 2"]);
        check(kind, RECEIVED, &[&["h H 1"], &["m 1 H"]], &[]);
        check(kind, RECEIVED, &[&["m 1 A x"], &["m 1 A 1"]], &[]);
        check(kind, RECEIVED, &[&["m 1 A x", "m 1 A"]], &["m 1 A"]);
        // Index 0 is the first; a deletion of what is not there is nothing.
        check(
            kind,
            RECEIVED,
            &[&["m 0 A x", "m 9 A", "m 1 None"]],
            &["m 1 A x"],
        );
        check(kind, RECEIVED, &[&["m 2 A", "m 1 A"]], &["m 2 A", "m 1 A"]);
    }
    check(Postfix, RECEIVED, &[&["m 9 A x"]], &["h A x"]);
    check(Sendmail, RECEIVED, &[&["m 9 A x"]], &["h A x"]);
    check(Sendmail, RECEIVED, &[&["m 1 Date x"]], &["h Date x"]);
    check(
        Postfix,
        RECEIVED,
        &[&["i 99 X x", "h Y y"]],
        &["h X x", "h Y y"],
    );
    check(
        Sendmail,
        RECEIVED,
        &[&["i 99 X x"]],
        &[&*format!("i {END} X x")],
    );
    // In the middle: position 3 is below the second field, and so is node 8 + 2.
    check(Postfix, RECEIVED, &[&["i 3 X x"]], &["i 3 X x"]);
    check(Sendmail, RECEIVED, &[&["i 10 X x"]], &["i 10 X x"]);
    // Between fields that Sendmail makes up itself: From and Full-Name are nodes 5 and 6.
    check(Sendmail, RECEIVED, &[&["i 5 X x"]], &["i 5 X x"]);
}

#[test]
fn a_forged_field_and_an_added_one_are_told_apart_as_each_mta_would() {
    let filters: &[&[&str]] = &[&["h X-Spam yes"], &["m 1 X-Spam"]];
    check(
        MtaKind::Postfix,
        "X-Spam:no",
        filters,
        &["m 1 X-Spam", "h X-Spam yes"],
    );
    check(MtaKind::Sendmail, "X-Spam:no", filters, &[]);
}

/// Found against a real Sendmail.
#[test]
fn what_sendmail_makes_up_is_replaced_and_deleted_in_its_place() {
    let dated = "Date:d A:1";
    // What the client sent, the edits of each filter, what goes to Sendmail.
    type Row<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);
    let table: [Row<'_>; 7] = [
        ("A:1", &[&["m 1 Date"]], &["m 1 Date"]),
        ("A:1", &[&["h date x"], &["m 1 Date"]], &["m 1 Date"]),
        ("A:1", &[&["h date x"], &["m 1 Date y"]], &["h Date y"]),
        (dated, &[&["m 2 Date x"]], &["h Date x"]),
        (dated, &[&["m 9 Date"]], &["m 2 Date"]),
        // What was deleted makes room too, but not at once, and not for Received.
        ("A:1 B:2", &[&["m 1 A"], &["h A x"]], &["m 1 A x"]),
        ("A:1 B:2", &[&["m 1 A", "h A x"]], &["m 1 A", "h A x"]),
    ];
    for (sent, filters, expected) in table {
        check(MtaKind::Sendmail, sent, filters, expected);
    }
}

#[test]
fn ascending_deletions_follow_the_mta() {
    let filters: &[&[&str]] = &[&["m 1 A", "m 1 A"]];
    check(MtaKind::Postfix, RECEIVED, filters, &["m 2 A", "m 1 A"]);
    check(MtaKind::Sendmail, RECEIVED, filters, &["m 1 A"]);
    let revives: &[&[&str]] = &[&["m 1 A", "m 1 A new"]];
    check(MtaKind::Postfix, RECEIVED, revives, &["m 2 A new", "m 1 A"]);
    check(MtaKind::Sendmail, RECEIVED, revives, &["m 1 A new"]);
}

#[test]
fn the_measured_edit_set_is_written_in_the_measured_order() {
    let sent = "Received:r1 Received:r2 A:1 A:2 B:b From:f Message-Id:m Date:d Subject:s";
    let filter: &[&str] = &[
        "h Tail1 t",
        "h Tail2 t",
        "m 2 A changed",
        "m 1 A",
        "m 1 Received",
    ];
    // Asked for from the bottom up, as a careful filter does: positions count what is still there.
    let postfix: &[&str] = &[
        "i 3 Mid x",
        "i 1 Below2 x",
        "i 1 Below1 x",
        "i 0 Top2 x",
        "i 0 Top1 x",
    ];
    let sendmail: &[&str] = &[
        "i 12 Mid x",
        "i 1 Below2 x",
        "i 1 Below1 x",
        "i 0 Top2 x",
        "i 0 Top1 x",
    ];
    for (kind, inserted) in [(MtaKind::Postfix, postfix), (MtaKind::Sendmail, sendmail)] {
        let asked = [filter, inserted].concat();
        let head = ["m 2 A changed", "m 1 A", "m 1 Received"];
        let tail = ["h Tail1 t", "h Tail2 t"];
        let expected = [&head[..], inserted, &tail[..]].concat();
        check(kind, sent, &[&asked], &expected);
    }
}

#[test]
fn members_of_one_segment_count_on_the_same_list() {
    let mut headers = model(MtaKind::Postfix, &fields(RECEIVED));
    let seen = headers.snapshot();
    for filter in [
        &["i 0 X x", "m 1 A"][..],
        &["m 2 Received new", "m 2 A new", "i 0 Y y"],
    ] {
        headers
            .apply(&seen, Looked::AtHeader, &edits(filter))
            .unwrap();
    }
    let expected = [
        "m 2 Received new",
        "m 2 A new",
        "m 1 A",
        "i 0 X x",
        "i 0 Y y",
    ];
    assert_eq!(headers.difference(), edits(&expected));
    let names: Vec<String> = headers
        .view(&headers.snapshot())
        .iter()
        .map(|header| text(&header.name))
        .collect();
    assert_eq!(names.join(" "), "Y X Received Received A Subject");
}

#[test]
fn limits_hold_for_fields_and_bytes_and_edits() {
    let limits = HeaderLimits {
        fields: 3,
        bytes: 20,
    };
    let mut headers = Headers::new(MtaKind::Postfix, limits, &stock_headers());
    headers.receive(Header::new("A", "1")).unwrap();
    headers.receive(Header::new("B", "1")).unwrap();
    let error = headers.receive(Header::new("C", "1")).unwrap_err();
    assert!(error.to_string().contains("3 fields"), "{error}");
    let mut headers = Headers::new(MtaKind::Postfix, limits, &stock_headers());
    headers.receive(Header::new("A", "1234567890")).unwrap();
    let seen = headers.snapshot();
    let change = [Edit::change(1, "A", "1234567890")];
    assert!(headers.apply(&seen, Looked::AtHeader, &change).is_err());
}

/// Three bytes as an edit of a field named A, B or Received at a tricky position.
fn random_edit((kind, index, name): (u8, u8, u8)) -> Edit {
    let name = ["A", "a", "B", "Received", "New"][usize::from(name % 5)];
    match kind % 4 {
        0 => Edit::add(name, format!("{kind}")),
        1 => Edit::insert(u32::from(index % 8), name, format!("{kind}")),
        2 => Edit::delete(u32::from(index % 4), name),
        _ => Edit::change(u32::from(index % 4), name, format!("{kind}")),
    }
}

/// The edits of up to three filters, each as [`random_edit`] reads it.
type Filters = Vec<Vec<(u8, u8, u8)>>;

#[test]
fn the_difference_makes_of_the_original_what_the_filters_made_of_it() {
    bolero::check!()
        .with_type::<(Vec<u8>, Filters)>()
        .with_iterations(3000)
        .for_each(|(names, filters)| check_random(names, filters));
}

fn check_random(names: &[u8], filters: &Filters) {
    let sent: Vec<(String, String)> = names
        .iter()
        .take(12)
        .enumerate()
        .map(|(number, name)| {
            let name = ["A", "B", "Received", "C"][usize::from(name % 4)];
            (name.to_owned(), format!("o{number}"))
        })
        .collect();
    let mut headers = model(MtaKind::Postfix, &sent);
    let mut chain = Naive::new(&sent);
    for filter in filters.iter().take(3) {
        let edits: Vec<Edit> = filter
            .iter()
            .take(10)
            .map(|bytes| random_edit(*bytes))
            .collect();
        let seen = headers.snapshot();
        headers.apply(&seen, Looked::AtHeader, &edits).unwrap();
        chain.apply(&edits);
    }
    let difference = headers.difference();
    let mut written = Naive::new(&sent);
    written.apply(&difference);
    assert_eq!(show(&headers), chain.show(), "model against chain");
    assert_eq!(written.show(), chain.show(), "{difference:?}");
}

#[test]
fn positions_are_counted_from_the_fields_that_sendmail_begins_with() {
    let names = ["Return-Path", "X-Local", "received", "Date"].map(Bytes::from);
    let mut headers = Headers::new(MtaKind::Sendmail, HeaderLimits::default(), &names);
    for name in ["A", "B"] {
        headers.receive(Header::new(name, "1")).unwrap();
    }
    let seen = headers.snapshot();
    let below_a = Edit::insert(4, "X", "below A");
    let edits = [
        Edit::add("Date", "d"),
        Edit::add("From", "f"),
        below_a.clone(),
    ];
    headers.apply(&seen, Looked::AtHeader, &edits).unwrap();
    let expected = [Edit::add("Date", "d"), below_a, Edit::add("From", "f")];
    assert_eq!(headers.difference(), expected);
    let below_received = Edit::insert(2, "Y", "below Received");
    let edits = [below_received.clone()];
    headers.apply(&seen, Looked::AtHeader, &edits).unwrap();
    assert!(headers.difference().contains(&below_received));
}
