//! Tests that cross crates.

mod filters;
