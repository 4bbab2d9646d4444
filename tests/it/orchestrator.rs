//! The real orchestrator with the real filters as its children, driven as an MTA does.

mod chain;
mod failure;
pub(crate) mod stack;
