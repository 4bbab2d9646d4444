//! Scans mail through clamd while it arrives.

fn main() {}
