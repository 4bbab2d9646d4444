//! What is legal and still odd.

use std::collections::BTreeSet;

use milter_proto::daemon::ConfigError;

use super::children;
use super::reach::possible;
use crate::config::Settings;
use crate::route::{Condition, Route};

/// Everything odd, with the path of its key.
pub(super) fn warnings(settings: &Settings, routes: &[Route]) -> Vec<ConfigError> {
    let mut warnings = unused(settings, routes);
    warnings.extend(children::warnings(settings));
    let listeners: Vec<&str> = settings.listen.keys().map(String::as_str).collect();
    let anywhere = |wanted: &[(&Condition, bool)]| {
        let mut listeners = listeners.iter();
        listeners.any(|listen| possible(listen, wanted))
    };
    for (number, route) in routes.iter().enumerate() {
        let before = routes.get(..number).unwrap_or_default();
        if let Some(why) = never(route, before, anywhere) {
            let name = &route.chain.name;
            let message = format!("route {name:?} never matches: {why}");
            let odd = ConfigError::at(format!("route.{number}"), message);
            warnings.push(odd.help("change its match, put it before the others, or take it out"));
        }
    }
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for member in routes.iter().flat_map(|route| route.chain.members()) {
        if told.insert(&member.name) && !anywhere(&[(&member.condition, true)]) {
            let message = format!(
                "{} never sees a message: its match cannot hold",
                member.name
            );
            let odd = ConfigError::at(format!("milter.{}", member.name), message);
            warnings.push(odd.help("change its match or its unless"));
        }
    }
    let none: Vec<(&Condition, bool)> = routes.iter().map(|one| (&one.condition, false)).collect();
    for listen in listeners.iter().filter(|listen| possible(listen, &none)) {
        let message = format!(
            "no route takes everything from [listen.{listen}]: mail that no route matches is \
             refused for now"
        );
        let odd = ConfigError::at(format!("listen.{listen}"), message);
        warnings.push(odd.help("write a last [[route]] without match, unless that is meant"));
    }
    warnings
}

fn unused(settings: &Settings, routes: &[Route]) -> Vec<ConfigError> {
    let used: BTreeSet<&str> = routes
        .iter()
        .flat_map(|route| route.chain.members())
        .map(|member| member.name.as_str())
        .collect();
    let names = settings.milter.keys();
    names
        .filter(|name| !used.contains(name.as_str()))
        .map(|name| {
            let message =
                format!("[milter.{name}] is in no chain; it is neither started nor connected to");
            let odd = ConfigError::at(format!("milter.{name}"), message);
            odd.help("write its name into the chain of a route, or take the section out")
        })
        .collect()
}

/// Why nothing can come to a route, if that is so.
fn never(
    route: &Route,
    before: &[Route],
    anywhere: impl Fn(&[(&Condition, bool)]) -> bool,
) -> Option<String> {
    let own = (&route.condition, true);
    let mut wanted: Vec<(&Condition, bool)> = before
        .iter()
        .map(|earlier| (&earlier.condition, false))
        .collect();
    wanted.push(own);
    if anywhere(&wanted) {
        return None;
    }
    if !anywhere(&[own]) {
        return Some("its conditions contradict each other".to_owned());
    }
    let mut taker = before
        .iter()
        .filter(|earlier| !anywhere(&[(&earlier.condition, false), own]));
    Some(match taker.next() {
        Some(earlier) => {
            format!(
                "route {:?} before it takes everything from there",
                earlier.chain.name
            )
        }
        None => "the routes before it take everything from there together".to_owned(),
    })
}
