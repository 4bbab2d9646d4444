//! A reload on its way: everything new is made first, then all of it counts at one moment.
//!
//! Until that moment a failure takes back what was made, and nothing has changed: a socket that
//! cannot be bound, a filter that runs and whose replacement does not get ready. A filter that is
//! new counts when it is ready or its `start_timeout` is over, since there is nothing to fall back
//! to. After that moment the old generations, and the listeners that are gone, end with their last
//! connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::daemon::config::{ConfigError, Listener};
use milter_proto::daemon::exit::{EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE};
use milter_proto::daemon::{Failure, Host, bind_one};
use milter_proto::net::{Address, Admission};

use super::Orchestrator;
use super::desk::Wish;
use super::generation::{Generation, Prepared, Retired, private_place};
use super::house::{House, rules};
use crate::blueprint::{self, Blueprint, Known, MilterPlan, Running, Source};
use crate::config::{Listen, Settings};
use crate::control::Answer;
use crate::entrance::{Door, Rules};
use crate::member::{Health, Readiness};
use crate::reload::{self, Entry, Fate, Shape};
use crate::sockets;
use crate::supervisor::Kept;
use crate::supervisor::child::State;

/// Everything that a new configuration needs and the old one had not.
#[derive(Debug)]
pub(super) struct Change {
    settings: Settings,
    rules: Rules,
    fates: Vec<(String, Fate)>,
    entries: Vec<(String, Entry)>,
    /// New generations that run already.
    started: Vec<Started>,
    /// Those that take the place of one.
    replacing: Vec<Replacing>,
    /// Listeners that are bound, and closed so far.
    doors: BTreeMap<String, Door>,
    /// What the operator is told besides.
    notes: Vec<String>,
    /// Whether it counts already.
    counts: bool,
    wish: Option<Wish>,
}

/// A new generation on its way.
#[derive(Debug)]
struct Started {
    generation: Generation,
    /// When its time to get ready is over.
    until: Instant,
    /// There is an old one, which is the better one unless this one gets ready.
    has_predecessor: bool,
}

/// A generation that starts when the one before has ended.
#[derive(Debug)]
struct Replacing {
    plan: MilterPlan,
    configured: Address,
    before: Option<Generation>,
}

/// What is known of a start so far.
enum Progress {
    Ready,
    Waiting,
    Late,
}

impl Started {
    fn progress(&self) -> Progress {
        match self.generation.kept.member.health.readiness() {
            Readiness::Ready => Progress::Ready,
            // Nobody here can do anything about a filter that is somebody else's.
            Readiness::Open if self.generation.plan.source == Source::Foreign => Progress::Ready,
            Readiness::Unknown | Readiness::Down | Readiness::Open => {
                match Instant::now() < self.until {
                    true => Progress::Waiting,
                    false => Progress::Late,
                }
            }
        }
    }
}

impl Change {
    /// Tells who asked for it.
    pub(super) fn asked_by(self, wish: Wish) -> Self {
        Self {
            wish: Some(wish),
            ..self
        }
    }

    /// What the operator is told when all is done.
    fn summary(&self) -> String {
        let mut said = "the new configuration counts".to_owned();
        for (fate, words) in [
            (Fate::Starts, "new milters"),
            (Fate::Beside, "milters with a new process"),
            (Fate::InPlace, "milters restarted in place"),
            (Fate::Ends, "milters that end with their last connection"),
        ] {
            let names = self.fates.iter().filter(|(_, one)| *one == fate);
            said += &listed(words, names.map(|(name, _)| &**name));
        }
        for (entry, words) in [
            (Entry::Opens, "new listeners"),
            (Entry::Moves, "listeners that moved"),
            (Entry::Closes, "listeners that are closed"),
        ] {
            let names = self.entries.iter().filter(|(_, one)| *one == entry);
            said += &listed(words, names.map(|(name, _)| &**name));
        }
        for note in &self.notes {
            said += "\n";
            said += note;
        }
        said
    }
}

/// A part of the summary; nothing where there is nothing.
fn listed<'a>(words: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return String::new();
    }
    format!("; {words}: {}", names.join(", "))
}

impl House {
    /// Reads the configuration again, and makes everything that is new in it.
    pub(super) async fn begin_reload(
        &mut self,
        host: &mut Host<Orchestrator>,
    ) -> Result<Change, Failure> {
        let (new, mut notes) = host.reload().await?;
        let (settings, waiting) = reload::merge(&self.settings, new.settings);
        notes.extend(waiting);
        let old: Vec<Shape<'_>> = self.milters.values().map(Generation::shape).collect();
        let wanted: Vec<Shape<'_>> = new
            .blueprint
            .milters
            .iter()
            .map(MilterPlan::shape)
            .collect();
        let fates = reload::fates(&old, &wanted);
        let known = self.places(&fates, &new.blueprint);
        let drawn = blueprint::redraw(&settings, &known).map_err(|mistake| {
            let ConfigError {
                path,
                message,
                help,
            } = mistake;
            Failure::new(EX_CONFIG, format!("{path}: {message}; {help}"))
        })?;
        sockets::prepare(&drawn)?;
        check_spool(&self.settings, &settings)?;
        let mut change = Change {
            rules: rules(&drawn),
            entries: reload::entries(&self.settings, &settings),
            settings,
            fates,
            started: Vec::new(),
            replacing: Vec::new(),
            doors: BTreeMap::new(),
            notes,
            counts: false,
            wish: None,
        };
        let made = self.make_doors(&mut change).and_then(|()| {
            let configured = new.blueprint.milters.into_iter();
            let configured = configured.map(|plan| plan.member.address.clone());
            self.make_milters(&mut change, drawn.milters.into_iter().zip(configured))
        });
        match made {
            Ok(()) => Ok(change),
            Err(failure) => {
                self.take_back(change);
                Err(failure)
            }
        }
    }

    /// Where each milter will be, and whose numbers it carries on.
    fn places(&mut self, fates: &[(String, Fate)], wanted: &Blueprint) -> Known {
        let mut known = Known::new();
        for (name, fate) in fates {
            let plan = wanted.milters.iter().find(|plan| plan.member.name == *name);
            let Some(plan) = plan else {
                continue;
            };
            let before = self.milters.get(name).map(|one| &one.kept.member);
            let place = |number| match plan.private {
                true => private_place(&wanted.directory, name, number),
                false => plan.member.address.clone(),
            };
            let successor = || before.map_or_else(Health::default, |one| one.health.successor());
            let running = match (fate, before) {
                (Fate::Keeps, Some(before)) => Running {
                    address: before.address.clone(),
                    health: Arc::clone(&before.health),
                },
                _ => {
                    self.number = self.number.saturating_add(1);
                    Running {
                        address: place(self.number),
                        health: Arc::new(successor()),
                    }
                }
            };
            known.insert(name.clone(), running);
        }
        known
    }

    /// Binds new listeners; nobody is let in so far.
    fn make_doors(&mut self, change: &mut Change) -> Result<(), Failure> {
        let bindable = [Entry::Opens, Entry::Moves];
        for (name, entry) in change.entries.clone() {
            let Some(listen) = change.settings.listen.get(&name).cloned() else {
                continue;
            };
            if !bindable.contains(&entry) {
                continue;
            }
            match bind_one(&as_listener(&name, &listen)) {
                Ok(bound) => {
                    let door = self.hang_door(bound, &listen)?;
                    change.doors.insert(name, door);
                }
                Err(failure) if failure.code == EX_NOPERM => {
                    let note = format!("[listen.{name}] waits for a restart: {failure}");
                    change.notes.push(note);
                    self.keep_entry(change, &name);
                }
                Err(failure) => {
                    let message = format!("[listen.{name}] {failure}");
                    return Err(Failure::new(failure.code, message));
                }
            }
        }
        Ok(())
    }

    /// Leaves a listener as it was.
    fn keep_entry(&self, change: &mut Change, name: &str) {
        change.entries.retain(|(one, _)| one != name);
        let before = self.settings.listen.get(name).cloned();
        match before {
            Some(before) => change.settings.listen.insert(name.to_owned(), before),
            None => change.settings.listen.remove(name),
        };
    }

    /// Starts what is new, as far as it can exist beside the old.
    fn make_milters(
        &mut self,
        change: &mut Change,
        plans: impl Iterator<Item = (MilterPlan, Address)>,
    ) -> Result<(), Failure> {
        let fates: BTreeMap<String, Fate> = change.fates.iter().cloned().collect();
        for (plan, configured) in plans {
            match fates.get(&plan.member.name) {
                Some(Fate::Starts | Fate::Beside) => {
                    let time = start_timeout(&plan.source);
                    let name = plan.member.name.clone();
                    let prepared = Prepared::bind(plan, configured).map_err(needs_restart)?;
                    change.started.push(Started {
                        generation: prepared.start(&mut self.supervisor)?,
                        until: Instant::now() + time,
                        has_predecessor: self.milters.contains_key(&name),
                    });
                }
                Some(Fate::InPlace) => change.replacing.push(Replacing {
                    plan,
                    configured,
                    before: None,
                }),
                Some(Fate::Keeps | Fate::Ends) | None => {}
            }
        }
        Ok(())
    }

    /// Ends what was made for a change that does not come.
    pub(super) fn take_back(&mut self, change: Change) {
        for started in &change.started {
            self.supervisor.dismiss(&started.generation.kept);
        }
        for door in change.doors.values() {
            door.say(Admission::Stopping);
        }
    }

    /// A change that is under way: it, if there is more to do.
    pub(super) fn go_on(
        &mut self,
        mut change: Change,
        host: &mut Host<Orchestrator>,
    ) -> Option<Change> {
        if !change.counts {
            match Self::judge(&mut change) {
                Ok(true) => self.make_it_count(&mut change),
                Ok(false) => return Some(change),
                Err(failure) => {
                    tracing::error!("the old configuration stays: {failure}");
                    let wish = change.wish.take();
                    self.take_back(change);
                    self.desk.show_reload(Err(&failure));
                    host.reloaded();
                    if let Some(wish) = wish {
                        let what = format!("the old configuration stays: {failure}");
                        wish.answer(Answer::Error(what));
                    }
                    return None;
                }
            }
        }
        if !self.replace(&mut change) {
            return Some(change);
        }
        let said = change.summary();
        for line in said.lines() {
            tracing::info!("{line}");
        }
        self.desk.show_reload(Ok(()));
        host.reloaded();
        if let Some(wish) = change.wish.take() {
            wish.answer(Answer::Done(said));
        }
        None
    }

    /// Whether everything that was started has had its chance.
    fn judge(change: &mut Change) -> Result<bool, Failure> {
        for started in &change.started {
            let name = started.generation.name();
            let error = || {
                let error = started.generation.kept.member.health.last_error();
                error.map_or_else(|| "it does not answer".into(), |error| error.message)
            };
            match started.progress() {
                Progress::Ready => {}
                Progress::Waiting => return Ok(false),
                Progress::Late if started.has_predecessor => {
                    let message = format!(
                        "the new process of [milter.{name}] does not get ready within its \
                         start_timeout: {}",
                        error()
                    );
                    return Err(Failure::new(EX_UNAVAILABLE, message));
                }
                Progress::Late => {
                    let note = format!("[milter.{name}] is not ready yet: {}", error());
                    if !change.notes.contains(&note) {
                        tracing::warn!("{note}");
                    }
                }
            }
        }
        Ok(true)
    }

    /// The moment from which on the new configuration counts.
    fn make_it_count(&mut self, change: &mut Change) {
        change.counts = true;
        let handover = change.settings.supervisor.handover_timeout.get();
        let until = Instant::now() + handover;
        for started in change.started.drain(..) {
            let name = started.generation.name().to_owned();
            if let Some(before) = self.milters.insert(name, started.generation) {
                self.retired.push(Retired {
                    generation: before,
                    until,
                });
            }
        }
        for (name, _) in change.fates.iter().filter(|(_, fate)| *fate == Fate::Ends) {
            let before = self.milters.remove(name);
            self.retired
                .extend(before.map(|generation| Retired { generation, until }));
        }
        for replacing in &mut change.replacing {
            if let Some(before) = self.milters.remove(&replacing.plan.member.name) {
                self.supervisor.dismiss(&before.kept);
                replacing.before = Some(before);
            }
        }
        for generation in self.milters.values_mut() {
            generation.is_named_by(&change.rules.routes);
        }
        self.settings = change.settings.clone();
        self.rules.replace(change.rules.clone());
        self.move_doors(change, until);
        self.show();
    }

    /// Opens new listeners, and closes those that are gone.
    fn move_doors(&mut self, change: &mut Change, until: Instant) {
        for (name, entry) in &change.entries {
            let before = match entry {
                Entry::Keeps | Entry::Opens => None,
                Entry::Moves | Entry::Closes | Entry::Resizes => self.doors.remove(name),
            };
            match (entry, before) {
                (Entry::Resizes, Some(before)) => {
                    let Some(listen) = self.settings.listen.get(name).cloned() else {
                        continue;
                    };
                    let (mut bound, order) = before.replace();
                    bound.name.clone_from(name);
                    self.closed.push((order, until));
                    match self.hang_door(bound, &listen) {
                        Ok(door) => drop(self.doors.insert(name.clone(), door)),
                        Err(failure) => tracing::error!("[listen.{name}] is closed: {failure}"),
                    }
                }
                (_, Some(before)) => self.closed.push((before.close(), until)),
                (_, None) => {}
            }
        }
        self.doors.append(&mut change.doors);
        let admission = self.admission();
        for door in self.doors.values() {
            door.say(admission);
        }
    }

    /// Starts those whose predecessors have ended; whether that is all of them.
    fn replace(&mut self, change: &mut Change) -> bool {
        let waiting = std::mem::take(&mut change.replacing);
        for replacing in waiting {
            let has_ended = |before: &Generation| has_ended(&before.kept);
            if !replacing.before.as_ref().is_none_or(has_ended) {
                change.replacing.push(replacing);
                continue;
            }
            let name = replacing.plan.member.name.clone();
            let socket = replacing.before.and_then(|before| before.socket);
            let blocking = socket.as_ref().map_or(Ok(()), sockets::make_blocking);
            let started = blocking
                .and_then(|()| Prepared::inherit(replacing.plan, replacing.configured, socket))
                .and_then(|prepared| prepared.start(&mut self.supervisor));
            match started {
                Ok(mut generation) => {
                    generation.is_named_by(&change.rules.routes);
                    self.milters.insert(name, generation);
                }
                Err(failure) => {
                    tracing::error!(milter = name, "it cannot be started any more: {failure}");
                    change.notes.push(format!("[milter.{name}] {failure}"));
                }
            }
        }
        self.show();
        change.replacing.is_empty()
    }
}

/// Where nobody may write, bodies could not be kept.
fn check_spool(old: &Settings, new: &Settings) -> Result<(), Failure> {
    let directory = &new.limits.spool_directory;
    if *directory == old.limits.spool_directory {
        return Ok(());
    }
    tempfile::tempfile_in(directory).map(drop).map_err(|error| {
        let message = format!(
            "[limits] spool_directory: no file can be made in {}: {error}; give it to the user \
                 that we run as, and restart us: what we may write to is settled at the start",
            directory.display()
        );
        Failure::new(EX_NOPERM, message)
    })
}

/// What we may do is settled at the start.
fn needs_restart(failure: Failure) -> Failure {
    match failure.code {
        EX_NOPERM => Failure::new(
            EX_NOPERM,
            format!("{failure}; a folder that had no socket of ours at the start needs a restart"),
        ),
        _ => failure,
    }
}

fn has_ended(kept: &Kept) -> bool {
    !kept.spawned || kept.vitals.read().state == State::Down
}

fn start_timeout(source: &Source) -> Duration {
    match source {
        Source::HandOver(plan) | Source::BindsItself(plan) => plan.start_timeout,
        Source::Foreign => Duration::from_secs(10),
    }
}

fn as_listener(name: &str, listen: &Listen) -> Listener {
    Listener {
        name: name.to_owned(),
        section: format!("listen.{name}"),
        socket: listen.socket.clone(),
        mode: listen.mode,
        group: listen.group.clone(),
    }
}
