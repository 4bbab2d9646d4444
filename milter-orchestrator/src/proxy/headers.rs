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
use std::sync::Arc;

use bytes::Bytes;
use milter_proto::edit::{Edit, Fold};
use milter_proto::message::Header;
use thiserror::Error;

mod difference;

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

impl MtaKind {
    /// What becomes of line ends in the value of a filter's header field. Exactly as the MTA would
    /// have it they may come out as no mail should have them.
    pub(crate) fn fold(self, exact: bool) -> Fold {
        match (self, exact) {
            (Self::Postfix, false) => Fold::Tab,
            (Self::Postfix, true) => Fold::AsPostfix,
            (Self::Sendmail, false) => Fold::Space,
            (Self::Sendmail, true) => Fold::AsSendmail,
        }
    }
}

/// Fields that Sendmail's list begins with, before those of the client: the templates of its stock
/// configuration. Received is its own; others are made up where the client sent none.
#[must_use]
pub fn stock_headers() -> Arc<[Bytes]> {
    let names: [&[u8]; 9] = [
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
    names.into_iter().map(Bytes::from_static).collect()
}

/// The field that both MTAs add at the top.
const RECEIVED: &[u8] = b"Received";

/// Fields of which Sendmail never gives an old place to a new one (`H_TRACE`).
const TRACE: [&[u8]; 4] = [RECEIVED, b"X400-Received", b"Via", b"Mail-From"];

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
    /// A header without any field yet; `sendmail` are the names of the fields that Sendmail's list
    /// begins with.
    pub(crate) fn new(kind: MtaKind, limits: HeaderLimits, sendmail: &[Bytes]) -> Self {
        let mut headers = Self {
            kind,
            limits,
            elements: Vec::new(),
            order: Vec::new(),
            ordinals: HashMap::new(),
            bytes: 0,
        };
        let own = [Bytes::from_static(RECEIVED)];
        let before = match kind {
            MtaKind::Postfix => &own,
            MtaKind::Sendmail => sendmail,
        };
        for (number, name) in before.iter().enumerate() {
            let origin = if name.eq_ignore_ascii_case(RECEIVED) {
                Origin::Own
            } else {
                Origin::Template { given: false }
            };
            headers.create(Header::new(name.clone(), Bytes::new()), origin, number);
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

    /// The header as the MTA sent it.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Header> {
        self.elements
            .iter()
            .filter_map(|element| match &element.origin {
                Origin::Sent { sent, .. } => Some(sent),
                Origin::Own | Origin::Template { .. } | Origin::Added | Origin::Inserted => None,
            })
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
