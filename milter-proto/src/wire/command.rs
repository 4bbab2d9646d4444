//! What an MTA says to a filter (`SMFIC_*`).

use bytes::Bytes;

use crate::message::{Connection, Header, Path};
use crate::wire::macros::Macros;
use crate::wire::options::Offer;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `O` Option negotiation.
    Negotiate(Offer),
    /// `D` Macros for a command that follows.
    Macros(Macros),
    /// `C` The client.
    Connect(Connection),
    /// `H` The name it gave.
    Helo(Bytes),
    /// `M` Envelope sender.
    Mail(Path),
    /// `R` One envelope recipient.
    Rcpt(Path),
    /// `T` DATA.
    Data,
    /// `L` One header field.
    Header(Header),
    /// `N` End of headers.
    EndOfHeaders,
    /// `B` A chunk of the body.
    Body(Bytes),
    /// `E` End of the message; may carry a last chunk (no MTA does).
    EndOfMessage(Bytes),
    /// `A` Forget the message in hand.
    Abort,
    /// `U` A command that the MTA does not know.
    Unknown(Bytes),
    /// `Q` End of the connection.
    Quit,
    /// `K` End of this SMTP connection; another follows on the same milter connection.
    QuitReuse,
}
