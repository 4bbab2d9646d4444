//! Generations of milters: a milter that is looked after, with its socket and those who use it.
//!
//! A milter whose configuration changes gets another generation. The old one is needed for as long
//! as connections go on with routes that name it; the weak references to those routes tell.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Instant;

use milter_proto::daemon::{Bound, Failure};
use milter_proto::net::Address;

use crate::blueprint::{MilterPlan, Source};
use crate::reload::Shape;
use crate::route::Routes;
use crate::sockets;
use crate::supervisor::{Charge, Kept, Kind, Supervisor};

/// A milter that can be started: its socket is bound.
#[derive(Debug)]
pub(super) struct Prepared {
    plan: MilterPlan,
    /// Where the configuration puts it.
    configured: Address,
    socket: Option<Bound>,
}

impl Prepared {
    /// Binds its socket, where we do that. `configured` is its place by the configuration alone.
    pub(super) fn bind(plan: MilterPlan, configured: Address) -> Result<Self, Failure> {
        let socket = match &plan.source {
            Source::HandOver(_) => Some(sockets::for_child(&plan.member, plan.private)?),
            Source::BindsItself(_) | Source::Foreign => None,
        };
        Ok(Self {
            plan,
            configured,
            socket,
        })
    }

    /// With the socket of the generation before, if that had one.
    pub(super) fn inherit(
        plan: MilterPlan,
        configured: Address,
        socket: Option<Bound>,
    ) -> Result<Self, Failure> {
        match (&plan.source, socket) {
            (Source::HandOver(_), Some(socket)) => Ok(Self {
                plan,
                configured,
                socket: Some(socket),
            }),
            // A socket that nobody needs any more is closed before somebody else binds it.
            _ => Self::bind(plan, configured),
        }
    }

    /// Has it looked after.
    pub(super) fn start(self, supervisor: &mut Supervisor) -> Result<Generation, Failure> {
        let Self {
            plan,
            configured,
            socket,
        } = self;
        let handed = socket.as_ref().map(sockets::to_hand_over).transpose()?;
        let kind = match &plan.source {
            Source::Foreign => Kind::Foreign,
            Source::BindsItself(how) | Source::HandOver(how) => Kind::Spawned(how.clone(), handed),
        };
        let member = Arc::clone(&plan.member);
        let kept = supervisor.keep(Charge { member, kind });
        Ok(Generation {
            kept,
            plan,
            configured,
            socket,
            routes: Vec::new(),
        })
    }
}

/// A milter that is looked after.
#[derive(Debug)]
pub(super) struct Generation {
    /// The way to its keeper.
    pub(super) kept: Kept,
    pub(super) plan: MilterPlan,
    configured: Address,
    /// The socket that it was handed, ours for as long as it may be started again.
    pub(super) socket: Option<Bound>,
    /// The routes that name it.
    routes: Vec<Weak<Routes>>,
}

impl Generation {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.kept.member.name
    }

    /// It as it was configured.
    pub(super) fn shape(&self) -> Shape<'_> {
        Shape {
            address: &self.configured,
            ..self.plan.shape()
        }
    }

    /// Routes that name it count from now on.
    pub(super) fn is_named_by(&mut self, routes: &Arc<Routes>) {
        self.routes.retain(|routes| routes.strong_count() > 0);
        self.routes.push(Arc::downgrade(routes));
    }

    /// Leaves its socket to another process.
    pub(super) fn leave(self) {
        if let Some(socket) = self.socket {
            socket.leave();
        }
    }

    /// Whether connections may go on with it.
    pub(super) fn is_used(&self) -> bool {
        self.routes.iter().any(|routes| routes.strong_count() > 0)
    }
}

/// A generation that is no longer wanted, but may still be used.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) generation: Generation,
    /// When it ends, used or not.
    pub(super) until: Instant,
}

/// A place for a further generation of a milter that nobody else knows.
pub(super) fn private_place(directory: &Path, name: &str, number: u32) -> Address {
    Address::Unix(directory.join(format!("{name}.{number}.sock")))
}
