//! What must hold of `[[route]]`, and what it becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use milter_proto::daemon::ConfigError;

use super::conditions::Conditions;
use super::{Mistakes, check_name, did_you_mean};
use crate::config::{self, Names, Settings};
use crate::member::{Chain, Member};
use crate::route::Route;

/// Routes in their order.
pub(super) fn routes(
    settings: &Settings,
    members: &BTreeMap<String, Arc<Member>>,
    conditions: &mut Conditions<'_>,
    mistakes: &mut Mistakes,
) -> Vec<Route> {
    if settings.route.is_empty() {
        mistakes.note(
            ConfigError::at("", "there is no [[route]] section")
                .help("write [[route]] with chain = [\"…\"], the names of milters"),
        );
    }
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut routes = Vec::new();
    for (number, route) in settings.route.iter().enumerate() {
        let section = format!("route.{number}");
        let unnamed = || format!("route-{}", number + 1);
        let name = route.name.clone().unwrap_or_else(unnamed);
        mistakes.keep(check_name(&format!("{section}.name"), &name));
        if !names.insert(name.clone()) {
            let message = format!("there is a route {name:?} already");
            let mistake = ConfigError::at(format!("{section}.name"), message);
            mistakes.note(mistake.help("give each route a name of its own"));
        }
        let at = format!("{section}.match");
        let condition = conditions.of_route(&at, &route.condition, mistakes);
        let segments = segments(&section, route, members, mistakes);
        check_order(&section, &segments, mistakes);
        routes.push(Route {
            condition,
            chain: Arc::new(Chain {
                name,
                segments,
                strict: route.strict,
            }),
        });
    }
    routes
}

fn segments(
    section: &str,
    route: &config::Route,
    members: &BTreeMap<String, Arc<Member>>,
    mistakes: &mut Mistakes,
) -> Vec<Vec<Arc<Member>>> {
    let Some(chain) = &route.chain else {
        mistakes.note(ConfigError::at(section, "the route has no chain").help(
            "write chain = [\"…\"], the names of milters; chain = [] lets mail pass unfiltered",
        ));
        return Vec::new();
    };
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut segments = Vec::new();
    for (number, Names(names)) in chain.iter().enumerate() {
        let at = format!("{section}.chain.{number}");
        if route.strict && names.len() > 1 {
            mistakes.note(
                ConfigError::at(&*at, "a strict route runs nothing in parallel")
                    .help("take the names out of the inner list, or leave strict away"),
            );
        }
        if names.is_empty() {
            mistakes.note(
                ConfigError::at(&*at, "an empty list in a chain runs nothing")
                    .help("leave it out, or write names into it"),
            );
        }
        let mut segment = Vec::new();
        for name in names {
            let Some(member) = members.get(name) else {
                let known = members.keys().map(String::as_str);
                let mistake = ConfigError::at(&*at, format!("there is no milter {name:?}"));
                mistakes.note(mistake.help(did_you_mean(name, known)));
                continue;
            };
            if !seen.insert(name) {
                let message = format!("{name:?} is in this chain already");
                let mistake = ConfigError::at(&*at, message);
                mistakes.note(mistake.help("name each milter once in a chain"));
                continue;
            }
            segment.push(Arc::clone(member));
        }
        segments.push(segment);
    }
    segments
}

/// A filter that asks what another one said must run after it.
fn check_order(section: &str, segments: &[Vec<Arc<Member>>], mistakes: &mut Mistakes) {
    let place = |name: &str| {
        let here = |group: &Vec<Arc<Member>>| group.iter().any(|member| member.name == name);
        segments.iter().position(here)
    };
    for (number, group) in segments.iter().enumerate() {
        for member in group {
            for asked in member.condition.asks_for() {
                if place(asked).is_some_and(|before| before >= number) {
                    let message = format!(
                        "{} asks what {asked} said, which does not run before it here",
                        member.name
                    );
                    let mistake = ConfigError::at(format!("{section}.chain.{number}"), message);
                    mistakes.note(mistake.help(format!(
                        "write {asked:?} before {:?}, not in one inner list with it",
                        member.name
                    )));
                }
            }
        }
    }
}
