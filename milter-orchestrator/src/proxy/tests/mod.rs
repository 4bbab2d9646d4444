//! The proxy as a whole, between scripted filters on private sockets and a scripted MTA.

mod ahead;
mod counting;
mod edit_log;
mod failing;
pub(super) mod harness;
mod message;
mod negotiation;
mod pool;
mod random;
mod routes;
mod schedule;
mod verdicts;
mod whole;
