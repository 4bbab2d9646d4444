//! What a filter says to an MTA (`SMFIR_*`).

use bytes::{Bytes, BytesMut};

use crate::edit::Edit;
use crate::verdict::{SmtpReply, Verdict};
use crate::wire::command::write_strings;
use crate::wire::error::{Malformed, WireError};
use crate::wire::frame::{Frame, put_frame};
use crate::wire::options::Offer;
use crate::wire::strings::{Payload, check_strings};

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `O` The answer to the negotiation.
    Negotiate(Offer),
    /// `c`
    Continue,
    /// `a`
    Accept,
    /// `r`
    Reject,
    /// `t`
    TempFail,
    /// `d`
    Discard,
    /// `s`
    Skip,
    /// `p` Still working; not an answer.
    Progress,
    /// `y` A reply text.
    SmtpReply(SmtpReply),
    /// A change, legal at the end of the message only.
    Edit(Edit),
    /// `4` Internal to MTAs: an error from a filter.
    Shutdown,
    /// `f` Historical: an error from a filter.
    ConnectionFailed,
}

impl From<Verdict> for Reply {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Continue => Self::Continue,
            Verdict::Accept => Self::Accept,
            Verdict::Reject => Self::Reject,
            Verdict::TempFail => Self::TempFail,
            Verdict::Discard => Self::Discard,
            Verdict::Reply(text) => Self::SmtpReply(text),
        }
    }
}

impl Reply {
    /// The reply byte (`SMFIR_*`).
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Negotiate(_) => Offer::CODE,
            Self::Continue => b'c',
            Self::Accept => b'a',
            Self::Reject => b'r',
            Self::TempFail => b't',
            Self::Discard => b'd',
            Self::Skip => b's',
            Self::Progress => b'p',
            Self::SmtpReply(_) => b'y',
            Self::Edit(edit) => edit_code(edit),
            Self::Shutdown => b'4',
            Self::ConnectionFailed => b'f',
        }
    }

    /// Reads a frame from a filter. Bytes after a verdict that has none are ignored, as Sendmail
    /// does. Edits are read as they are: see [`Edit::clean`].
    ///
    /// # Errors
    /// When the type is unknown or the payload does not fit it.
    pub fn parse(frame: Frame) -> Result<Self, WireError> {
        let code = frame.code;
        let simple = match code {
            b'c' => Self::Continue,
            b'a' => Self::Accept,
            b'r' => Self::Reject,
            b't' => Self::TempFail,
            b'd' => Self::Discard,
            b's' => Self::Skip,
            b'p' => Self::Progress,
            b'4' => Self::Shutdown,
            b'f' => Self::ConnectionFailed,
            Offer::CODE | b'y' | b'h' | b'i' | b'm' | b'+' | b'2' | b'-' | b'e' | b'b' | b'q' => {
                return read(code, frame.payload).map_err(|reason| reason.of(code));
            }
            unknown => return Err(WireError::UnknownCode(unknown)),
        };
        Ok(simple)
    }

    /// Appends the reply as it goes on the wire.
    ///
    /// # Errors
    /// When a string holds a NUL; nothing is written then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::Negotiate(offer) => offer.encode(out),
            Self::SmtpReply(text) => write_strings(b'y', [text.as_bytes()], out),
            Self::Edit(edit) => write_edit(edit, out),
            Self::Continue
            | Self::Accept
            | Self::Reject
            | Self::TempFail
            | Self::Discard
            | Self::Skip
            | Self::Progress
            | Self::Shutdown
            | Self::ConnectionFailed => {
                put_frame(out, self.code(), &[]);
                Ok(())
            }
        }
    }
}

/// Recipients and senders without parameters have the shorter form.
const fn edit_code(edit: &Edit) -> u8 {
    match edit {
        Edit::AddHeader { .. } => b'h',
        Edit::InsertHeader { .. } => b'i',
        Edit::ChangeHeader { .. } => b'm',
        Edit::AddRecipient { args, .. } if args.is_empty() => b'+',
        Edit::AddRecipient { .. } => b'2',
        Edit::DeleteRecipient { .. } => b'-',
        Edit::ChangeSender { .. } => b'e',
        Edit::ReplaceBody(_) => b'b',
        Edit::Quarantine { .. } => b'q',
    }
}

/// Reads the replies that have a payload.
fn read(code: u8, bytes: Bytes) -> Result<Reply, Malformed> {
    let payload = Payload::new(bytes.clone());
    let edit = match code {
        Offer::CODE => return Offer::parse(bytes).map(Reply::Negotiate),
        b'y' => {
            let text = payload.only_string()?;
            return Ok(Reply::SmtpReply(SmtpReply::parse(&text)?));
        }
        b'h' => {
            let (name, value) = read_field(payload)?;
            Edit::AddHeader { name, value }
        }
        b'i' | b'm' => read_indexed(code, payload)?,
        b'+' => Edit::AddRecipient {
            address: payload.only_string()?,
            args: Bytes::new(),
        },
        b'2' => {
            let (address, args) = read_address(payload)?;
            Edit::AddRecipient { address, args }
        }
        b'-' => Edit::DeleteRecipient {
            address: payload.only_string()?,
        },
        b'e' => {
            let (address, args) = read_address(payload)?;
            Edit::ChangeSender { address, args }
        }
        b'q' => Edit::Quarantine {
            reason: payload.only_string()?,
        },
        _ => Edit::ReplaceBody(bytes),
    };
    Ok(Reply::Edit(edit))
}

fn read_indexed(code: u8, mut payload: Payload) -> Result<Edit, Malformed> {
    let index = payload.u32()?;
    let (name, value) = read_field(payload)?;
    Ok(if code == b'i' {
        Edit::InsertHeader { index, name, value }
    } else {
        Edit::ChangeHeader { index, name, value }
    })
}

fn read_field(mut payload: Payload) -> Result<(Bytes, Bytes), Malformed> {
    let name = payload.string()?;
    if name.is_empty() {
        return Err(Malformed::NoName);
    }
    Ok((name, payload.only_string()?))
}

/// An address and, where there is a second string, its parameters.
fn read_address(mut payload: Payload) -> Result<(Bytes, Bytes), Malformed> {
    let address = payload.string()?;
    if payload.is_empty() {
        return Ok((address, Bytes::new()));
    }
    Ok((address, payload.only_string()?))
}

fn write_edit(edit: &Edit, out: &mut BytesMut) -> Result<(), WireError> {
    let code = edit_code(edit);
    match edit {
        Edit::AddHeader { name, value } => write_strings(code, [&name[..], &value[..]], out),
        Edit::InsertHeader { index, name, value } | Edit::ChangeHeader { index, name, value } => {
            check_strings([&name[..], &value[..]]).map_err(|reason| reason.of(code))?;
            put_frame(
                out,
                code,
                &[&index.to_be_bytes(), name, b"\0", value, b"\0"],
            );
            Ok(())
        }
        Edit::AddRecipient { address, args } | Edit::ChangeSender { address, args } => {
            let args = Some(&args[..]).filter(|args| !args.is_empty());
            write_strings(code, [&address[..]].into_iter().chain(args), out)
        }
        Edit::DeleteRecipient { address } => write_strings(code, [&address[..]], out),
        Edit::Quarantine { reason } => write_strings(code, [&reason[..]], out),
        Edit::ReplaceBody(piece) => {
            put_frame(out, code, &[piece]);
            Ok(())
        }
    }
}
