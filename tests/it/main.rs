//! Tests that cross crates.

#![cfg(test)]

mod backpressure;
mod bad_input;
mod cases;
mod counters;
mod dkim;
mod equivalence;
mod filters;
mod foreign;
mod live;
mod miltertest;
mod opendkim;
mod orchestrator;
mod proxy_cases;
mod sample;
mod scripts;
mod sendmail;
mod submitted;
mod trusted_results;
