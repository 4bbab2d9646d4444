//! The header of the message in hand: what the MTA sent, what each filter sees, what it made of it.
//!
//! Filters name header fields by position: "the second Received", "below the first field".
//! Positions mean something else after an earlier filter's edits, and something else again to the
//! MTA, which has seen none of them. So every field keeps its identity in one list; a filter's
//! edits are resolved against the list that this filter was shown ([`Snapshot`]), and at the end
//! the list is written as one net difference against what the MTA sent ([`Headers::difference`]),
//! in the order that means the same to Postfix and Sendmail: changes, deletions from the last of a
//! name up, insertions from the bottom up, additions.
//!
//! Pure; edits come checked (the filter's conversation sees to that). The one failure is a header
//! over its limits.

use std::collections::HashMap;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::Header;
use thiserror::Error;

/// Which MTA's rules for positions hold (macro `v` tells).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MtaKind {
    /// Positions shift at once; an added field goes to the end.
    Postfix,
    /// A deleted field keeps its number until the next filter is shown the header, and its place
    /// for good: a later filter that adds one of that name gets it. So it is with the fields that
    /// Sendmail makes up. Any other added field goes above the first of its name.
    Sendmail,
}

/// Fields that Sendmail's list begins with, before those of the client: the templates of its stock
/// configuration. Received is its own; others are made up where the client sent none.
const SENDMAIL_TEMPLATES: [&[u8]; 9] = [
    b"Return-Path",
    RECEIVED,
    b"Resent-Date",
    b"Date",
    b"Resent-From",
    b"From",
    b"Full-Name",
    b"Resent-Message-Id",
    b"Message-Id",
];

/// The field that both MTAs add at the top.
const RECEIVED: &[u8] = b"Received";

/// Fields of which Sendmail never gives an old place to a new one (`H_TRACE`).
const TRACE: [&[u8]; 4] = [RECEIVED, b"X400-Received", b"Via", b"Mail-From"];

/// Behind every field that a message can have: Sendmail appends there.
const END: u32 = 0x7fff_ffff;

/// How much header is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Fields.
    pub fields: usize,
    /// Bytes in names and values.
    pub bytes: usize,
}

impl Default for HeaderLimits {
    fn default() -> Self {
        Self {
            fields: 4096,
            bytes: 2 * 1024 * 1024,
        }
    }
}

/// A header over its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("message header is over the limit of {} fields or {} bytes", .0.fields, .0.bytes)]
pub(crate) struct HeaderTooLarge(HeaderLimits);

/// Place of a field in [`Headers::elements`]: never reused, so it is the field's identity.
type Id = usize;

/// Where a field comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// The Received field that the MTA itself adds and shows nobody.
    Own,
    /// A template of Sendmail's: counts for positions, and is a field once a filter gave it a
    /// value.
    Template { given: bool },
    /// From the MTA: the `ordinal`-th of its name, as sent.
    Sent { ordinal: u32, sent: Header },
    /// From a filter that appended it, or changed a field which was not there.
    Added,
    /// From a filter that inserted it.
    Inserted,
}

impl Origin {
    /// Whether a filter made it.
    fn is_new(&self) -> bool {
        match self {
            Self::Own | Self::Template { .. } | Self::Sent { .. } => false,
            Self::Added | Self::Inserted => true,
        }
    }

    /// Whether filters see it.
    fn is_visible(&self) -> bool {
        !matches!(self, Self::Own | Self::Template { given: false })
    }
}

/// One field, with its history.
#[derive(Debug, Clone)]
struct Element {
    header: Header,
    origin: Origin,
    deleted: bool,
    /// Deleted, and a filter has been shown the header since: Sendmail does not count it any more.
    forgotten: bool,
}

/// The header at the moment when a filter is shown it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    slots: Vec<Slot>,
}

/// Whether a filter was shown the header before it asked for edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// It was.
    AtHeader,
    /// It wanted to hear of no field.
    Away,
}

/// A field as one filter knows it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    id: Id,
    /// Deleted before the filter was asked: counts for positions in Sendmail's list only.
    gone: bool,
    /// Deleted by the filter itself.
    deleted: bool,
}

/// The header of one message.
#[derive(Debug)]
pub(crate) struct Headers {
    kind: MtaKind,
    limits: HeaderLimits,
    elements: Vec<Element>,
    /// From the top to the bottom.
    order: Vec<Id>,
    /// How many fields of a name the MTA sent, by the name in lower case.
    ordinals: HashMap<Vec<u8>, u32>,
    bytes: usize,
}

impl Headers {
    /// A header without any field yet.
    pub(crate) fn new(kind: MtaKind, limits: HeaderLimits) -> Self {
        let mut headers = Self {
            kind,
            limits,
            elements: Vec::new(),
            order: Vec::new(),
            ordinals: HashMap::new(),
            bytes: 0,
        };
        let before: &[&'static [u8]] = match kind {
            MtaKind::Postfix => &[RECEIVED],
            MtaKind::Sendmail => &SENDMAIL_TEMPLATES,
        };
        for (number, name) in before.iter().enumerate() {
            let origin = match *name {
                RECEIVED => Origin::Own,
                _ => Origin::Template { given: false },
            };
            headers.create(Header::new(*name, Bytes::new()), origin, number);
        }
        headers
    }

    /// Takes the next field from the MTA.
    pub(crate) fn receive(&mut self, header: Header) -> Result<(), HeaderTooLarge> {
        self.charge(&header)?;
        let count = self
            .ordinals
            .entry(header.name.to_ascii_lowercase())
            .or_default();
        *count += 1;
        let origin = Origin::Sent {
            ordinal: *count,
            sent: header.clone(),
        };
        self.create(header, origin, self.order.len());
        Ok(())
    }

    /// The header as it is now, for the filters of one segment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let slots = self
            .order
            .iter()
            .map(|id| Slot {
                id: *id,
                gone: self.elements[*id].deleted,
                deleted: false,
            })
            .filter(|slot| !slot.gone || self.kind == MtaKind::Sendmail)
            .collect();
        Snapshot { slots }
    }

    /// What a filter that is shown `snapshot` sees, from the top to the bottom.
    pub(crate) fn view(&self, snapshot: &Snapshot) -> Vec<Header> {
        snapshot
            .slots
            .iter()
            .filter(|slot| !slot.gone && self.elements[slot.id].origin.is_visible())
            .map(|slot| self.elements[slot.id].header.clone())
            .collect()
    }

    /// Applies the edits of one filter, whose positions refer to `seen`; edits of anything but the
    /// header are passed over. Where two filters that saw the same change the same field, the later
    /// one wins.
    pub(crate) fn apply(
        &mut self,
        seen: &Snapshot,
        looked: Looked,
        edits: &[Edit],
    ) -> Result<(), HeaderTooLarge> {
        let mut working = seen.clone();
        for slot in working.slots.iter_mut().filter(|slot| slot.gone) {
            let element = &mut self.elements[slot.id];
            element.forgotten |= looked == Looked::AtHeader;
            // Sendmail forgets what was deleted when it shows the header, not before.
            slot.gone = element.forgotten;
            slot.deleted = !slot.gone;
        }
        for edit in edits {
            match edit {
                Edit::AddHeader { name, value } => {
                    let header = Header::new(name.clone(), value.clone());
                    match self.vacant(&working, &header).next() {
                        Some(place) => self.fill(&mut working, place, header)?,
                        None => self.add(&mut working, header)?,
                    }
                }
                Edit::InsertHeader { index, name, value } => {
                    let header = Header::new(name.clone(), value.clone());
                    self.insert(&mut working, *index, header)?;
                }
                Edit::ChangeHeader { index, name, value } => {
                    let header = Header::new(name.clone(), value.clone());
                    self.change(&mut working, *index, header)?;
                }
                Edit::AddRecipient { .. }
                | Edit::DeleteRecipient { .. }
                | Edit::ChangeSender { .. }
                | Edit::ReplaceBody(_)
                | Edit::Quarantine { .. } => {}
            }
        }
        Ok(())
    }

    /// Appends a field, in the sense of the MTA.
    fn add(&mut self, working: &mut Snapshot, header: Header) -> Result<(), HeaderTooLarge> {
        let end = working.slots.len();
        let place = match self.kind {
            MtaKind::Postfix => end,
            MtaKind::Sendmail => working
                .slots
                .iter()
                .position(|slot| same_name(&self.elements[slot.id].header, &header))
                .unwrap_or(end),
        };
        self.put(working, place, header, Origin::Added)
    }

    /// Places of fields of that name which are none to Sendmail now: it puts a new one there.
    fn vacant(
        &self,
        working: &Snapshot,
        header: &Header,
    ) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let given = self.kind == MtaKind::Sendmail && !is_trace(&header.name);
        let slots = working.slots.iter().enumerate().filter(|(_, slot)| {
            let element = &self.elements[slot.id];
            let is_none = slot.gone || !element.origin.is_visible();
            given && is_none && same_name(&element.header, header)
        });
        let places: Vec<usize> = slots.map(|(place, _)| place).collect();
        places.into_iter()
    }

    /// Gives a value to the field at a vacant place.
    fn fill(
        &mut self,
        working: &mut Snapshot,
        place: usize,
        header: Header,
    ) -> Result<(), HeaderTooLarge> {
        self.charge(&header)?;
        let slot = &mut working.slots[place];
        (slot.gone, slot.deleted) = (false, false);
        let element = &mut self.elements[slot.id];
        (element.deleted, element.forgotten) = (false, false);
        element.header.value = header.value;
        if let Origin::Template { given } = &mut element.origin {
            *given = true;
        }
        Ok(())
    }

    /// Inserts a field at a position counted as the MTA counts.
    fn insert(
        &mut self,
        working: &mut Snapshot,
        index: u32,
        header: Header,
    ) -> Result<(), HeaderTooLarge> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let end = working.slots.len();
        let place = match self.kind {
            MtaKind::Postfix => working
                .slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| !slot.deleted)
                .map(|(place, _)| place)
                .nth(index)
                .unwrap_or(end),
            // Behind the node of that number, deleted ones and templates included.
            MtaKind::Sendmail => index.saturating_add(1).min(end),
        };
        self.put(working, place, header, Origin::Inserted)
    }

    /// Changes or deletes the `index`-th field of a name.
    fn change(
        &mut self,
        working: &mut Snapshot,
        index: u32,
        header: Header,
    ) -> Result<(), HeaderTooLarge> {
        let kind = self.kind;
        let nth = usize::try_from(index.max(1) - 1).unwrap_or(usize::MAX);
        let elements = &self.elements;
        let found = working
            .slots
            .iter_mut()
            .filter(|slot| !slot.gone && elements[slot.id].origin.is_visible())
            // To Sendmail a field that this filter deleted keeps its number.
            .filter(|slot| !slot.deleted || kind == MtaKind::Sendmail)
            .filter(|slot| same_name(&elements[slot.id].header, &header))
            .nth(nth);
        let Some(slot) = found else {
            let vacant = self.vacant(working, &header).next_back();
            return match (vacant, header.value.is_empty()) {
                (Some(place), false) => self.fill(working, place, header),
                (None, false) => self.add(working, header),
                (Some(place), true) => {
                    // A field that Sendmail would have made up.
                    self.elements[working.slots[place].id].deleted = true;
                    Ok(())
                }
                (None, true) => Ok(()),
            };
        };
        let id = slot.id;
        slot.deleted = header.value.is_empty();
        if slot.deleted {
            self.elements[id].deleted = true;
            return Ok(());
        }
        self.charge(&header)?;
        let element = &mut self.elements[id];
        element.deleted = false;
        element.header.value = header.value;
        if kind == MtaKind::Postfix {
            element.header.name = header.name;
        }
        Ok(())
    }

    /// Creates a field at `place` of the filter's list, and behind the same neighbour in ours.
    fn put(
        &mut self,
        working: &mut Snapshot,
        place: usize,
        header: Header,
        origin: Origin,
    ) -> Result<(), HeaderTooLarge> {
        self.charge(&header)?;
        let appended = place == working.slots.len();
        let above = place
            .checked_sub(1)
            .and_then(|place| working.slots.get(place));
        let position = match above {
            _ if appended => self.order.len(),
            None => 0,
            Some(slot) => self
                .order
                .iter()
                .position(|id| *id == slot.id)
                .map_or(self.order.len(), |position| position + 1),
        };
        let id = self.create(header, origin, position);
        let slot = Slot {
            id,
            gone: false,
            deleted: false,
        };
        working.slots.insert(place, slot);
        Ok(())
    }

    fn create(&mut self, header: Header, origin: Origin, position: usize) -> Id {
        let id = self.elements.len();
        self.elements.push(Element {
            header,
            origin,
            deleted: false,
            forgotten: false,
        });
        self.order.insert(position, id);
        id
    }

    /// Counts a field against the limits; what is deleted stays counted, since it stays in memory.
    fn charge(&mut self, header: &Header) -> Result<(), HeaderTooLarge> {
        self.bytes += header.name.len() + header.value.len();
        if self.bytes > self.limits.bytes || self.elements.len() >= self.limits.fields {
            return Err(HeaderTooLarge(self.limits));
        }
        Ok(())
    }

    /// The edits that turn what the MTA sent into what the header is now.
    pub(crate) fn difference(&self) -> Vec<Edit> {
        let trailing = self.trailing();
        let found = self.found_by_name(trailing);
        let mut edits = self.changes();
        edits.extend(self.deletions());
        edits.extend(self.given());
        edits.extend(self.insertions(trailing, &found));
        // The lowest first: the next one of its name goes above it.
        let found = found.iter().rev();
        edits.extend(found.map(|id| as_addition(&self.elements[*id])));
        edits.extend(self.additions(trailing));
        edits
    }

    fn changes(&self) -> Vec<Edit> {
        self.order
            .iter()
            .map(|id| &self.elements[*id])
            .filter(|element| !element.deleted)
            .filter_map(|element| match &element.origin {
                Origin::Sent { ordinal, sent } if *sent != element.header => {
                    let Header { name, value } = element.header.clone();
                    Some(Edit::change(*ordinal, name, value))
                }
                _ => None,
            })
            .collect()
    }

    fn deletions(&self) -> Vec<Edit> {
        // From the bottom up is from the last of each name up.
        self.order
            .iter()
            .rev()
            .map(|id| &self.elements[*id])
            .filter(|element| element.deleted)
            .filter_map(|element| match &element.origin {
                Origin::Sent { ordinal, sent } => Some(Edit::delete(*ordinal, sent.name.clone())),
                // Behind those of the client there is the one that Sendmail makes up.
                Origin::Template { .. } => {
                    let sent = self.count_sent(&element.header.name);
                    Some(Edit::delete(sent + 1, element.header.name.clone()))
                }
                _ => None,
            })
            .collect()
    }

    /// Values for fields that Sendmail makes up, whose place they take.
    fn given(&self) -> Vec<Edit> {
        self.elements
            .iter()
            .filter(|element| !element.deleted)
            .filter(|element| element.origin == Origin::Template { given: true })
            .map(as_addition)
            .collect()
    }

    /// Whether Sendmail would take a new field of that name for the one that it makes up.
    fn is_made_up(&self, header: &Header) -> bool {
        self.elements.iter().any(|element| {
            let given = matches!(element.origin, Origin::Template { given: true });
            let template = matches!(element.origin, Origin::Template { .. });
            template && (!given || element.deleted) && same_name(&element.header, header)
        })
    }

    /// How many fields of a name the MTA sent.
    fn count_sent(&self, name: &[u8]) -> u32 {
        let count = self.ordinals.get(&name.to_ascii_lowercase());
        count.copied().unwrap_or_default()
    }

    /// New fields that Sendmail puts into their place, above the first of their name, when it is
    /// told to add them: that holds however many templates its configuration has. From the top
    /// down.
    fn found_by_name(&self, trailing: usize) -> Vec<Id> {
        let mut found = Vec::new();
        if self.kind == MtaKind::Postfix {
            return found;
        }
        // Above the rest of the order: what stands there when the additions come.
        let mut above: Vec<&Header> = Vec::new();
        let mut present = self.order[..trailing]
            .iter()
            .copied()
            .filter(|id| !self.is_dropped(*id))
            .peekable();
        while let Some(id) = present.next() {
            let element = &self.elements[id];
            let header = &element.header;
            let below = present.peek().map(|id| &self.elements[*id].header);
            let is_found = element.origin == Origin::Added
                && !self.is_made_up(header)
                && below.is_some_and(|below| same_name(below, header))
                && !above.iter().any(|other| same_name(other, header));
            if is_found {
                found.push(id);
            } else {
                above.push(header);
            }
        }
        found
    }

    /// Whether a field was made by a filter and deleted by another: the MTA never hears of it.
    fn is_dropped(&self, id: Id) -> bool {
        self.elements[id].deleted && self.elements[id].origin.is_new()
    }

    /// The other new fields above something of the MTA's, from the bottom up: what is inserted
    /// first stands below everything that follows, and moves no later position.
    fn insertions(&self, trailing: usize, found: &[Id]) -> Vec<Edit> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut surviving = 0;
        // Of the list that the MTA itself has: Sendmail counts what it shows nobody.
        let mut nodes: u32 = 0;
        for id in &self.order[..trailing] {
            let element = &self.elements[*id];
            match &element.origin {
                Origin::Own => {
                    nodes += 1;
                    surviving += 1;
                }
                Origin::Template { .. } => nodes += 1,
                Origin::Sent { .. } => {
                    nodes += 1;
                    surviving += u32::from(!element.deleted);
                }
                Origin::Added | Origin::Inserted => {
                    if element.deleted || found.contains(id) {
                        continue;
                    }
                    let index = match self.kind {
                        MtaKind::Postfix => surviving,
                        // Behind the node of that number; the first has the number 0.
                        MtaKind::Sendmail => nodes.saturating_sub(1),
                    };
                    let Header { name, value } = element.header.clone();
                    edits.push(Edit::insert(index, name, value));
                }
            }
        }
        edits.reverse();
        edits
    }

    /// New fields below everything of the MTA's, from the top down.
    fn additions(&self, trailing: usize) -> Vec<Edit> {
        let below = self.order.iter().enumerate().skip(trailing);
        below
            .filter(|(_, id)| self.elements[**id].origin.is_new() && !self.elements[**id].deleted)
            .map(|(place, id)| {
                let element = &self.elements[*id];
                let inserted = element.origin == Origin::Inserted;
                if self.kind == MtaKind::Sendmail && (inserted || self.has_name(place, element)) {
                    let Header { name, value } = element.header.clone();
                    return Edit::insert(END, name, value);
                }
                as_addition(element)
            })
            .collect()
    }

    /// Whether the MTA has a field of that name when a new one at this place of the order is added:
    /// one of its own, deleted or not, or a new one from above.
    fn has_name(&self, place: usize, element: &Element) -> bool {
        self.order.iter().enumerate().any(|(other_place, id)| {
            let other = &self.elements[*id];
            let is_there = !other.origin.is_new() || (other_place < place && !other.deleted);
            is_there && same_name(&other.header, &element.header)
        })
    }

    /// Position behind the last field of the MTA's that is still there.
    fn trailing(&self) -> usize {
        self.order
            .iter()
            .rposition(|id| {
                let element = &self.elements[*id];
                match element.origin {
                    // Sendmail may write a template, and what is above it stays above it.
                    Origin::Own | Origin::Template { .. } => true,
                    Origin::Sent { .. } => !element.deleted,
                    _ => false,
                }
            })
            .map_or(0, |last| last + 1)
    }
}

fn as_addition(element: &Element) -> Edit {
    let Header { name, value } = element.header.clone();
    Edit::add(name, value)
}

fn is_trace(name: &[u8]) -> bool {
    TRACE.iter().any(|trace| trace.eq_ignore_ascii_case(name))
}

fn same_name(one: &Header, other: &Header) -> bool {
    one.name.eq_ignore_ascii_case(&other.name)
}

#[cfg(test)]
#[path = "tests/headers.rs"]
mod tests;
