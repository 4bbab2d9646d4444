//! Runs filters as children and proxies the milter protocol through them.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Bodies come and go with every message.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    milter_proto::daemon::main::<milter_orchestrator::Orchestrator>()
}
