//! How a house begins: with everything bound and started, or with what another one has left.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use milter_proto::daemon::exit::{EX_CONFIG, EX_NOPERM, EX_OSERR};
use milter_proto::daemon::{Bound, Failure};
use milter_proto::net::Address;
use nix::unistd::Uid;

use super::Orchestrator;
use super::generation::Prepared;
use super::handover::Heritage;
use super::house::House;
use crate::blueprint::{self, Blueprint, Known, Running};
use crate::config::Settings;
use crate::list_watch;
use crate::member::Health;
use crate::sockets;
use crate::supervisor::Supervisor;
use crate::supervisor::nursery::message::Identity;
use crate::supervisor::nursery::{Cradle, Nurseries, OURSELVES};

impl House {
    /// Binds and starts everything; the doors stay closed for now.
    pub(super) async fn open(
        orchestrator: Orchestrator,
        bound: Vec<Bound>,
        mut heritage: Option<&mut Heritage>,
    ) -> Result<Self, Failure> {
        let Orchestrator {
            settings,
            mut blueprint,
            mut cradles,
        } = orchestrator;
        let places = blueprint.milters.iter();
        let places: Vec<Address> = places.map(|plan| plan.member.address.clone()).collect();
        if let Some(heritage) = heritage.as_deref() {
            blueprint = in_their_places(&settings, &blueprint, heritage)?;
        }
        sockets::prepare(&blueprint)?;
        // First of all: it shows whether another one of us runs here.
        let inherited = heritage
            .as_deref_mut()
            .and_then(|heritage| heritage.control(&settings.control.socket));
        let control = match inherited {
            Some(control) => control,
            None => sockets::control(&blueprint.control)?,
        };
        let routes = Arc::clone(&blueprint.routes);
        let rules = super::house::rules(&blueprint);
        let plans = blueprint.milters.into_iter().zip(places);
        let prepared = plans.map(|(plan, configured)| {
            let name = &plan.member.name;
            let socket = heritage
                .as_deref_mut()
                .and_then(|heritage| heritage.milter(name, &plan.member.address));
            Prepared::inherit(plan, configured, socket)
        });
        let prepared = prepared.collect::<Result<Vec<_>, Failure>>()?;
        if let Some(heritage) = heritage.as_deref_mut() {
            cradles.extend(heritage.cradles());
        }
        let nurseries = nurseries(cradles)?;
        if heritage.is_some() {
            // Before anybody is looked after: keepers go on with the children that run.
            nurseries.introduced().await;
        }
        let supervisor = Supervisor::new(nurseries, blueprint.pace);
        let mut house = Self::new(settings, supervisor, rules, control);
        if let Some(heritage) = heritage.as_deref() {
            house.continue_at(heritage.number(), heritage.draining());
        }
        for bound in bound {
            let Some(listen) = house.settings.listen.get(&bound.name).cloned() else {
                continue;
            };
            let name = bound.name.clone();
            let bound = match heritage.as_deref() {
                Some(heritage) => heritage.with_file(bound),
                None => bound,
            };
            let door = house.hang_door(bound, &listen)?;
            house.doors.insert(name, door);
        }
        for prepared in prepared {
            let mut generation = prepared.start(&mut house.supervisor)?;
            generation.is_named_by(&routes);
            let name = generation.name().to_owned();
            house.milters.insert(name, generation);
        }
        house.show();
        tokio::spawn(list_watch::watch(Arc::clone(&house.rules)));
        Ok(house)
    }
}

/// The blueprint with every private milter where it has been so far.
fn in_their_places(
    settings: &Settings,
    blueprint: &Blueprint,
    heritage: &Heritage,
) -> Result<Blueprint, Failure> {
    let private = blueprint.milters.iter().filter(|plan| plan.private);
    let known: Known = private
        .filter_map(|plan| {
            let name = &plan.member.name;
            let running = Running {
                address: heritage.place(name)?.clone(),
                health: Arc::new(Health::default()),
            };
            Some((name.clone(), running))
        })
        .collect();
    blueprint::redraw(settings, &known).map_err(|mistake| {
        let what = format!("{}: {}; {}", mistake.path, mistake.message, mistake.help);
        Failure::new(EX_CONFIG, what)
    })
}

/// A nursery for each user among the children that is not our own.
pub(super) fn cradles(blueprint: &Blueprint) -> Result<Vec<Cradle>, Failure> {
    let plans = blueprint
        .milters
        .iter()
        .filter_map(|milter| milter.source.plan());
    let identities: BTreeSet<&Identity> = plans
        .map(|plan| &plan.identity)
        .filter(|identity| identity.user.is_some())
        .collect();
    identities
        .into_iter()
        .map(|identity| {
            if !Uid::effective().is_root() {
                let message = format!(
                    "a [milter] section has user = {:?}, which needs a start as root: leave it \
                     out, or start as root with a `user` in [process]",
                    identity.user.as_deref().unwrap_or_default()
                );
                return Err(Failure::new(EX_NOPERM, message));
            }
            Cradle::start(Path::new(OURSELVES), identity.clone()).map_err(no_nursery)
        })
        .collect()
}

/// The nursery of our own user.
pub(super) fn own_cradle() -> Result<Cradle, Failure> {
    Cradle::start(Path::new(OURSELVES), Identity::default()).map_err(no_nursery)
}

/// All nurseries.
fn nurseries(cradles: Vec<Cradle>) -> Result<Nurseries, Failure> {
    Nurseries::open(Path::new(OURSELVES), cradles).map_err(no_nursery)
}

fn no_nursery(error: io::Error) -> Failure {
    let message = format!("a nursery for the children cannot be started: {error}");
    Failure::new(EX_OSERR, message)
}
