//! The net difference between what the MTA sent and what the filters made of it, in an order that
//! means the same to Postfix and Sendmail.
//!
//! Pure, and cannot fail: the limits were seen to when the edits came in.

use milter_proto::edit::Edit;
use milter_proto::message::Header;

use super::{Element, Headers, Id, MtaKind, Origin, same_name};

/// Behind every field that a message can have: Sendmail appends there.
pub(super) const END: u32 = 0x7fff_ffff;

impl Headers {
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
