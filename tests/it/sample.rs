//! A filter in C on top of Debian's libmilter (`c/sample.c`), by itself and behind the
//! orchestrator: what it is told, and what comes back, must be the same whatever it negotiates.

mod limit;
mod many;
mod masks;
mod pool;
mod runs;
