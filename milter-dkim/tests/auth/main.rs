//! Signing and verifying whole messages: vectors of the standards, rules, round trips, published
//! suites.

#[cfg(test)]
mod check;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod rfc;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod rules;
