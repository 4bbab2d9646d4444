//! The real orchestrator as a process, with scripted children.

#[cfg(test)]
mod configuration;
#[cfg(test)]
mod filter;
#[cfg(test)]
mod house;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod nursery;
#[cfg(test)]
mod seen;
#[cfg(test)]
mod supervision;
