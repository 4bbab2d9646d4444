//! The example program as a real process: how it starts, serves, reloads, stops, and refuses.

#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod process;
#[cfg(test)]
mod refusals;
