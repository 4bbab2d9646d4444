//! Whether a set of conditions can hold, or fail, together at all.
//!
//! Pure. Every test is a variable that is true or false; what one says about another (two networks
//! without a common address, a login without a client that logged in) is known for pairs of them.
//! The search tries all assignments that no pair forbids, and gives up for "perhaps" when there are
//! too many. So what it calls impossible is; what it does not may be all the same.

use std::sync::Arc;

use ipnet::IpNet;

use crate::route::clock::{WEEK, Window};
use crate::route::{Bounds, Condition, Set, Test};

/// Steps of a search at most.
const STEPS_MAX: u32 = 20_000;

/// What two tests can be together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    both: bool,
    first_only: bool,
    second_only: bool,
    neither: bool,
}

impl Pair {
    const FREE: Self = Self {
        both: true,
        first_only: true,
        second_only: true,
        neither: true,
    };

    fn allows(self, first: bool, second: bool) -> bool {
        match (first, second) {
            (true, true) => self.both,
            (true, false) => self.first_only,
            (false, true) => self.second_only,
            (false, false) => self.neither,
        }
    }
}

/// Whether mail by that listener can be such that every condition comes to what is wanted of it.
pub(super) fn possible(listen: &str, wanted: &[(&Condition, bool)]) -> bool {
    let mut tests: Vec<&Arc<Test>> = Vec::new();
    for test in wanted.iter().flat_map(|(condition, _)| condition.tests()) {
        if !matches!(**test, Test::Listen(_)) {
            tests.push(test);
        }
    }
    let mut search = Search {
        listen,
        wanted,
        tests,
        values: Vec::new(),
        steps: 0,
    };
    search.run()
}

struct Search<'a> {
    listen: &'a str,
    wanted: &'a [(&'a Condition, bool)],
    tests: Vec<&'a Arc<Test>>,
    /// Of the first tests.
    values: Vec<bool>,
    steps: u32,
}

impl Search<'_> {
    fn run(&mut self) -> bool {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return true;
        }
        let outcomes = || {
            let wanted = self.wanted.iter();
            wanted.map(|(condition, value)| self.value(condition).map(|one| one == *value))
        };
        if outcomes().any(|fits| fits == Some(false)) {
            return false;
        }
        if outcomes().all(|fits| fits == Some(true)) {
            return true;
        }
        let Some(next) = self.tests.get(self.values.len()).copied() else {
            return true;
        };
        for value in [true, false] {
            let mut before = self.tests.iter().zip(&self.values);
            if before.all(|(test, known)| pair(test, next).allows(*known, value)) {
                self.values.push(value);
                let found = self.run();
                self.values.pop();
                if found {
                    return true;
                }
            }
        }
        false
    }

    fn value(&self, condition: &Condition) -> Option<bool> {
        let combined = |parts: &[Condition], decisive: bool| {
            let mut open = false;
            for part in parts {
                match self.value(part) {
                    Some(value) if value == decisive => return Some(decisive),
                    Some(_) => {}
                    None => open = true,
                }
            }
            (!open).then_some(!decisive)
        };
        match condition {
            Condition::All(parts) => combined(parts, false),
            Condition::Any(parts) => combined(parts, true),
            Condition::Not(part) => self.value(part).map(|value| !value),
            Condition::Is(test) => match &**test {
                Test::Listen(names) => Some(names.iter().any(|name| name == self.listen)),
                _ => {
                    let place = self.tests.iter().position(|one| Arc::ptr_eq(one, test))?;
                    self.values.get(place).copied()
                }
            },
        }
    }
}

/// What two tests can be together.
fn pair(first: &Test, second: &Test) -> Pair {
    match (first, second) {
        (Test::Authenticated, Test::Authenticated) | (Test::Tls, Test::Tls) => Pair {
            first_only: false,
            second_only: false,
            ..Pair::FREE
        },
        (Test::Login(_), Test::Authenticated) => Pair {
            first_only: false,
            ..Pair::FREE
        },
        (Test::Authenticated, Test::Login(_)) => Pair {
            second_only: false,
            ..Pair::FREE
        },
        (Test::Size(one), Test::Size(other)) | (Test::Load(one), Test::Load(other)) => {
            of_bounds(*one, *other)
        }
        (Test::Time(one), Test::Time(other)) => of_times(one, other),
        (Test::Client(one), Test::Client(other)) => of_networks(one, other),
        (Test::Macro(name, one), Test::Macro(of, other)) if name == of => of_sets(one, other),
        (Test::Host(one), Test::Host(other))
        | (Test::Login(one), Test::Login(other))
        | (Test::Helo(one), Test::Helo(other))
        | (Test::Sender(one), Test::Sender(other))
        | (Test::Recipient(one), Test::Recipient(other)) => of_sets(one, other),
        (Test::Verdict(one, words), Test::Verdict(other, others)) if one == other => Pair {
            both: words.iter().any(|word| others.contains(word)),
            first_only: words.iter().any(|word| !others.contains(word)),
            second_only: others.iter().any(|word| !words.contains(word)),
            neither: true,
        },
        _ => Pair::FREE,
    }
}

fn of_bounds(one: Bounds, other: Bounds) -> Pair {
    let within = |inner: Bounds, outer: Bounds| inner.low >= outer.low && inner.high <= outer.high;
    let (low, high) = if one.low <= other.low {
        (one, other)
    } else {
        (other, one)
    };
    let touch = low.high == u64::MAX || low.high + 1 >= high.low;
    Pair {
        both: one.low.max(other.low) <= one.high.min(other.high),
        first_only: !within(one, other),
        second_only: !within(other, one),
        neither: !(low.low == 0 && touch && low.high.max(high.high) == u64::MAX),
    }
}

fn of_times(one: &[Window], other: &[Window]) -> Pair {
    let mut found = Pair {
        both: false,
        first_only: false,
        second_only: false,
        neither: false,
    };
    for minute in 0..WEEK {
        let within = |windows: &[Window]| windows.iter().any(|window| window.covers(minute));
        match (within(one), within(other)) {
            (true, true) => found.both = true,
            (true, false) => found.first_only = true,
            (false, true) => found.second_only = true,
            (false, false) => found.neither = true,
        }
    }
    found
}

fn of_networks(one: &Set, other: &Set) -> Pair {
    let networks = |set: &Set| -> Vec<IpNet> {
        let written = set.written.iter();
        written
            .filter_map(|text| {
                text.parse()
                    .ok()
                    .or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
            })
            .collect()
    };
    let (ours, theirs) = (networks(one), networks(other));
    let within = |inner: &[IpNet], outer: &[IpNet]| {
        inner
            .iter()
            .all(|net| outer.iter().any(|wide| wide.contains(net)))
    };
    let apart = ours.iter().all(|net| {
        theirs
            .iter()
            .all(|far| !net.contains(far) && !far.contains(net))
    });
    let written = of_sets(one, other);
    Pair {
        both: !(apart && one.lists.is_empty() && other.lists.is_empty()),
        first_only: written.first_only && !(one.lists.is_empty() && within(&ours, &theirs)),
        second_only: written.second_only && !(other.lists.is_empty() && within(&theirs, &ours)),
        neither: true,
    }
}

/// Sets of texts: one within the other as written, or apart where each is of whole texts.
fn of_sets(one: &Set, other: &Set) -> Pair {
    let within = |inner: &Set, outer: &Set| {
        let mut written = inner.written.iter();
        written.all(|text| outer.written.iter().any(|other| same(text, other)))
    };
    let whole = |set: &Set| {
        let mut written = set.written.iter();
        // A domain may hold an address.
        let plain =
            |text: &String| !text.contains(['*', '/', '<', '>']) && !text.starts_with(['.', '@']);
        written.all(plain)
    };
    let mailboxes = |set: &Set| set.written.iter().filter(|text| text.contains('@')).count();
    let alike = (mailboxes(one) == one.written.len()) == (mailboxes(other) == other.written.len())
        && (mailboxes(one) == 0) == (mailboxes(other) == 0);
    let mut ours = one.written.iter();
    let common = ours.any(|text| other.written.iter().any(|other| same(text, other)));
    Pair {
        both: common || !(whole(one) && whole(other) && alike),
        first_only: !within(one, other),
        second_only: !within(other, one),
        neither: true,
    }
}

fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}
