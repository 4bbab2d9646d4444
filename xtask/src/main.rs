//! The project's own commands: dispatch alone, one file a command.

mod child;
mod finding;
mod interrupt;
mod layers;
mod postfix;
mod setup;
mod smtp;
mod source;
mod terminal;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
enum Command {
    /// Check which crate depends on which, what pure rooms name, and every licence
    Layers,
    /// Check white space, names, head comments, manifests, the map and the shipped samples
    Tidy {
        /// Write the shipped sample configurations anew
        #[arg(long)]
        bless: bool,
    },
    /// Install the Debian packages that the other commands need
    Setup {
        /// Install nothing; say what is missing
        #[arg(long)]
        no_install: bool,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Layers => layers::run(),
        Command::Tidy { bless } => tidy::run(bless),
        Command::Setup { no_install } => setup::run(!no_install),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
