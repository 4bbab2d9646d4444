//! Runs filters as children and proxies the milter protocol through them.

use std::process::ExitCode;

fn main() -> ExitCode {
    milter_proto::daemon::main::<milter_orchestrator::Orchestrator>()
}
