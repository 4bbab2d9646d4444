//! How a program ends: exit codes of sysexits(3), and the failure that carries one to the top.

use std::fmt;
use std::process::ExitCode;

/// The command line is wrong.
pub const EX_USAGE: u8 = 64;
/// Input data is wrong.
pub const EX_DATAERR: u8 = 65;
/// A file that should be read is not there.
pub const EX_NOINPUT: u8 = 66;
/// A user that is named does not exist.
pub const EX_NOUSER: u8 = 67;
/// Something that is needed is not available: a port in use, a service down.
pub const EX_UNAVAILABLE: u8 = 69;
/// A fault of ours.
pub const EX_SOFTWARE: u8 = 70;
/// The operating system refused something that it never should.
pub const EX_OSERR: u8 = 71;
/// A file that should be written cannot be created.
pub const EX_CANTCREAT: u8 = 73;
/// Reading or writing failed.
pub const EX_IOERR: u8 = 74;
/// Not now; trying again later may help.
pub const EX_TEMPFAIL: u8 = 75;
/// Permission is missing.
pub const EX_NOPERM: u8 = 77;
/// The configuration is wrong.
pub const EX_CONFIG: u8 = 78;

/// Why a program or sub-command ended: an exit code of sysexits(3) and a message that tells the
/// operator what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of the `EX_` codes of this module.
    pub code: u8,
    /// Lower-case, no full stop.
    pub message: String,
}

impl Failure {
    /// A failure of the code with the message.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure.code)
    }
}
