//! The real orchestrator as a process, with scripted children.

#[cfg(test)]
mod configuration;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod filter;
#[cfg(test)]
mod held;
#[cfg(test)]
mod house;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod mta;
#[cfg(test)]
mod nursery;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod seen;
#[cfg(test)]
mod supervision;
#[cfg(test)]
mod units;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod users;
#[cfg(test)]
mod watched;
