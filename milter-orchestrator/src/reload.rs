//! What a new configuration does to everything that runs. Pure.
//!
//! Routes and failure policies count for the next connection. A milter whose process or place has
//! changed gets a new generation: next to the old one where both can exist, otherwise in its place.
//! Listeners come, go and move likewise. What cannot change while we run is named.

use milter_proto::net::Address;

use crate::blueprint::Source;
use crate::config::{Listen, Settings};

/// A milter as far as its process is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whose it is, and how it is started.
    pub source: &'a Source,
    /// Where the configuration puts it.
    pub address: &'a Address,
    /// Whether nobody but us knows that place.
    pub private: bool,
}

/// What becomes of a milter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs on.
    Keeps,
    /// It is new.
    Starts,
    /// A new generation starts, and takes new connections when it is ready; the old one ends with
    /// its last connection.
    Beside,
    /// Two of them cannot exist: the old one ends, then the new one starts.
    InPlace,
    /// It ends with its last connection.
    Ends,
}

/// What becomes of each milter, the new ones first.
#[must_use]
pub fn fates(old: &[Shape<'_>], new: &[Shape<'_>]) -> Vec<(String, Fate)> {
    let find = |shapes: &[Shape<'_>], name: &str| {
        let mut shapes = shapes.iter().copied();
        shapes.find(|shape| shape.name == name).is_some()
    };
    let mut fates = Vec::new();
    for shape in new {
        let before = old.iter().find(|before| before.name == shape.name);
        let fate = before.map_or(Fate::Starts, |before| becomes(before, shape));
        fates.push((shape.name.to_owned(), fate));
    }
    for shape in old.iter().filter(|shape| !find(new, shape.name)) {
        fates.push((shape.name.to_owned(), Fate::Ends));
    }
    fates
}

fn becomes(old: &Shape<'_>, new: &Shape<'_>) -> Fate {
    let stays = old.address == new.address;
    if stays && old.source == new.source {
        Fate::Keeps
    } else if stays && !new.private && *old.source != Source::Foreign {
        Fate::InPlace
    } else {
        Fate::Beside
    }
}

/// What becomes of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It is served as before.
    Keeps,
    /// It is new.
    Opens,
    /// It has another socket.
    Moves,
    /// It takes another number of connections.
    Resizes,
    /// It is gone.
    Closes,
}

/// What becomes of each listener.
#[must_use]
pub fn entries(old: &Settings, new: &Settings) -> Vec<(String, Entry)> {
    let mut entries = Vec::new();
    for (name, listen) in &new.listen {
        let entry = match old.listen.get(name) {
            None => Entry::Opens,
            Some(before) if before.socket != listen.socket => Entry::Moves,
            Some(before) if before.max_connections != listen.max_connections => Entry::Resizes,
            Some(_) => Entry::Keeps,
        };
        entries.push((name.clone(), entry));
    }
    let gone = old
        .listen
        .keys()
        .filter(|name| !new.listen.contains_key(*name));
    entries.extend(gone.map(|name| (name.clone(), Entry::Closes)));
    entries
}

/// The settings that count from now on, and what waits for a restart, one sentence each.
#[must_use]
pub fn merge(old: &Settings, mut new: Settings) -> (Settings, Vec<String>) {
    let mut waiting = Vec::new();
    let mut wait = |what: String| waiting.push(format!("{what}: that counts after a restart"));
    if old.control != new.control {
        wait("[control] has changed".to_owned());
        new.control = old.control.clone();
    }
    let (before, after) = (&old.supervisor, &mut new.supervisor);
    for (key, before, after) in [
        (
            "probe_interval",
            before.probe_interval,
            &mut after.probe_interval,
        ),
        (
            "probe_timeout",
            before.probe_timeout,
            &mut after.probe_timeout,
        ),
        ("hang_timeout", before.hang_timeout, &mut after.hang_timeout),
    ] {
        if before != *after {
            wait(format!("[supervisor] {key} has changed"));
            *after = before;
        }
    }
    for (name, listen) in &mut new.listen {
        let Some(before) = old.listen.get(name) else {
            continue;
        };
        let same_file = |listen: &Listen| (listen.mode, listen.group.clone());
        if before.socket == listen.socket && same_file(before) != same_file(listen) {
            wait(format!("mode or group of [listen.{name}] has changed"));
            listen.mode = before.mode;
            listen.group.clone_from(&before.group);
        }
    }
    (new, waiting)
}

#[cfg(test)]
mod tests {
    use milter_proto::daemon::config::{FileMode, Seconds};

    use super::*;
    use crate::blueprint::tests::settings;
    use crate::blueprint::{MilterPlan, draw};
    use crate::config::Names;

    /// What becomes of the milters of `settings()` after `change`, those that keep left out.
    fn check(change: impl FnOnce(&mut Settings), expected: &[(&str, Fate)]) {
        let (old, mut new) = (settings(), settings());
        change(&mut new);
        let (old, new) = (draw(&old).unwrap(), draw(&new).unwrap());
        fn shapes<'a>(milters: &'a [MilterPlan]) -> Vec<Shape<'a>> {
            milters.iter().map(MilterPlan::shape).collect()
        }
        let fates = fates(&shapes(&old.milters), &shapes(&new.milters));
        let changed = fates.iter().filter(|(_, fate)| *fate != Fate::Keeps);
        let changed: Vec<(&str, Fate)> = changed.map(|(name, fate)| (&**name, *fate)).collect();
        assert_eq!(changed, expected);
    }

    fn names(names: &[&str]) -> Option<Vec<Names>> {
        let one = |name: &&str| Names(vec![(*name).to_owned()]);
        Some(names.iter().map(one).collect())
    }

    #[test]
    fn policies_touch_no_process() {
        check(|_| {}, &[]);
        check(
            |new| {
                let spam = new.milter.get_mut("spam").unwrap();
                spam.on_failure = crate::member::OnFailure::Reject;
                spam.command_timeout = Seconds::from_secs(3);
                new.route.reverse();
            },
            &[],
        );
    }

    #[test]
    fn a_command_in_private_runs_beside_the_old_one() {
        let command = |new: &mut Settings| {
            new.milter.get_mut("spam").unwrap().command = vec!["other".to_owned()];
        };
        check(command, &[("spam", Fate::Beside)]);
        let environment = |new: &mut Settings| {
            let spam = new.milter.get_mut("spam").unwrap();
            spam.environment.insert("A".to_owned(), "b".to_owned());
        };
        check(environment, &[("spam", Fate::Beside)]);
    }

    #[test]
    fn a_place_that_others_know_has_one_process_at_a_time() {
        let at = |new: &mut Settings, port: u16, command: &str| {
            let spam = new.milter.get_mut("spam").unwrap();
            spam.command = vec![command.to_owned()];
            spam.socket = Some(format!("inet:{port}@127.0.0.1").parse().unwrap());
        };
        let (mut old, mut moved, mut other) = (settings(), settings(), settings());
        at(&mut old, 7001, "spam");
        at(&mut moved, 7002, "spam");
        at(&mut other, 7001, "other");
        let fate = |new: &Settings| {
            let (old, new) = (draw(&old).unwrap(), draw(new).unwrap());
            let old: Vec<_> = old.milters.iter().map(MilterPlan::shape).collect();
            let new: Vec<_> = new.milters.iter().map(MilterPlan::shape).collect();
            fates(&old, &new)
                .into_iter()
                .find(|(name, _)| name == "spam")
                .unwrap()
                .1
        };
        assert_eq!(fate(&old), Fate::Keeps);
        assert_eq!(fate(&moved), Fate::Beside);
        assert_eq!(fate(&other), Fate::InPlace);
    }

    #[test]
    fn milters_come_and_go_with_the_chains_that_name_them() {
        check(
            |new| {
                let added = new.milter["dkim"].clone();
                new.milter.insert("added".to_owned(), added);
                for route in &mut new.route {
                    route.chain = names(&["added"]);
                }
            },
            &[
                ("added", Fate::Starts),
                ("dkim", Fate::Ends),
                ("legacy", Fate::Ends),
                ("spam", Fate::Ends),
            ],
        );
    }

    #[test]
    fn listeners_come_go_move_and_grow() {
        let old = settings();
        let mut new = settings();
        let first = new.listen.keys().next().unwrap().clone();
        let mut added = new.listen[&first].clone();
        added.socket = Address::Unix("/new.sock".into());
        new.listen.insert("zzz".to_owned(), added);
        assert!(entries(&old, &new).contains(&("zzz".to_owned(), Entry::Opens)));
        assert!(entries(&new, &old).contains(&("zzz".to_owned(), Entry::Closes)));
        let mut moved = new.clone();
        moved.listen.get_mut("zzz").unwrap().socket = Address::Unix("/newer.sock".into());
        assert!(entries(&new, &moved).contains(&("zzz".to_owned(), Entry::Moves)));
        let mut grown = new.clone();
        grown.listen.get_mut("zzz").unwrap().max_connections += 1;
        assert!(entries(&new, &grown).contains(&("zzz".to_owned(), Entry::Resizes)));
    }

    #[test]
    fn what_cannot_change_is_named_and_stays() {
        let old = settings();
        let mut new = settings();
        new.control.socket = Address::Unix("/elsewhere.sock".into());
        new.supervisor.hang_timeout = Seconds::from_secs(99);
        new.supervisor.handover_timeout = Seconds::from_secs(99);
        let listen = new.listen.values_mut().next().unwrap();
        listen.mode = FileMode::from_bits(0o600);
        let (counts, waiting) = merge(&old, new);
        assert_eq!(waiting.len(), 3, "{waiting:?}");
        assert!(waiting.iter().all(|what| what.ends_with("after a restart")));
        assert_eq!(counts.control, old.control);
        assert_eq!(counts.listen, old.listen);
        assert_eq!(counts.supervisor.handover_timeout, Seconds::from_secs(99));
    }
}
