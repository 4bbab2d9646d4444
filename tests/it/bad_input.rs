//! Bad input, against every real daemon: from an MTA, and in the configuration.

mod configuration;
mod conversation;
