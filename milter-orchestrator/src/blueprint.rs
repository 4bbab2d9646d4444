//! What the configuration means: listeners, milters and routes, valid by construction.
//!
//! Every mistake that the types cannot see is found here, with the path of its key and what to
//! write instead; nothing is opened, bound or started. What is legal and still odd becomes a
//! warning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use milter_proto::daemon::ConfigError;
use milter_proto::daemon::config::nearest;
use milter_proto::net::Address;

use crate::config::{self, Match, Names, Settings};
use crate::member::{Chain, Health, Member, Timeouts};
use crate::proxy::{HeaderLimits, Limits, SpoolBudget, SpoolLimits};
use crate::route::{Condition, Route, Routes};
use crate::supervisor::Pace;
use crate::supervisor::keeper::Plan;

/// Connections that a `pool` holds at most: half of what a filter of ours takes by default.
const POOL_MAX: u32 = 256;

/// Longest name of a listener, milter or route.
const NAME_MAX: usize = 32;

/// The running shape of a configuration.
#[derive(Debug)]
pub struct Blueprint {
    /// Which chain a message goes through.
    pub routes: Arc<Routes>,
    /// The milters that some chain names, by name.
    pub milters: Vec<MilterPlan>,
    /// Where `status` asks.
    pub control: PathBuf,
    /// Where sockets for commands are made.
    pub directory: PathBuf,
    /// How milters are looked after.
    pub pace: Pace,
    /// How much of everything a message may have.
    pub limits: Limits,
    /// What is legal and still odd, one sentence each.
    pub warnings: Vec<String>,
}

/// One milter and how to get it.
#[derive(Debug)]
pub struct MilterPlan {
    /// The milter as chains see it.
    pub member: Arc<Member>,
    /// Whose it is.
    pub source: Source,
}

/// Whose a milter is.
#[derive(Debug)]
pub enum Source {
    /// Ours to start; its socket is bound here and handed over.
    HandOver(Plan),
    /// Ours to start; it binds its socket.
    BindsItself(Plan),
    /// Somebody else's.
    Foreign,
}

/// What is known already of milters by their name.
pub type Known = BTreeMap<String, Arc<Health>>;

/// Turns settings into a blueprint of milters of which nothing is known yet.
///
/// # Errors
/// The first mistake, with the dotted path of its key.
pub fn draw(settings: &Settings) -> Result<Blueprint, ConfigError> {
    redraw(settings, &Known::new())
}

/// Turns settings into a blueprint in which known milters keep their health and counters.
///
/// # Errors
/// The first mistake, with the dotted path of its key.
pub fn redraw(settings: &Settings, known: &Known) -> Result<Blueprint, ConfigError> {
    check_listeners(settings)?;
    let members = members(settings, known)?;
    let routes = routes(settings, &members)?;
    let control = settings.control.socket.path().ok_or_else(|| {
        ConfigError::at(
            "control.socket",
            "the control socket cannot be reached over a network",
        )
        .help("write unix:/path")
    })?;
    let warnings = warnings(settings, &routes);
    let used: BTreeSet<&str> = routes
        .iter()
        .flat_map(|route| route.chain.members())
        .map(|member| &*member.name)
        .collect();
    let milters = settings
        .milter
        .iter()
        .filter(|(name, _)| used.contains(name.as_str()))
        .filter_map(|(name, milter)| {
            let member = Arc::clone(members.get(name)?);
            let source = source(milter);
            Some(MilterPlan { member, source })
        })
        .collect();
    Ok(Blueprint {
        milters,
        routes: Arc::new(Routes { routes }),
        control: control.to_owned(),
        directory: settings.supervisor.directory.clone(),
        pace: pace(&settings.supervisor)?,
        limits: Limits {
            sendmail_headers: sendmail_headers(&settings.sendmail.headers)?,
            ..limits(&settings.limits)?
        },
        warnings,
    })
}

fn pace(supervisor: &config::Supervisor) -> Result<Pace, ConfigError> {
    for (key, value) in [
        ("probe_interval", supervisor.probe_interval),
        ("probe_timeout", supervisor.probe_timeout),
        ("hang_timeout", supervisor.hang_timeout),
    ] {
        if value.get().is_zero() {
            let path = format!("supervisor.{key}");
            return Err(ConfigError::at(path, "there must be some time").help("write \"2s\", say"));
        }
    }
    let probe_interval = supervisor.probe_interval.get();
    Ok(Pace {
        probe_interval,
        probe_timeout: supervisor.probe_timeout.get(),
        starting_interval: (probe_interval / 20).min(std::time::Duration::from_millis(100)),
        hang_timeout: supervisor.hang_timeout.get(),
    })
}

fn limits(limits: &config::Limits) -> Result<Limits, ConfigError> {
    for (key, number, example) in [
        ("header_fields", u64::from(limits.header_fields), "4096"),
        ("header_size", limits.header_size.get(), "\"2MB\""),
        ("body_size", limits.body_size.get(), "\"1GB\""),
    ] {
        if number == 0 {
            let path = format!("limits.{key}");
            return Err(ConfigError::at(path, "no message at all would pass")
                .help(format!("write {example}, say")));
        }
    }
    for (key, time, example) in [
        ("stall_timeout", limits.stall_timeout, "\"1m\""),
        ("finish_timeout", limits.finish_timeout, "\"4m\""),
    ] {
        if time.get().is_zero() {
            let path = format!("limits.{key}");
            return Err(ConfigError::at(path, "in no time nothing can be done")
                .help(format!("write {example}, say")));
        }
    }
    if !limits.spool_directory.is_dir() {
        let message = format!("{} is no directory", limits.spool_directory.display());
        return Err(ConfigError::at("limits.spool_directory", message)
            .help("name one that the user we run as can write into"));
    }
    Ok(Limits {
        stall: limits.stall_timeout.get(),
        end_of_message: limits.finish_timeout.get(),
        header: HeaderLimits {
            fields: usize::try_from(limits.header_fields).unwrap_or(usize::MAX),
            bytes: limits.header_size.as_len(),
        },
        spool: Arc::new(SpoolLimits {
            memory: limits.spool_memory.as_len(),
            budget: Arc::new(SpoolBudget::new(limits.spool_memory_shared.as_len())),
            total: limits.body_size.get(),
            directory: limits.spool_directory.clone(),
        }),
        ..Limits::default()
    })
}

/// Nobody knows what Sendmail makes of fewer or more of its own fields.
fn sendmail_headers(names: &[String]) -> Result<Arc<[Bytes]>, ConfigError> {
    let path = "sendmail.headers";
    let received = names
        .iter()
        .filter(|name| name.eq_ignore_ascii_case("Received"));
    if received.count() != 1 {
        return Err(ConfigError::at(path, "Sendmail writes Received once").help(
            "write the names of the lines of sendmail.cf that begin with H, in their order",
        ));
    }
    let is_name = |name: &String| {
        let is_legal = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_legal)
    };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(
            ConfigError::at(path, format!("{name:?} is no name of a header field"))
                .help("write the name alone, without flags and colon"),
        );
    }
    Ok(names
        .iter()
        .map(|name| Bytes::copy_from_slice(name.as_bytes()))
        .collect())
}

fn check_listeners(settings: &Settings) -> Result<(), ConfigError> {
    if settings.listen.is_empty() {
        return Err(ConfigError::at("", "there is no [listen.NAME] section")
            .help("write [listen.inbound] with socket = \"inet:10025@127.0.0.1\""));
    }
    let mut sockets: BTreeMap<String, &str> = BTreeMap::new();
    for (name, listen) in &settings.listen {
        let section = format!("listen.{name}");
        check_name(&section, name)?;
        let address = &listen.socket;
        if listen.max_connections == 0 {
            return Err(ConfigError::at(
                format!("{section}.max_connections"),
                "no connection at all is allowed",
            )
            .help("write 512, say"));
        }
        let free = matches!(address, Address::Inet { port: 0, .. });
        if let Some(other) = sockets.insert(address.to_string(), name).filter(|_| !free) {
            return Err(ConfigError::at(
                format!("{section}.socket"),
                format!("{address} is the socket of [listen.{other}] already"),
            )
            .help("give each listener a socket of its own"));
        }
    }
    Ok(())
}

/// Names end up in socket paths, in logs and in dotted paths.
fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    let legal = (1..=NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if legal {
        return Ok(());
    }
    Err(
        ConfigError::at(path, format!("{name:?} cannot be a name")).help(format!(
            "use letters, digits, - and _, at most {NAME_MAX} of them"
        )),
    )
}

fn members(
    settings: &Settings,
    known: &Known,
) -> Result<BTreeMap<String, Arc<Member>>, ConfigError> {
    let mut members = BTreeMap::new();
    for (name, milter) in &settings.milter {
        let section = format!("milter.{name}");
        check_name(&section, name)?;
        check_milter(&section, milter)?;
        let address = match &milter.socket {
            Some(address) => address.clone(),
            None => private_socket(settings, name)?,
        };
        let member = Member {
            name: name.clone(),
            address,
            on_failure: milter.on_failure,
            timeouts: Timeouts {
                connect: milter.connect_timeout.get(),
                command: milter.command_timeout.get(),
                end_of_message: milter.end_of_message_timeout.get(),
            },
            shadow: milter.shadow,
            pool: usize::try_from(milter.pool).unwrap_or(usize::MAX),
            health: known.get(name).cloned().unwrap_or_default(),
        };
        members.insert(name.clone(), Arc::new(member));
    }
    check_addresses(settings, &members)?;
    Ok(members)
}

fn check_milter(section: &str, milter: &config::Milter) -> Result<(), ConfigError> {
    let at = |key: &str, message: &str| ConfigError::at(format!("{section}.{key}"), message);
    if milter.command.is_empty() && milter.socket.is_none() {
        return Err(
            ConfigError::at(section, "it has neither a command nor a socket").help(
                "write command = [\"milter-x\", \"--config\", \"…\"] for a filter to run, or \
                 socket = \"inet:port@host\" for one that runs elsewhere",
            ),
        );
    }
    if matches!(milter.socket, Some(Address::Inet { port: 0, .. })) {
        return Err(at("socket", "port 0 is nowhere").help("write the port that it is found at"));
    }
    if milter.command.first().is_some_and(String::is_empty) {
        return Err(at("command", "the program has no name"));
    }
    if milter.command.iter().any(|word| word.contains('\0')) {
        return Err(at("command", "an argument holds a NUL"));
    }
    if milter.binds_itself && milter.socket.is_none() {
        return Err(at("binds_itself", "where it binds its socket is not said")
            .help("add socket = \"unix:/path\", the one that the command is told"));
    }
    if milter.binds_itself && milter.command.is_empty() {
        return Err(at(
            "binds_itself",
            "there is no command that could bind its socket",
        )
        .help("leave it out: a milter without a command is somebody else's"));
    }
    check_pool(milter).map_err(|(message, help)| at("pool", &message).help(help))?;
    for name in milter.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(at("environment", &format!("{name:?} cannot be a variable")));
        }
    }
    for (key, value) in [
        ("connect_timeout", milter.connect_timeout),
        ("command_timeout", milter.command_timeout),
        ("end_of_message_timeout", milter.end_of_message_timeout),
        ("start_timeout", milter.start_timeout),
    ] {
        if value.get().is_zero() {
            return Err(at(key, "there must be some time").help("write \"5s\", say"));
        }
    }
    Ok(())
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
) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<String, String> = settings
        .listen
        .iter()
        .map(|(name, listen)| (listen.socket.to_string(), format!("[listen.{name}]")))
        .collect();
    for (name, member) in members {
        let owner = format!("[milter.{name}]");
        if let Some(other) = taken.insert(member.address.to_string(), owner) {
            let message = format!("{} is the socket of {other} already", member.address);
            return Err(ConfigError::at(format!("milter.{name}.socket"), message));
        }
    }
    Ok(())
}

fn routes(
    settings: &Settings,
    members: &BTreeMap<String, Arc<Member>>,
) -> Result<Vec<Route>, ConfigError> {
    if settings.route.is_empty() {
        return Err(ConfigError::at("", "there is no [[route]] section")
            .help("write [[route]] with chain = [\"…\"], the names of milters"));
    }
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut routes = Vec::new();
    for (number, route) in settings.route.iter().enumerate() {
        let section = format!("route.{number}");
        let unnamed = || format!("route-{}", number + 1);
        let name = route.name.clone().unwrap_or_else(unnamed);
        check_name(&format!("{section}.name"), &name)?;
        if !names.insert(name.clone()) {
            let message = format!("there is a route {name:?} already");
            return Err(ConfigError::at(format!("{section}.name"), message)
                .help("give each route a name of its own"));
        }
        let condition = condition(&section, &route.condition, settings)?;
        let segments = segments(&section, route, members)?;
        routes.push(Route {
            condition,
            chain: Arc::new(Chain {
                name,
                segments,
                strict: route.strict,
            }),
        });
    }
    Ok(routes)
}

fn condition(section: &str, given: &Match, settings: &Settings) -> Result<Condition, ConfigError> {
    for name in &given.listen.0 {
        if !settings.listen.contains_key(name) {
            let message = format!("there is no listener {name:?}");
            let known = settings.listen.keys().map(String::as_str);
            return Err(ConfigError::at(format!("{section}.match.listen"), message)
                .help(did_you_mean(name, known)));
        }
    }
    let mut client = Vec::new();
    for text in &given.client.0 {
        client.push(network(text).ok_or_else(|| {
            let message = format!("{text:?} is neither a network nor an address");
            ConfigError::at(format!("{section}.match.client"), message)
                .help("write \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.1\"")
        })?);
    }
    Ok(Condition {
        listen: given.listen.0.clone(),
        authenticated: given.authenticated,
        client,
    })
}

/// A network, or one address as a network.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

fn segments(
    section: &str,
    route: &config::Route,
    members: &BTreeMap<String, Arc<Member>>,
) -> Result<Vec<Vec<Arc<Member>>>, ConfigError> {
    let Some(chain) = &route.chain else {
        return Err(ConfigError::at(section, "the route has no chain").help(
            "write chain = [\"…\"], the names of milters; chain = [] lets mail pass unfiltered",
        ));
    };
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut segments = Vec::new();
    for (number, Names(names)) in chain.iter().enumerate() {
        let at = format!("{section}.chain.{number}");
        if route.strict && names.len() > 1 {
            return Err(
                ConfigError::at(at, "a strict route runs nothing in parallel")
                    .help("take the names out of the inner list, or leave strict away"),
            );
        }
        if names.is_empty() {
            return Err(ConfigError::at(at, "an empty list in a chain runs nothing")
                .help("leave it out, or write names into it"));
        }
        let mut segment = Vec::new();
        for name in names {
            let member = members.get(name).ok_or_else(|| {
                let known = members.keys().map(String::as_str);
                ConfigError::at(at.clone(), format!("there is no milter {name:?}"))
                    .help(did_you_mean(name, known))
            })?;
            if !seen.insert(name) {
                let message = format!("{name:?} is in this chain already");
                return Err(ConfigError::at(at, message).help("name each milter once in a chain"));
            }
            segment.push(Arc::clone(member));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn did_you_mean<'a>(written: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = nearest(written, known.clone()) {
        return format!("did you mean {name:?}?");
    }
    let known: Vec<&str> = known.collect();
    if known.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    }
}

fn source(milter: &config::Milter) -> Source {
    if milter.command.is_empty() {
        return Source::Foreign;
    }
    let plan = Plan {
        command: milter.command.clone(),
        environment: milter.environment.clone(),
        directory: milter.directory.clone(),
        start_timeout: milter.start_timeout.get(),
        stop_timeout: milter.stop_timeout.get(),
    };
    if milter.binds_itself {
        Source::BindsItself(plan)
    } else {
        Source::HandOver(plan)
    }
}

fn warnings(settings: &Settings, routes: &[Route]) -> Vec<String> {
    let mut warnings = Vec::new();
    let used = |name: &str| {
        routes
            .iter()
            .flat_map(|route| route.chain.members())
            .any(|member| member.name == name)
    };
    for name in settings.milter.keys().filter(|name| !used(name)) {
        warnings.push(format!(
            "[milter.{name}] is in no chain; it is neither started nor connected to"
        ));
    }
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for route in routes {
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
            warnings.push(format!(
                "route {name:?} never matches: route {by:?} before it takes everything from there"
            ));
        }
        if route.condition.authenticated.is_none() && route.condition.client.is_empty() {
            for listen in wanted {
                taken.entry(listen).or_insert(name);
            }
        }
    }
    for listen in settings.listen.keys() {
        if !taken.contains_key(listen.as_str()) {
            warnings.push(format!(
                "no route takes everything from [listen.{listen}]: mail that no route matches is \
                 refused for now"
            ));
        }
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests;
