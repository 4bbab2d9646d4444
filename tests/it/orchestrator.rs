//! The real orchestrator with the real filters as its children, driven as an MTA does.

mod chain;
mod failure;
mod pool;
pub(crate) mod stack;
