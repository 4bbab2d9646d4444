//! milter-spam, the daemon: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    milter_proto::daemon::main::<milter_spam::Spam>()
}
