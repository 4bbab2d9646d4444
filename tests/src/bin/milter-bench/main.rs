//! The peers of `cargo xtask bench`: filters that do nothing, a relay that looks at nothing, and an
//! MTA that measures.
//!
//! Each is a process of its own, so that what it costs can be told apart. Results are one JSON
//! object a line on standard output; any failure ends the process with a reason.

mod filter;
mod load;
mod mta;
mod relay;

use std::io::Write;

use anyhow::Result;
use clap::Parser;
use milter_proto::net::Address;

/// The peers of `cargo xtask bench`.
#[derive(Debug, Parser)]
enum Command {
    /// Serve a filter that lets everything pass
    Filter {
        /// Where: `unix:/path` or `inet:port@host`
        address: Address,
        /// Answer nothing but MAIL and the end of the message
        #[arg(long)]
        silent: bool,
        /// Take so many milliseconds for the end of the message
        #[arg(long, default_value_t = 0)]
        wait: u64,
        /// Announce edits of the header, so that a filter after it has to wait for them
        #[arg(long)]
        edits: bool,
    },
    /// Copy bytes between whoever connects to the one address and the other
    Relay {
        /// Where to listen
        listen: Address,
        /// Where to connect to
        target: Address,
    },
    /// Send messages to a filter as an MTA does, and say how long they took
    Load {
        /// The filter
        address: Address,
        #[command(flatten)]
        work: load::Work,
    },
    /// Open many sessions and leave them alone
    Idle {
        /// The filter
        address: Address,
        /// Sessions
        #[arg(long)]
        connections: usize,
        /// Seconds of silence, after which every session must still take a message
        #[arg(long)]
        hold: f64,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Filter {
            address,
            silent,
            wait,
            edits,
        } => filter::run(
            &address,
            filter::Manners {
                silent,
                wait,
                edits,
            },
        ),
        Command::Relay { listen, target } => relay::run(&listen, &target),
        Command::Load { address, work } => load::run(&address, &work),
        Command::Idle {
            address,
            connections,
            hold,
        } => load::idle(&address, connections, hold),
    }
}

/// One result.
fn report(result: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{result}")?;
    out.flush()?;
    Ok(())
}
