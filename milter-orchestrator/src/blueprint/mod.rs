//! What the configuration means: listeners, milters and routes, valid by construction.
//!
//! Every mistake that the types cannot see is found here, all of them in one go, each with the path
//! of its key and what to write instead; lists are read, nothing is bound or started. What is legal
//! and still odd becomes a warning.

mod children;
pub(crate) mod commands;
mod conditions;
mod limits;
mod listeners;
mod milters;
mod reach;
mod routes;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use milter_proto::daemon::ConfigError;
use milter_proto::daemon::config::nearest;
use milter_proto::net::Address;

use self::conditions::Conditions;
use crate::config::Settings;
use crate::member::{Health, Member};
use crate::proxy::Limits;
use crate::reload::Shape;
use crate::route::Routes;
use crate::supervisor::Pace;
use crate::supervisor::keeper::Plan;

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
    /// What is legal and still odd, with the path of its key.
    pub warnings: Vec<ConfigError>,
}

/// One milter and how to get it.
#[derive(Debug)]
pub struct MilterPlan {
    /// The milter as chains see it.
    pub member: Arc<Member>,
    /// Whose it is.
    pub source: Source,
    /// Its socket is one that is made for it, in the directory for that.
    pub private: bool,
}

impl MilterPlan {
    /// It as far as its process is concerned.
    #[must_use]
    pub fn shape(&self) -> Shape<'_> {
        Shape {
            name: &self.member.name,
            source: &self.source,
            address: &self.member.address,
            private: self.private,
        }
    }
}

/// Whose a milter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Ours to start; its socket is bound here and handed over.
    HandOver(Plan),
    /// Ours to start; it binds its socket.
    BindsItself(Plan),
    /// Somebody else's.
    Foreign,
}

impl Source {
    /// How it is started, when it is ours to start.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Self::HandOver(plan) | Self::BindsItself(plan) => Some(plan),
            Self::Foreign => None,
        }
    }
}

/// What is known already of milters that run, by their name.
pub type Known = BTreeMap<String, Running>;

/// A milter that runs, or is about to.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where it is, which need not be where the configuration alone would put it.
    pub address: Address,
    /// Its state and counters.
    pub health: Arc<Health>,
}

/// Turns settings into a blueprint of milters of which nothing is known yet.
///
/// # Errors
/// The first mistake, with the dotted path of its key.
pub fn draw(settings: &Settings) -> Result<Blueprint, ConfigError> {
    redraw(settings, &Known::new())
}

/// Turns settings into a blueprint in which known milters keep their place, health and counters.
///
/// # Errors
/// The first mistake, with the dotted path of its key.
pub fn redraw(settings: &Settings, known: &Known) -> Result<Blueprint, ConfigError> {
    survey(settings, known).map_err(|mistakes| {
        let first = mistakes.into_iter().next();
        first.unwrap_or_else(|| ConfigError::at("", "it means nothing"))
    })
}

/// As [`redraw`], with everything that is wrong.
///
/// # Errors
/// All mistakes, one at least, each with the dotted path of its key.
pub fn survey(settings: &Settings, known: &Known) -> Result<Blueprint, Vec<ConfigError>> {
    let mut mistakes = Mistakes::default();
    listeners::check(settings, &mut mistakes);
    let mut conditions = Conditions::new(settings);
    let members = milters::members(settings, known, &mut conditions, &mut mistakes);
    let routes = routes::routes(settings, &members, &mut conditions, &mut mistakes);
    let control = mistakes.keep(limits::control(&settings.control));
    let pace = mistakes.keep(limits::pace(&settings.supervisor));
    let limits = limits::limits(settings, &mut mistakes);
    let (Some(control), Some(pace), true) = (control, pace, mistakes.0.is_empty()) else {
        return Err(mistakes.0);
    };
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
            let source = children::source(milter);
            Some(MilterPlan {
                member,
                source,
                private: milter.socket.is_none(),
            })
        })
        .collect();
    Ok(Blueprint {
        milters,
        warnings: warnings::warnings(settings, &routes),
        routes: Arc::new(Routes { routes }),
        control,
        directory: settings.supervisor.directory.clone(),
        pace,
        limits,
    })
}

/// Every mistake so far.
#[derive(Debug, Default)]
struct Mistakes(Vec<ConfigError>);

impl Mistakes {
    fn note(&mut self, mistake: ConfigError) {
        self.0.push(mistake);
    }

    /// What there is where nothing was wrong.
    fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|mistake| self.note(mistake)).ok()
    }
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

/// What was meant, or all that there is.
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

#[cfg(test)]
pub(crate) mod tests;
