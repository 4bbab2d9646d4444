//! What must hold of `[milter.NAME]`, and what it becomes. No command is run here, no socket
//! opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use milter_proto::daemon::ConfigError;
use milter_proto::net::Address;

use super::conditions::Conditions;
use super::{Known, Mistakes, check_name, children};
use crate::config::{self, Settings};
use crate::member::{Member, Timeouts};

/// Connections that a `pool` holds at most: half of what a filter of ours takes by default.
const POOL_MAX: u32 = 256;

/// Members of chains by their names: all that are written, so that a mistake in one is told once.
pub(super) fn members(
    settings: &Settings,
    known: &Known,
    conditions: &mut Conditions<'_>,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, Arc<Member>> {
    let mut members = BTreeMap::new();
    for (name, milter) in &settings.milter {
        let section = format!("milter.{name}");
        mistakes.keep(check_name(&section, name));
        check(&section, milter, mistakes);
        let running = known.get(name);
        let address = match (running, &milter.socket) {
            (Some(running), _) => Some(running.address.clone()),
            (None, Some(address)) => Some(address.clone()),
            (None, None) => mistakes.keep(private_socket(settings, name)),
        };
        let (given, unless) = (milter.condition.as_ref(), milter.unless.as_ref());
        let member = Member {
            name: name.clone(),
            condition: conditions.of_milter(&section, given, unless, mistakes),
            address: address.unwrap_or_else(|| Address::Unix(name.into())),
            on_failure: milter.on_failure,
            timeouts: Timeouts {
                connect: milter.connect_timeout.get(),
                command: milter.command_timeout.get(),
                end_of_message: milter.end_of_message_timeout.get(),
            },
            shadow: milter.shadow,
            pool: usize::try_from(milter.pool).unwrap_or(usize::MAX),
            health: running.map_or_else(Arc::default, |running| Arc::clone(&running.health)),
        };
        members.insert(name.clone(), Arc::new(member));
    }
    check_addresses(settings, &members, mistakes);
    check_cycles(&members, mistakes);
    members
}

/// Nobody can wait for the word of somebody who waits for his.
fn check_cycles(members: &BTreeMap<String, Arc<Member>>, mistakes: &mut Mistakes) {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for name in members.keys() {
        if told.contains(name.as_str()) {
            continue;
        }
        if let Some(circle) = circle(name, members) {
            let message = format!(
                "a circle: {name} asks for the word of {}",
                circle.join(", which asks for that of ")
            );
            let mistake = ConfigError::at(format!("milter.{name}"), message);
            mistakes.note(mistake.help("take one of these verdicts out of its match or unless"));
            told.extend(circle);
        }
    }
}

/// Who is asked, one after the other, until it is `name` itself again.
fn circle<'a>(name: &str, members: &'a BTreeMap<String, Arc<Member>>) -> Option<Vec<&'a str>> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut ways: Vec<Vec<&'a str>> = vec![Vec::new()];
    while let Some(way) = ways.pop() {
        let last = way.last().copied().unwrap_or(name);
        let asked = members
            .get(last)
            .into_iter()
            .flat_map(|one| one.condition.asks_for());
        for next in asked {
            let mut longer = way.clone();
            longer.push(next);
            if next == name {
                return Some(longer);
            }
            if seen.insert(next) {
                ways.push(longer);
            }
        }
    }
    None
}

fn check(section: &str, milter: &config::Milter, mistakes: &mut Mistakes) {
    let at = |key: &str, message: &str| ConfigError::at(format!("{section}.{key}"), message);
    if milter.command.is_empty() && milter.socket.is_none() && !milter.binds_itself {
        mistakes.note(
            ConfigError::at(section, "it has neither a command nor a socket").help(
                "write command = [\"milter-x\", \"--config\", \"…\"] for a filter to run, or \
                 socket = \"inet:port@host\" for one that runs elsewhere",
            ),
        );
    }
    if matches!(milter.socket, Some(Address::Inet { port: 0, .. })) {
        let mistake = at("socket", "port 0 is nowhere");
        mistakes.note(mistake.help("write the port that it is found at"));
    }
    if milter.command.first().is_some_and(String::is_empty) {
        let mistake = at("command", "the program has no name");
        mistakes.note(mistake.help("write its path first, then its arguments"));
    }
    if milter.command.iter().any(|word| word.contains('\0')) {
        mistakes.note(at("command", "an argument holds a NUL"));
    }
    mistakes.keep(
        check_binding(milter).map_err(|(message, help)| at("binds_itself", message).help(help)),
    );
    mistakes.keep(check_pool(milter).map_err(|(message, help)| at("pool", &message).help(help)));
    children::check(section, milter, mistakes);
    for name in milter.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            let mistake = at("environment", &format!("{name:?} cannot be a variable"));
            mistakes.note(mistake.help("write NAME = \"value\""));
        }
    }
    for (key, value) in [
        ("connect_timeout", milter.connect_timeout),
        ("command_timeout", milter.command_timeout),
        ("end_of_message_timeout", milter.end_of_message_timeout),
        ("start_timeout", milter.start_timeout),
    ] {
        if value.get().is_zero() {
            mistakes.note(at(key, "there must be some time").help("write \"5s\", say"));
        }
    }
}

/// What is wrong with who binds the socket, and what to write.
fn check_binding(milter: &config::Milter) -> Result<(), (&'static str, &'static str)> {
    match (
        milter.binds_itself,
        milter.command.is_empty(),
        &milter.socket,
    ) {
        (true, true, _) => Err((
            "there is no command that could bind its socket",
            "leave it out: a milter without a command is somebody else's",
        )),
        (true, false, None) => Err((
            "where it binds its socket is not said",
            "add socket = \"unix:/path\", the one that the command is told",
        )),
        _ => Ok(()),
    }
}

/// What is wrong with the connections that are to be kept, and what to write.
fn check_pool(milter: &config::Milter) -> Result<(), (String, String)> {
    if milter.pool > POOL_MAX {
        let message = format!(
            "{} connections are more than a filter has to spare",
            milter.pool
        );
        return Err((message, format!("write a number up to {POOL_MAX}")));
    }
    // Its answers may be behind the messages of a client by minutes, and those of the next client
    // would come on top.
    if milter.pool > 0 && milter.shadow {
        let message = "the filter is a shadow, and nobody waits for the answers of one: its \
            connection cannot be kept for the next client";
        let help = "leave pool out, or shadow = true";
        return Err((message.to_owned(), help.to_owned()));
    }
    Ok(())
}

/// The socket that is made for a command.
fn private_socket(settings: &Settings, name: &str) -> Result<Address, ConfigError> {
    let path = settings.supervisor.directory.join(format!("{name}.sock"));
    format!("unix:{}", path.display())
        .parse()
        .map_err(|error| ConfigError::at("supervisor.directory", format!("{error}")))
}

/// No two milters in one place, and none where we listen ourselves.
fn check_addresses(
    settings: &Settings,
    members: &BTreeMap<String, Arc<Member>>,
    mistakes: &mut Mistakes,
) {
    let mut taken: BTreeMap<String, String> = settings
        .listen
        .iter()
        .map(|(name, listen)| (listen.socket.to_string(), format!("[listen.{name}]")))
        .collect();
    for (name, member) in members {
        let owner = format!("[milter.{name}]");
        if let Some(other) = taken.insert(member.address.to_string(), owner) {
            let message = format!("{} is the socket of {other} already", member.address);
            let mistake = ConfigError::at(format!("milter.{name}.socket"), message);
            mistakes.note(mistake.help("give each a socket of its own"));
        }
    }
}
