//! Conditions as written, turned into such as can be asked. Lists are read here, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use milter_proto::daemon::ConfigError;

use super::{Mistakes, did_you_mean};
use crate::config::{Inner, Match, Names, Number, Settings};
use crate::route::clock::Window;
use crate::route::{Bounds, Condition, Kind, List, Said, Set, Test};

/// Makes conditions; each list is read once.
pub(super) struct Conditions<'a> {
    settings: &'a Settings,
    /// By path and kind; none for one that cannot be read, which is told once.
    lists: BTreeMap<(PathBuf, &'static str), Option<Arc<List>>>,
}

/// Whose condition it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Route,
    Milter,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            lists: BTreeMap::new(),
        }
    }

    /// That of a route, at `path`.
    pub(super) fn of_route(
        &mut self,
        path: &str,
        given: &Match,
        mistakes: &mut Mistakes,
    ) -> Condition {
        self.build(path, given, Owner::Route, mistakes)
    }

    /// That of a milter in the section `path`: `match` without `unless`.
    pub(super) fn of_milter(
        &mut self,
        path: &str,
        given: Option<&Inner>,
        unless: Option<&Inner>,
        mistakes: &mut Mistakes,
    ) -> Condition {
        let mut parts = Vec::new();
        if let Some(Inner(given)) = given {
            parts.push(self.build(&format!("{path}.match"), given, Owner::Milter, mistakes));
        }
        if let Some(Inner(unless)) = unless {
            let path = format!("{path}.unless");
            Self::check_not_empty(&path, unless, mistakes);
            let unless = self.build(&path, unless, Owner::Milter, mistakes);
            parts.push(Condition::Not(Box::new(unless)));
        }
        Condition::All(parts)
    }

    fn build(
        &mut self,
        path: &str,
        given: &Match,
        owner: Owner,
        mistakes: &mut Mistakes,
    ) -> Condition {
        let mut parts = Vec::new();
        self.check_listeners(path, given, mistakes);
        if !given.listen.0.is_empty() {
            parts.push(is(Test::Listen(given.listen.0.clone())));
        }
        self.add_sets(path, given, &mut parts, mistakes);
        for (wanted, test) in [
            (given.authenticated, Test::Authenticated),
            (given.tls, Test::Tls),
        ] {
            match wanted {
                Some(true) => parts.push(is(test)),
                Some(false) => parts.push(Condition::Not(Box::new(is(test)))),
                None => {}
            }
        }
        add_numbers(path, given, &mut parts, mistakes);
        add_times(path, &given.time, &mut parts, mistakes);
        self.add_verdicts(path, given, owner, &mut parts, mistakes);
        self.add_inner(path, given, owner, &mut parts, mistakes);
        Condition::All(parts)
    }

    fn check_listeners(&self, path: &str, given: &Match, mistakes: &mut Mistakes) {
        for name in &given.listen.0 {
            if !self.settings.listen.contains_key(name) {
                let message = format!("there is no listener {name:?}");
                let known = self.settings.listen.keys().map(String::as_str);
                let mistake = ConfigError::at(format!("{path}.listen"), message);
                mistakes.note(mistake.help(did_you_mean(name, known)));
            }
        }
    }

    /// What is looked up among entries.
    fn add_sets(
        &mut self,
        path: &str,
        given: &Match,
        parts: &mut Vec<Condition>,
        mistakes: &mut Mistakes,
    ) {
        type Make = fn(Set) -> Test;
        let keys: [(&str, &Names, Kind, Make); 6] = [
            ("client", &given.client, Kind::Network, Test::Client),
            ("host", &given.host, Kind::Host, Test::Host),
            ("login", &given.login, Kind::Text, Test::Login),
            ("helo", &given.helo, Kind::Host, Test::Helo),
            ("sender", &given.sender, Kind::Mailbox, Test::Sender),
            (
                "recipient",
                &given.recipient,
                Kind::Mailbox,
                Test::Recipient,
            ),
        ];
        for (key, names, kind, make) in keys {
            if !names.0.is_empty() {
                let set = self.set(&format!("{path}.{key}"), names, kind, mistakes);
                parts.push(is(make(set)));
            }
        }
        for (written, names) in &given.macros {
            let path = format!("{path}.macro.{written}");
            let name = written.trim_start_matches('{').trim_end_matches('}');
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(legal) {
                let mistake = ConfigError::at(&*path, format!("{written:?} is no macro"));
                mistakes.note(mistake.help("write its name alone, as in cipher_bits or auth_type"));
            }
            if names.0.is_empty() {
                let mistake = ConfigError::at(&*path, "no value matches an empty list");
                mistakes.note(mistake.help("write \"*\" for any value"));
            }
            let set = self.set(&path, names, Kind::Text, mistakes);
            parts.push(is(Test::Macro(name.to_owned(), set)));
        }
    }

    fn set(&mut self, path: &str, names: &Names, kind: Kind, mistakes: &mut Mistakes) -> Set {
        let mut set = Set {
            written: names.0.clone(),
            ..Set::default()
        };
        for written in &names.0 {
            if written.starts_with('/') {
                set.lists.extend(self.list(path, written, kind, mistakes));
            } else if let Err(error) = set.entries.add(kind, written) {
                mistakes.note(ConfigError::at(path, error.what).help(error.help));
            }
        }
        set
    }

    fn list(
        &mut self,
        path: &str,
        file: &str,
        kind: Kind,
        mistakes: &mut Mistakes,
    ) -> Option<Arc<List>> {
        let file = Path::new(file);
        let key = (file.to_owned(), kind.name());
        if let Some(known) = self.lists.get(&key) {
            return known.clone();
        }
        let list = List::read(file, kind).map_err(|error| {
            let message = format!("the list cannot be read: {error}");
            ConfigError::at(path, message)
                .help("name a file that the user we run as can read, with one value a line")
        });
        let list = mistakes.keep(list).map(Arc::new);
        self.lists.insert(key, list.clone());
        list
    }

    fn add_verdicts(
        &self,
        path: &str,
        given: &Match,
        owner: Owner,
        parts: &mut Vec<Condition>,
        mistakes: &mut Mistakes,
    ) {
        if owner == Owner::Route && !given.verdict.is_empty() {
            let message = "a route is chosen before any filter has said anything";
            let mistake = ConfigError::at(format!("{path}.verdict"), message);
            mistakes.note(mistake.help("write it into the match of a [milter.NAME]"));
            return;
        }
        for (milter, names) in &given.verdict {
            let path = format!("{path}.verdict.{milter}");
            let mut words = Vec::new();
            for name in &names.0 {
                words.extend(mistakes.keep(Said::from_str(name).map_err(|error| {
                    let known = Said::WORDS.iter().map(|(word, _)| *word);
                    ConfigError::at(&*path, error.to_string()).help(did_you_mean(name, known))
                })));
            }
            match self.settings.milter.get(milter) {
                None => {
                    let known = self.settings.milter.keys().map(String::as_str);
                    let message = format!("there is no milter {milter:?}");
                    let mistake = ConfigError::at(path, message);
                    mistakes.note(mistake.help(did_you_mean(milter, known)));
                }
                Some(asked) if asked.shadow => {
                    let message = format!("{milter} is a shadow, and nothing hangs on its word");
                    let mistake = ConfigError::at(path, message);
                    mistakes.note(mistake.help("ask another filter, or take shadow from it"));
                }
                Some(_) => {}
            }
            parts.push(is(Test::Verdict(milter.clone(), words)));
        }
    }

    fn add_inner(
        &mut self,
        path: &str,
        given: &Match,
        owner: Owner,
        parts: &mut Vec<Condition>,
        mistakes: &mut Mistakes,
    ) {
        let mut built = |path: String, Inner(inner): &Inner, mistakes: &mut Mistakes| {
            Self::check_not_empty(&path, inner, mistakes);
            self.build(&path, inner, owner, mistakes)
        };
        for (number, inner) in given.all.iter().enumerate() {
            parts.push(built(format!("{path}.all.{number}"), inner, mistakes));
        }
        let any = given.any.iter().enumerate();
        let any: Vec<Condition> = any
            .map(|(number, inner)| built(format!("{path}.any.{number}"), inner, mistakes))
            .collect();
        if !any.is_empty() {
            parts.push(Condition::Any(any));
        }
        if let Some(inner) = &given.not {
            let inner = built(format!("{path}.not"), inner, mistakes);
            parts.push(Condition::Not(Box::new(inner)));
        }
    }

    fn check_not_empty(path: &str, given: &Match, mistakes: &mut Mistakes) {
        if *given == Match::default() {
            let mistake = ConfigError::at(path, "an empty condition holds always");
            mistakes.note(mistake.help("write into it what must hold, or leave it out"));
        }
    }
}

fn is(test: Test) -> Condition {
    Condition::Is(Arc::new(test))
}

fn add_numbers(path: &str, given: &Match, parts: &mut Vec<Condition>, mistakes: &mut Mistakes) {
    type Make = fn(Bounds) -> Test;
    let keys: [(&str, &Option<Number>, Make, &str); 2] = [
        (
            "size",
            &given.size,
            Test::Size,
            "write \">=10MB\" or \"<64KB\", say",
        ),
        ("load", &given.load, Test::Load, "write \">=200\", say"),
    ];
    for (key, number, make, help) in keys {
        let Some(Number(written)) = number else {
            continue;
        };
        let bounds = Bounds::from_str(written).map_err(|error| {
            ConfigError::at(format!("{path}.{key}"), error.to_string()).help(help)
        });
        parts.extend(mistakes.keep(bounds).map(|bounds| is(make(bounds))));
    }
}

fn add_times(path: &str, given: &Names, parts: &mut Vec<Condition>, mistakes: &mut Mistakes) {
    if given.0.is_empty() {
        return;
    }
    let mut windows = Vec::new();
    for written in &given.0 {
        windows.extend(mistakes.keep(Window::from_str(written).map_err(|error| {
            ConfigError::at(format!("{path}.time"), error.to_string())
                .help("write \"22:00-06:00\", \"mon-fri 08:00-18:00\" or \"sat,sun\"")
        })));
    }
    parts.push(is(Test::Time(windows)));
}
