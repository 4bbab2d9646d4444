//! Signing and verifying whole messages: vectors of the standards, rules, round trips, published
//! suites.

#![cfg(test)]

mod check;
mod conformance;
mod rfc;
mod round_trip;
mod rules;
