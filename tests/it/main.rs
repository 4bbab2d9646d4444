//! Tests that cross crates.

#![cfg(test)]

mod bad_input;
mod filters;
mod opendkim;
