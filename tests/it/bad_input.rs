//! Bad input, against every real daemon: from an MTA, from a filter, and in the configuration.

mod child;
mod configuration;
mod conversation;
mod disk;
mod drip;
mod flood;
mod hostile;
mod progress;
mod subject;
