//! Routes: which chain a message goes through, as a pure function of what is known so far.
//!
//! The first route that matches wins. A fact that is not known yet makes a route undecided, and
//! with it every route after it, so a decision once taken never changes while more becomes known.
//! No route at all is a decision too: the proxy must refuse for now, since nothing may pass by
//! accident. A filter may have a condition of its own ([`Member::condition`]); that is asked for
//! each message, after the route's.

mod bounds;
pub mod clock;
mod condition;
mod entries;
mod facts;
mod lists;
mod merge;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::member::{Chain, Member};

pub use bounds::{Bounds, NoBounds};
pub use condition::{Condition, Set, Test};
pub use entries::{Entries, EntryError, Kind};
pub use facts::{Client, Fact, Facts, Given, Lookup, NoWord, Said, Unknown};
pub use lists::{List, ListError, Refreshed};
pub(crate) use merge::merge;

/// All routes, in configuration order.
#[derive(Debug, Default)]
pub struct Routes {
    /// Routes in the order in which they are tried.
    pub routes: Vec<Route>,
}

/// One `[[route]]`.
#[derive(Debug)]
pub struct Route {
    /// What must hold.
    pub condition: Condition,
    /// Where the message goes then. Its name is the route's.
    pub chain: Arc<Chain>,
}

/// What the routes say.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This chain, whatever else becomes known.
    Chain(Arc<Chain>),
    /// It depends on facts that are not known yet.
    NotYet,
    /// No route matches and none will: the message must be refused for now.
    NoRoute,
}

impl Routes {
    /// The chain for a message of which so much is known.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> Choice {
        for route in &self.routes {
            match route.condition.holds(facts) {
                Fact::Known(true) => return Choice::Chain(Arc::clone(&route.chain)),
                Fact::Known(false) => {}
                Fact::NotYet => return Choice::NotYet,
            }
        }
        Choice::NoRoute
    }

    /// The chain that every message goes through, where the first route asks for nothing.
    #[must_use]
    pub fn only(&self) -> Option<&Arc<Chain>> {
        let first = self.routes.first()?;
        first.condition.is_always().then_some(&first.chain)
    }

    /// Every chain that is still possible with these facts, in configuration order.
    pub fn possible<'a>(&'a self, facts: &'a Facts<'a>) -> impl Iterator<Item = &'a Arc<Chain>> {
        let mut decided = false;
        self.routes
            .iter()
            .map(|route| (route.condition.holds(facts), &route.chain))
            .take_while(move |(holds, _)| {
                let before = decided;
                decided |= *holds == Fact::Known(true);
                !before
            })
            .filter(|(holds, _)| *holds != Fact::Known(false))
            .map(|(_, chain)| chain)
    }

    /// The member of that name in any chain.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        let members = self.routes.iter().flat_map(|route| route.chain.members());
        members
            .into_iter()
            .find(|member| member.name == name)
            .cloned()
    }

    /// Every member of every chain that is still possible, each once, in configuration order: what
    /// a negotiation must cover.
    #[must_use]
    pub fn members(&self, facts: &Facts<'_>) -> Vec<Arc<Member>> {
        let mut members: Vec<Arc<Member>> = Vec::new();
        for member in self.possible(facts).flat_map(|chain| chain.members()) {
            if !members.iter().any(|known| Arc::ptr_eq(known, member)) {
                members.push(Arc::clone(member));
            }
        }
        members
    }

    /// Whether every chain that is still possible has that member, without a condition of its own.
    #[must_use]
    pub fn is_certain(&self, member: &Arc<Member>, facts: &Facts<'_>) -> bool {
        member.condition.is_always()
            && self
                .possible(facts)
                .all(|chain| chain.members().any(|one| Arc::ptr_eq(one, member)))
    }

    /// Every test that is made somewhere.
    pub fn tests(&self) -> impl Iterator<Item = &Arc<Test>> {
        self.routes.iter().flat_map(|route| {
            let own = route.chain.members().map(|member| &member.condition);
            own.chain([&route.condition]).flat_map(Condition::tests)
        })
    }

    /// Every list that is looked into, each once.
    #[must_use]
    pub fn lists(&self) -> Vec<Arc<List>> {
        let mut lists: Vec<Arc<List>> = Vec::new();
        for list in self
            .tests()
            .filter_map(|test| test.set())
            .flat_map(|set| &set.lists)
        {
            if !lists.iter().any(|known| Arc::ptr_eq(known, list)) {
                lists.push(Arc::clone(list));
            }
        }
        lists
    }
}
