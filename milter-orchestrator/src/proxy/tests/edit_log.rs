//! The edit log against an MTA's own list: filters edit the header one after the other in the MTA,
//! or once, by the net difference. Both must leave the same header, field for field.
//!
//! The lists here are written after what Postfix's cleanup daemon and Sendmail's `headers.c` do
//! with an edit, not after the model that is tested.

use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::Header;

use crate::proxy::headers::{HeaderLimits, Headers, Looked, MtaKind, stock_headers};

/// How long one input may take: thousands of times what it does take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// An MTA's list of header fields.
trait Mta {
    /// Shows the header to the next filter, as `name:value`.
    fn show(&mut self) -> Vec<String>;

    /// One filter's edits, at its end of the message.
    fn edit(&mut self, edits: &[Edit]);

    /// What is delivered, as `name:value`; what the MTA itself makes is `@`.
    fn delivered(&self) -> Vec<String>;
}

/// Postfix: a queue file of records, in which an edit is done at once.
struct Postfix {
    records: Vec<(Bytes, Bytes)>,
}

/// The value of the MTA's own field.
const OWN: &[u8] = b"@";

impl Postfix {
    fn new(sent: &[Header]) -> Self {
        let own = (Bytes::from_static(b"Received"), Bytes::from_static(OWN));
        let sent = sent
            .iter()
            .map(|field| (field.name.clone(), field.value.clone()));
        Self {
            records: std::iter::once(own).chain(sent).collect(),
        }
    }

    /// Where the `index`-th record of that name is, the own one passed over.
    fn find(&self, index: u32, name: &[u8]) -> Option<usize> {
        let mut count = 0;
        for (at, (own_name, value)) in self.records.iter().enumerate() {
            if value == OWN || !own_name.eq_ignore_ascii_case(name) {
                continue;
            }
            count += 1;
            if count >= index {
                return Some(at);
            }
        }
        None
    }
}

impl Mta for Postfix {
    fn show(&mut self) -> Vec<String> {
        let own = |field: &String| field != "@";
        self.delivered().into_iter().filter(own).collect()
    }

    fn edit(&mut self, edits: &[Edit]) {
        for edit in edits.iter().cloned() {
            match edit {
                Edit::AddHeader { name, value } => self.records.push((name, value)),
                Edit::InsertHeader { index, name, value } => {
                    let at = self.records.len().min(index as usize);
                    self.records.insert(at, (name, value));
                }
                Edit::ChangeHeader { index, name, value } => match self.find(index, &name) {
                    Some(at) if value.is_empty() => drop(self.records.remove(at)),
                    Some(at) => self.records[at] = (name, value),
                    None if value.is_empty() => {}
                    None => self.records.push((name, value)),
                },
                other => panic!("not an edit of the header: {other:?}"),
            }
        }
    }

    fn delivered(&self) -> Vec<String> {
        self.records
            .iter()
            .map(|(name, value)| shown(name, value))
            .collect()
    }
}

/// A node of Sendmail's linked list (`HDR`).
struct Node {
    name: Bytes,
    /// None: deleted.
    value: Option<Bytes>,
    /// From the client or a filter (`H_USER`), and not known to be deleted.
    user: bool,
}

/// Sendmail: a list that begins with what the configuration makes, in which what is deleted keeps
/// its node.
struct Sendmail {
    list: Vec<Node>,
}

impl Sendmail {
    /// `H` lines of the stock configuration, in their order.
    const CONFIGURED: [&'static [u8]; 9] = [
        b"Return-Path",
        b"Received",
        b"Resent-Date",
        b"Date",
        b"Resent-From",
        b"From",
        b"Full-Name",
        b"Resent-Message-Id",
        b"Message-Id",
    ];

    fn new(sent: &[Header]) -> Self {
        let configured = Self::CONFIGURED.iter().map(|name| {
            let is_sent = sent.iter().any(|field| field.name == *name);
            Node {
                name: Bytes::from_static(name),
                // It makes up what the client did not send, and adds Received in any case.
                value: (!is_sent || *name == b"Received").then_some(Bytes::from_static(OWN)),
                user: false,
            }
        });
        let sent = sent
            .iter()
            .map(|field| Node::of_user(field.name.clone(), field.value.clone()));
        Self {
            list: configured.chain(sent).collect(),
        }
    }

    /// `milter_addheader`: a node of that name which is nobody's is taken.
    fn add_or_take(&mut self, name: Bytes, value: Bytes) {
        let mut nodes = self.list.iter_mut();
        match nodes.find(|node| node.is_takeable(&name)) {
            Some(node) => node.take(value),
            None => self.add(name, value),
        }
    }

    /// `addheader`: ahead of the first node of that name.
    fn add(&mut self, name: Bytes, value: Bytes) {
        let mut at = 0;
        while at < self.list.len() && !self.list[at].name.eq_ignore_ascii_case(&name) {
            at += 1;
        }
        self.list.insert(at, Node::of_user(name, value));
    }

    /// `insheader`: behind so many nodes after the first.
    fn insert(&mut self, index: u32, name: Bytes, value: Bytes) {
        let mut at = 0;
        for _ in 0..index {
            if at + 1 == self.list.len() {
                break;
            }
            at += 1;
        }
        self.list.insert(at + 1, Node::of_user(name, value));
    }

    /// `chgheader`.
    fn change(&mut self, index: u32, name: Bytes, value: Bytes) {
        let mut left = i64::from(index);
        let mut found = None;
        for (at, node) in self.list.iter().enumerate() {
            if node.is_takeable(&name) {
                found = Some(at);
            } else if node.user && node.name.eq_ignore_ascii_case(&name) {
                left -= 1;
                if left <= 0 {
                    found = Some(at);
                    break;
                }
            }
        }
        match found.map(|at| &mut self.list[at]) {
            Some(node) if value.is_empty() => node.value = None,
            Some(node) => node.take(value),
            None if value.is_empty() => {}
            None => self.add(name, value),
        }
    }
}

impl Node {
    fn of_user(name: Bytes, value: Bytes) -> Self {
        Self {
            name,
            value: Some(value),
            user: true,
        }
    }

    /// Of that name, from no user, and not a field of the way that a message took.
    fn is_takeable(&self, name: &[u8]) -> bool {
        let is_trace = name.eq_ignore_ascii_case(b"Received");
        !self.user && !is_trace && self.name.eq_ignore_ascii_case(name)
    }

    fn take(&mut self, value: Bytes) {
        self.value = Some(value);
        self.user = true;
    }
}

impl Mta for Sendmail {
    /// `milter_headers`.
    fn show(&mut self) -> Vec<String> {
        for node in &mut self.list {
            node.user &= node.value.is_some();
        }
        let of_user = self.list.iter().filter(|node| node.user);
        of_user
            .filter_map(|node| Some(shown(&node.name, node.value.as_ref()?)))
            .collect()
    }

    fn edit(&mut self, edits: &[Edit]) {
        for edit in edits.iter().cloned() {
            match edit {
                Edit::AddHeader { name, value } => self.add_or_take(name, value),
                Edit::InsertHeader { index, name, value } => self.insert(index, name, value),
                Edit::ChangeHeader { index, name, value } => self.change(index, name, value),
                other => panic!("not an edit of the header: {other:?}"),
            }
        }
    }

    fn delivered(&self) -> Vec<String> {
        self.list
            .iter()
            .filter_map(|node| Some(shown(&node.name, node.value.as_ref()?)))
            .collect()
    }
}

fn shown(name: &[u8], value: &[u8]) -> String {
    if value == OWN {
        return format!("@{}", name.escape_ascii()).replace("@Received", "@");
    }
    format!("{}:{}", name.escape_ascii(), value.escape_ascii())
}

fn mta(kind: MtaKind, sent: &[Header]) -> Box<dyn Mta> {
    match kind {
        MtaKind::Postfix => Box::new(Postfix::new(sent)),
        MtaKind::Sendmail => Box::new(Sendmail::new(sent)),
    }
}

/// Lets the filters loose on both, and compares.
fn check(kind: MtaKind, sent: &[Header], filters: &[Vec<Edit>], limits: HeaderLimits) {
    let begin = Instant::now();
    let mut headers = Headers::new(kind, limits, &stock_headers());
    let mut chain = mta(kind, sent);
    for field in sent {
        if headers.receive(field.clone()).is_err() {
            assert!(weight(sent, &[]) > limits.bytes || sent.len() + 9 >= limits.fields);
            return;
        }
    }
    for (number, edits) in filters.iter().enumerate() {
        let seen = headers.snapshot();
        // Some do not want to see the header.
        let looked = if edits.len() % 4 == 3 {
            Looked::Away
        } else {
            assert_eq!(
                view(&headers),
                chain.show(),
                "what filter {number} is shown"
            );
            Looked::AtHeader
        };
        if headers.apply(&seen, looked, edits).is_err() {
            assert!(is_large(sent, filters, limits), "refused below its limits");
            return;
        }
        chain.edit(edits);
        let count = view(&headers).len();
        assert!(count <= limits.fields, "more fields than the limit");
    }
    let difference = headers.difference();
    let mut once = mta(kind, sent);
    once.show();
    once.edit(&difference);
    assert_eq!(once.delivered(), chain.delivered(), "by {difference:?}");
    assert!(begin.elapsed() < TIME_MAX, "took {:?}", begin.elapsed());
}

/// What the next filter would be shown.
fn view(headers: &Headers) -> Vec<String> {
    let view = headers.view(&headers.snapshot());
    let fields = view.iter().map(|field| shown(&field.name, &field.value));
    fields.collect()
}

fn weight(sent: &[Header], filters: &[Vec<Edit>]) -> usize {
    let fields = sent
        .iter()
        .map(|field| field.name.len() + field.value.len());
    let edits = filters.iter().flatten().map(crate::proxy::edits::weight);
    fields.chain(edits).sum()
}

fn is_large(sent: &[Header], filters: &[Vec<Edit>], limits: HeaderLimits) -> bool {
    let count = sent.len() + filters.iter().map(Vec::len).sum::<usize>() + 9;
    weight(sent, filters) > limits.bytes || count >= limits.fields
}

/// Names that meet each other, one of them in two spellings, one the MTA's own.
const NAMES: [&str; 8] = ["A", "a", "B", "Received", "Date", "From", "New", "New2"];

/// Four bytes as an edit: kind, position, name, value.
type Bytes4 = (u8, u8, u8, u8);

fn edit((kind, position, name, value): Bytes4) -> Edit {
    let name = NAMES[usize::from(name) % NAMES.len()];
    let near = u32::from(position % 20);
    let index = match position {
        0..240 => near,
        240..250 => u32::from(position),
        250.. => 0x7fff_ffff,
    };
    match kind % 8 {
        0 | 1 => Edit::add(name, format!("v{value}")),
        2..5 => Edit::insert(index, name, format!("v{value}")),
        5 => Edit::delete(index % 6, name),
        _ => Edit::change(index % 6, name, format!("v{value}")),
    }
}

/// The names of the fields sent, the edits of up to four filters, the limits.
type Input = (Vec<u8>, Vec<Vec<Bytes4>>, Option<(u8, u8)>);

fn check_input((names, filters, limits): &Input, kind: MtaKind) {
    let sent: Vec<Header> = names
        .iter()
        .take(16)
        .enumerate()
        .map(|(number, name)| {
            let name = NAMES[usize::from(name % 5)];
            Header::new(name, format!("o{number}"))
        })
        .collect();
    let filters: Vec<Vec<Edit>> = filters
        .iter()
        .take(4)
        .map(|edits| edits.iter().take(12).map(|bytes| edit(*bytes)).collect())
        .collect();
    let limits = limits.map_or_else(HeaderLimits::default, |(fields, bytes)| HeaderLimits {
        fields: usize::from(fields),
        bytes: usize::from(bytes) * 2,
    });
    check(kind, &sent, &filters, limits);
}

#[test]
fn fuzz_edit_log_postfix() {
    bolero::check!()
        .with_type::<Input>()
        .with_iterations(2000)
        .for_each(|input| check_input(input, MtaKind::Postfix));
}

#[test]
fn fuzz_edit_log_sendmail() {
    bolero::check!()
        .with_type::<Input>()
        .with_iterations(2000)
        .for_each(|input| check_input(input, MtaKind::Sendmail));
}

/// What fuzzing found: Sendmail would have put an added field above one of its name that is
/// inserted elsewhere, or above where one was deleted.
#[test]
fn an_added_field_stays_where_it_was_although_its_name_is_above_or_deleted() {
    let filters: [&[Edit]; 2] = [
        &[Edit::add("A", "added"), Edit::insert(0, "A", "inserted")],
        &[
            Edit::delete(1, "B"),
            Edit::insert(0x7fff_ffff, "C", "c"),
            Edit::insert(0x7fff_ffff, "B", "b"),
            Edit::add("New", "n"),
            Edit::insert(1, "New", "n1"),
        ],
    ];
    for sent in [&[][..], &[Header::new("B", "o")]] {
        for filters in [&filters[..1], &filters[1..], &filters] {
            let filters: Vec<Vec<Edit>> = filters.iter().map(|edits| edits.to_vec()).collect();
            check(MtaKind::Postfix, sent, &filters, HeaderLimits::default());
            check(MtaKind::Sendmail, sent, &filters, HeaderLimits::default());
        }
    }
}

/// As many fields and edits as there may be, in the worst order, still take next to no time.
#[test]
fn a_header_at_its_limits_is_not_slow() {
    for kind in [MtaKind::Postfix, MtaKind::Sendmail] {
        let mut headers = Headers::new(kind, HeaderLimits::default(), &stock_headers());
        for number in 0..1000 {
            headers
                .receive(Header::new("A", format!("{number}")))
                .unwrap();
        }
        let begin = Instant::now();
        for round in 0..3 {
            let seen = headers.snapshot();
            let edits: Vec<Edit> = (0..1000)
                .map(|number| match round {
                    0 => Edit::insert(500, "A", format!("{number}")),
                    1 => Edit::change(number, "a", format!("{number}")),
                    _ => Edit::delete(1000 - number, "A"),
                })
                .collect();
            headers.apply(&seen, Looked::AtHeader, &edits).unwrap();
        }
        assert!(!headers.difference().is_empty());
        assert!(
            begin.elapsed() < TIME_MAX,
            "{kind:?}: {:?}",
            begin.elapsed()
        );
    }
}
