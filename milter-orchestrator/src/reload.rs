//! What of a new configuration counts at once, and what waits for a restart. Pure.
//!
//! Routes and failure policies count for the next connection. Sockets, commands and the control
//! socket do not change under running children: they keep their old settings, and each is named. A
//! new route that needs a milter which does not run cannot count; then the old routes stay as a
//! whole, since half a set of routes is none that anybody wrote.

use crate::config::{Milter, Settings};

/// The settings that count from now on, and what waits for a restart, one sentence each.
///
/// `running` are the names of the milters that are looked after.
#[must_use]
pub fn merge(old: &Settings, new: Settings, running: &[&str]) -> (Settings, Vec<String>) {
    let mut waiting = Vec::new();
    let mut merged = new;
    for (section, differs) in [
        ("[control]", old.control != merged.control),
        ("[supervisor]", old.supervisor != merged.supervisor),
    ] {
        if differs {
            waiting.push(format!("{section} has changed"));
        }
    }
    merged.control = old.control.clone();
    merged.supervisor = old.supervisor.clone();
    // Who listens has been said by the start-up already.
    merged.listen.clone_from(&old.listen);

    for (name, milter) in &mut merged.milter {
        if let Some(before) = old.milter.get(name)
            && keep_process(before, milter)
        {
            waiting.push(format!(
                "the command or socket of [milter.{name}] has changed"
            ));
        }
    }
    for name in running {
        if !merged.milter.contains_key(*name) {
            waiting.push(format!("[milter.{name}] is gone and goes on running"));
        }
    }
    let absent = absent(&merged, running);
    if !absent.is_empty() {
        waiting.push(format!(
            "the routes stay as they were, because the new ones need what does not run yet: {}",
            absent.join(", ")
        ));
        merged.route.clone_from(&old.route);
        for (name, milter) in &old.milter {
            let milter = || milter.clone();
            merged.milter.entry(name.clone()).or_insert_with(milter);
        }
    }
    (merged, waiting)
}

/// Gives `new` everything of `old` that its process or connection depends on; whether that
/// differed.
fn keep_process(old: &Milter, new: &mut Milter) -> bool {
    let policies_of_new = Milter {
        on_failure: new.on_failure,
        shadow: new.shadow,
        pool: new.pool,
        connect_timeout: new.connect_timeout,
        command_timeout: new.command_timeout,
        end_of_message_timeout: new.end_of_message_timeout,
        ..old.clone()
    };
    let differed = policies_of_new != *new;
    *new = policies_of_new;
    differed
}

/// What the routes name and is not there: milters that do not run, listeners that were not bound.
fn absent(merged: &Settings, running: &[&str]) -> Vec<String> {
    let mut absent = Vec::new();
    for route in &merged.route {
        let named = route.chain.iter().flatten().flat_map(|names| &names.0);
        for name in named.filter(|name| !running.contains(&name.as_str())) {
            absent.push(format!("[milter.{name}]"));
        }
        let listeners = &route.condition.listen.0;
        for name in listeners
            .iter()
            .filter(|name| !merged.listen.contains_key(*name))
        {
            absent.push(format!("[listen.{name}]"));
        }
    }
    absent.sort();
    absent.dedup();
    absent
}

#[cfg(test)]
mod tests {
    use milter_proto::net::Address;

    use super::*;
    use crate::blueprint::tests::settings;
    use crate::config::{Listen, Names};
    use crate::member::OnFailure;

    const RUNNING: [&str; 3] = ["dkim", "legacy", "spam"];

    /// What `change` makes of the settings: what waits, and the settings that count.
    fn merged(change: impl FnOnce(&mut Settings)) -> (Settings, Vec<String>) {
        let mut new = settings();
        change(&mut new);
        merge(&settings(), new, &RUNNING)
    }

    fn chain(names: &[&str]) -> Option<Vec<Names>> {
        let one = |name: &&str| Names(vec![(*name).to_owned()]);
        Some(names.iter().map(one).collect())
    }

    #[test]
    fn nothing_changed_means_nothing_waits() {
        let (counts, waiting) = merged(|_| {});
        assert_eq!(counts, settings());
        assert_eq!(waiting, [""; 0]);
    }

    #[test]
    fn routes_and_policies_count_at_once() {
        let (counts, waiting) = merged(|new| {
            new.route[1].chain = chain(&["spam", "dkim"]);
            new.milter.get_mut("spam").unwrap().on_failure = OnFailure::Reject;
        });
        assert_eq!(waiting, [""; 0]);
        assert_eq!(counts.route[1].chain, chain(&["spam", "dkim"]));
        assert_eq!(counts.milter["spam"].on_failure, OnFailure::Reject);
    }

    #[test]
    fn processes_and_sockets_wait_and_are_named() {
        let (counts, waiting) = merged(|new| {
            let spam = new.milter.get_mut("spam").unwrap();
            spam.command = vec!["other".to_owned()];
            spam.on_failure = OnFailure::Reject;
            new.control.socket = Address::Unix("/elsewhere.sock".into());
        });
        assert_eq!(waiting.len(), 2, "{waiting:?}");
        assert!(waiting[0].contains("[control]"));
        assert!(waiting[1].contains("[milter.spam]"));
        assert_eq!(
            counts.milter["spam"].command,
            settings().milter["spam"].command
        );
        assert_eq!(counts.milter["spam"].on_failure, OnFailure::Reject);
        assert_eq!(counts.control, settings().control);
    }

    #[test]
    fn routes_that_need_what_does_not_run_stay_as_they_were() {
        let (counts, waiting) = merged(|new| {
            let added = new.milter["dkim"].clone();
            new.milter.insert("added".to_owned(), added);
            new.milter.remove("legacy");
            new.route[1].chain = chain(&["added"]);
        });
        assert_eq!(counts.route, settings().route);
        assert!(counts.milter.contains_key("legacy"));
        let waiting = waiting.join("; ");
        assert!(waiting.contains("[milter.added]"), "{waiting}");
        assert!(waiting.contains("[milter.legacy] is gone"), "{waiting}");

        let (counts, waiting) = merged(|new| {
            let socket = Address::Unix("/new.sock".into());
            let listen = new.listen["inbound"].clone();
            let listen = Listen { socket, ..listen };
            new.listen.insert("third".to_owned(), listen);
            new.route[1].condition.listen = Names(vec!["third".to_owned()]);
        });
        assert_eq!(counts.route, settings().route);
        assert!(waiting[0].contains("[listen.third]"), "{waiting:?}");
    }
}
