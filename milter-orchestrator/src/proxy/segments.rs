//! Where a chain must wait: which filters can be told of content side by side.
//!
//! Pure. A filter behind another one needs to wait for it only when that one may change what it
//! reads. Both follow from what they negotiated: edits that were not asked for cannot come, events
//! that were left out are not read. A filter of which nothing is known may change everything and
//! reads everything. What is written as parallel in the configuration (one group here) stays so.
//! Nothing here can fail.

use std::fmt;

use milter_proto::wire::{Actions, Steps};

use crate::member::Negotiated;

/// A part of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The header fields.
    Header,
    /// The body.
    Body,
}

/// What a filter reads of the content, and what it may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    reads: (bool, bool),
    changes: (bool, bool),
}

impl Reach {
    /// Of a filter with that negotiation, if there was one. A shadow changes nothing.
    pub(crate) fn of(negotiated: Option<Negotiated>, shadow: bool) -> Self {
        let bits = |known: Negotiated| {
            let actions = Actions::from_bits_retain(known.actions);
            (actions, Steps::from_bits_retain(known.steps))
        };
        let (actions, steps) = negotiated.map_or((Actions::all(), Steps::empty()), bits);
        let headers = Actions::ADD_HEADERS | Actions::CHANGE_HEADERS;
        Self {
            reads: (
                !steps.contains(Steps::NO_HEADERS),
                !steps.contains(Steps::NO_BODY),
            ),
            changes: (
                !shadow && actions.intersects(headers),
                !shadow && actions.contains(Actions::CHANGE_BODY),
            ),
        }
    }

    /// Whether everything that `other` reads or changes is among what this one does.
    pub(crate) fn covers(self, other: Self) -> bool {
        let within = |inner: (bool, bool), outer: (bool, bool)| {
            (outer.0 || !inner.0) && (outer.1 || !inner.1)
        };
        within(other.reads, self.reads) && within(other.changes, self.changes)
    }

    /// What of this one's reading `other` may change.
    fn spoilt_by(self, other: Self) -> Option<Part> {
        if self.reads.0 && other.changes.0 {
            Some(Part::Header)
        } else if self.reads.1 && other.changes.1 {
            Some(Part::Body)
        } else {
            None
        }
    }
}

/// Why a group must wait for the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// The filter that may change something: its place, counted over all groups.
    pub(crate) changes: usize,
    /// The filter that reads that: its place, counted over all groups.
    pub(crate) reads: usize,
    /// What.
    pub(crate) part: Part,
}

/// For every group of the chain, what it waits for: the first group for nothing, one behind a
/// barrier for all groups before it, any other for no more than the group before it does.
pub(crate) fn barriers(groups: &[Vec<Reach>]) -> Vec<Option<Barrier>> {
    let mut barriers = Vec::with_capacity(groups.len());
    // The filters since the last barrier, with their places.
    let mut running: Vec<(usize, Reach)> = Vec::new();
    let mut place = 0;
    for group in groups {
        let placed: Vec<(usize, Reach)> = (place..).zip(group.iter().copied()).collect();
        place += group.len();
        let barrier = running.iter().find_map(|(changes, changer)| {
            placed.iter().find_map(|(reads, reader)| {
                reader.spoilt_by(*changer).map(|part| Barrier {
                    changes: *changes,
                    reads: *reads,
                    part,
                })
            })
        });
        if barrier.is_some() {
            running.clear();
        }
        running.extend(placed);
        barriers.push(barrier);
    }
    barriers
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::Body => "the body",
        })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |(header, body): (bool, bool)| match (header, body) {
            (true, true) => "header and body",
            (true, false) => "the header",
            (false, true) => "the body",
            (false, false) => "nothing",
        };
        let (reads, changes) = (named(self.reads), named(self.changes));
        write!(f, "reads {reads}, may change {changes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One filter: what it reads (`h`, `b`), `>`, what it may change; `?` for one that is not
    /// known, `~` before a shadow.
    fn reach(text: &str) -> Reach {
        let (shadow, text) = match text.strip_prefix('~') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if text == "?" {
            return Reach::of(None, shadow);
        }
        let (reads, changes) = text.split_once('>').unwrap();
        let mut steps = Steps::LEADING_SPACE;
        steps.set(Steps::NO_HEADERS, !reads.contains('h'));
        steps.set(Steps::NO_BODY, !reads.contains('b'));
        // What concerns the envelope alone is in nobody's way.
        let mut actions = Actions::QUARANTINE | Actions::ADD_RECIPIENT | Actions::CHANGE_SENDER;
        actions.set(Actions::ADD_HEADERS, changes.contains('a'));
        actions.set(Actions::CHANGE_HEADERS, changes.contains('h'));
        actions.set(Actions::CHANGE_BODY, changes.contains('b'));
        let negotiated = Negotiated {
            actions: actions.bits(),
            steps: steps.bits(),
        };
        Reach::of(Some(negotiated), shadow)
    }

    /// Groups apart by spaces, their filters by commas; `|` is where the result has a barrier.
    fn cut(chain: &str) -> String {
        let groups: Vec<&str> = chain.split_whitespace().collect();
        let reaches: Vec<Vec<Reach>> = groups
            .iter()
            .map(|group| group.split(',').map(reach).collect())
            .collect();
        let mut text = String::new();
        for (group, barrier) in groups.iter().zip(barriers(&reaches)) {
            let sign = if barrier.is_some() { " | " } else { " " };
            text.push_str(sign);
            text.push_str(group);
        }
        text.trim_start().to_owned()
    }

    #[test]
    fn a_group_waits_only_for_what_changes_what_it_reads() {
        for expected in [
            "hb> hb> hb> hb>",
            "hb>a | hb>",
            "hb>h | h>",
            "hb>b | hb>",
            // Changes that the later one does not read.
            "hb>h b>",
            "hb>b h>",
            "hb>hab >",
            "hb>b h>h | hb>",
            // It is any filter since the last barrier, not the neighbour alone.
            "hb>a b> | h>",
            "hb>a | hb> hb>",
            "hb>a | hb>h | hb>",
            "hb>a | hb> b>b h> | hb>",
            // Who is not known may do everything.
            "? | ?",
            "? > | hb>",
            "hb> ? | h>",
            // Inside a group nobody waits.
            "hb>ab,hb>ab",
            "hb>,hb>a | hb>,b>",
            "hb>a,hb> b>,>",
            // A shadow changes nothing, and still sees what it would see.
            "~hb>hab hb>",
            "~? hb>",
            "hb>a | ~hb> hb>",
        ] {
            assert_eq!(cut(&expected.replace('|', " ")), expected);
        }
    }

    #[test]
    fn a_barrier_names_who_and_what() {
        let groups = ["hb>", "h>b", "h>,hb>"];
        let groups: Vec<Vec<Reach>> = groups
            .iter()
            .map(|group| group.split(',').map(reach).collect())
            .collect();
        let barrier = Barrier {
            changes: 1,
            reads: 3,
            part: Part::Body,
        };
        assert_eq!(barriers(&groups), [None, None, Some(barrier)]);
    }

    #[test]
    fn more_is_not_covered() {
        for (known, now, covered) in [
            ("?", "hb>hab", true),
            ("hb>a", "hb>h", true),
            ("hb>a", "h>", true),
            ("h>a", "hb>a", false),
            ("hb>", "hb>b", false),
        ] {
            assert_eq!(reach(known).covers(reach(now)), covered, "{known} {now}");
        }
    }
}
