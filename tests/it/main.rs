//! Tests that cross crates.

#![cfg(test)]

mod bad_input;
mod dkim;
mod equivalence;
mod filters;
mod miltertest;
mod opendkim;
mod orchestrator;
mod scripts;
mod trusted_results;
