//! The daemon `milter-dkim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    milter_proto::daemon::main::<milter_dkim::Dkim>()
}
