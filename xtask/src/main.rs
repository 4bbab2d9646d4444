//! The project's own commands: dispatch alone, one file a command.

mod bench;
mod child;
mod clamd;
mod demo;
mod faults;
mod finding;
mod fuzz;
mod integration;
mod interrupt;
mod layers;
mod postfix;
mod run;
mod setup;
mod simulate;
mod smtp;
mod source;
mod stack;
mod terminal;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Profile;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
enum Command {
    /// Run the orchestrator with the three filters on inet:10025@127.0.0.1 until Ctrl-C
    Run {
        /// Install no Debian packages; run without what is missing, and say so
        #[arg(long)]
        no_install: bool,
        /// Where configuration and keys are kept (default: run, in the workspace)
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Send mail through a private Postfix and the filters, and check what becomes of it
    Demo {
        /// Install no Debian packages; say what is missing
        #[arg(long)]
        no_install: bool,
        /// Use the quickly built daemons
        #[arg(long)]
        dev: bool,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
        /// Keep the folder with logs, mail and configuration, and say where it is
        #[arg(long)]
        keep: bool,
    },
    /// Measure how fast we are, beside what we are held against
    Bench {
        /// What to measure
        subject: bench::Subject,
        /// How often; medians are judged
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
        rounds: u8,
        /// Once and briefly, with the quickly built programs, judging nothing
        #[arg(long)]
        quick: bool,
    },
    /// Check everything: formatting, lints, documents, tests, the demonstration
    Test {
        /// Install no Debian packages; skip what needs them
        #[arg(long)]
        no_install: bool,
    },
    /// Check which crate depends on which, what pure rooms name, and every licence
    Layers,
    /// Check white space, names, head comments, manifests, the map and the shipped samples
    Tidy {
        /// Write the shipped sample configurations anew
        #[arg(long)]
        bless: bool,
    },
    /// Run every fuzz target for some time, and say what was done and found
    Fuzz {
        /// How long for each target: 90s, 10m, 1h
        #[arg(long, default_value = "1m")]
        time: fuzz::Time,
        /// A part of the name of a target to run; may be given more than once (default: all)
        #[arg(long = "target", value_name = "NAME")]
        targets: Vec<String>,
        /// List the targets, run none
        #[arg(long)]
        list: bool,
        /// Build with optimisation: slower to start, several times as fast
        #[arg(long)]
        optimised: bool,
    },
    /// Compare random chains of filters on real mail servers, with the orchestrator and without
    Integration {
        /// On this server alone (default: on all)
        #[arg(long)]
        mta: Option<integration::Mta>,
        /// The seed of the first script; the others follow
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many scripts (default: 2000 on postfix, 500 on sendmail)
        #[arg(long)]
        scripts: Option<u64>,
        /// How many at the same time
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
        lanes: u8,
    },
    /// Break things on purpose while mail flows, and count what becomes of it
    Faults(faults::Options),
    /// Simulate sessions, filters and their faults, and check what must hold whatever happens
    Simulate {
        /// How many seeds; each is a world of its own
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first of them; the others follow
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Messages in each
        #[arg(long, default_value_t = 20)]
        messages: u64,
        /// Use the quickly built test: to repeat a seed
        #[arg(long)]
        dev: bool,
    },
    /// Install the Debian packages that the other commands need
    Setup {
        /// Install nothing; say what is missing
        #[arg(long)]
        no_install: bool,
    },
}

fn main() -> ExitCode {
    workspace::make_ordinary();
    match obey(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked for.
fn obey(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { no_install, dir } => run::run(dir, !no_install),
        Command::Demo {
            no_install,
            dev,
            json,
            keep,
        } => demo::run(demo::Options {
            profile: if dev { Profile::Dev } else { Profile::Release },
            install: !no_install,
            json,
            keep,
        }),
        Command::Bench {
            subject,
            rounds,
            quick,
        } => bench::run(
            subject,
            bench::Effort {
                rounds: usize::from(rounds),
                quick,
            },
        ),
        Command::Test { no_install } => test::run(!no_install),
        Command::Layers => layers::run(),
        Command::Tidy { bless } => tidy::run(bless),
        Command::Fuzz {
            time,
            targets,
            list,
            optimised,
        } => fuzz::run(&fuzz::Options {
            time: time.0,
            targets,
            list,
            optimised,
        }),
        Command::Integration {
            mta,
            seed,
            scripts,
            lanes,
        } => integration::run(integration::Options {
            mta,
            seed,
            scripts,
            lanes,
        }),
        Command::Faults(options) => faults::run(&options),
        Command::Simulate {
            seeds,
            seed,
            messages,
            dev,
        } => simulate::run(simulate::Options {
            seeds,
            seed,
            messages,
            dev,
        }),
        Command::Setup { no_install } => setup::run(!no_install),
    }
}
