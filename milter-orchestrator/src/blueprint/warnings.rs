//! What is legal and still odd.

use std::collections::BTreeMap;

use milter_proto::daemon::ConfigError;

use crate::config::Settings;
use crate::route::Route;

/// Everything odd, with the path of its key.
pub(super) fn warnings(settings: &Settings, routes: &[Route]) -> Vec<ConfigError> {
    let mut warnings = Vec::new();
    let used = |name: &str| {
        routes
            .iter()
            .flat_map(|route| route.chain.members())
            .any(|member| member.name == name)
    };
    for name in settings.milter.keys().filter(|name| !used(name)) {
        let message =
            format!("[milter.{name}] is in no chain; it is neither started nor connected to");
        warnings.push(ConfigError::at(format!("milter.{name}"), message));
    }
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (number, route) in routes.iter().enumerate() {
        let name = &*route.chain.name;
        let listeners = settings.listen.keys().map(String::as_str);
        let wanted: Vec<&str> = listeners
            .filter(|listen| {
                let any = route.condition.listen.is_empty();
                any || route.condition.listen.iter().any(|name| name == listen)
            })
            .collect();
        if let Some(by) = wanted
            .iter()
            .map(|listen| taken.get(listen))
            .collect::<Option<Vec<_>>>()
        {
            let by = by.first().map_or("", |by| by);
            let message = format!(
                "route {name:?} never matches: route {by:?} before it takes everything from there"
            );
            warnings.push(ConfigError::at(format!("route.{number}"), message));
        }
        if route.condition.authenticated.is_none() && route.condition.client.is_empty() {
            for listen in wanted {
                taken.entry(listen).or_insert(name);
            }
        }
    }
    for listen in settings.listen.keys() {
        if !taken.contains_key(listen.as_str()) {
            let message = format!(
                "no route takes everything from [listen.{listen}]: mail that no route matches is \
                 refused for now"
            );
            warnings.push(ConfigError::at(format!("listen.{listen}"), message));
        }
    }
    warnings
}
