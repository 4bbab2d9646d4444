//! The proxy as a whole, between scripted filters on private sockets and a scripted MTA.

mod failing;
mod harness;
mod message;
mod random;
mod schedule;
mod verdicts;
