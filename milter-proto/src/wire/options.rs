//! Option negotiation (`SMFIC_OPTNEG`): version, actions, protocol steps, and the macro names asked
//! for.

use bitflags::bitflags;
use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::error::{Malformed, WireError};
use crate::wire::frame::put_frame;
use crate::wire::macros::bare;
use crate::wire::strings::{Payload, check_strings};

bitflags! {
    /// What a filter may do to a message (`SMFIF_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Actions: u32 {
        /// Add and insert header fields (`SMFIF_ADDHDRS`).
        const ADD_HEADERS = 0x001;
        /// Replace the body (`SMFIF_CHGBODY`).
        const CHANGE_BODY = 0x002;
        /// Add recipients (`SMFIF_ADDRCPT`).
        const ADD_RECIPIENT = 0x004;
        /// Delete recipients (`SMFIF_DELRCPT`).
        const DELETE_RECIPIENT = 0x008;
        /// Change and delete header fields (`SMFIF_CHGHDRS`).
        const CHANGE_HEADERS = 0x010;
        /// Quarantine the message (`SMFIF_QUARANTINE`).
        const QUARANTINE = 0x020;
        /// Change the envelope sender (`SMFIF_CHGFROM`).
        const CHANGE_SENDER = 0x040;
        /// Add recipients with ESMTP parameters (`SMFIF_ADDRCPT_PAR`).
        const ADD_RECIPIENT_ARGS = 0x080;
        /// Name the macros it wants (`SMFIF_SETSYMLIST`).
        const SET_MACRO_LIST = 0x100;
    }

    /// What the MTA need not send, what the filter does not answer, and what both understand
    /// (`SMFIP_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Steps: u32 {
        /// No CONNECT (`SMFIP_NOCONNECT`).
        const NO_CONNECT = 0x00_0001;
        /// No HELO (`SMFIP_NOHELO`).
        const NO_HELO = 0x00_0002;
        /// No MAIL (`SMFIP_NOMAIL`).
        const NO_MAIL = 0x00_0004;
        /// No RCPT (`SMFIP_NORCPT`).
        const NO_RCPT = 0x00_0008;
        /// No body chunks (`SMFIP_NOBODY`).
        const NO_BODY = 0x00_0010;
        /// No header fields (`SMFIP_NOHDRS`).
        const NO_HEADERS = 0x00_0020;
        /// No end of headers (`SMFIP_NOEOH`).
        const NO_EOH = 0x00_0040;
        /// No reply to header fields (`SMFIP_NR_HDR`).
        const NR_HEADER = 0x00_0080;
        /// No unknown commands (`SMFIP_NOUNKNOWN`, from version 3).
        const NO_UNKNOWN = 0x00_0100;
        /// No DATA (`SMFIP_NODATA`, from version 4).
        const NO_DATA = 0x00_0200;
        /// Skip is understood (`SMFIP_SKIP`).
        const SKIP = 0x00_0400;
        /// Rejected recipients are sent too (`SMFIP_RCPT_REJ`).
        const RCPT_REJECTED = 0x00_0800;
        /// No reply to CONNECT (`SMFIP_NR_CONN`).
        const NR_CONNECT = 0x00_1000;
        /// No reply to HELO (`SMFIP_NR_HELO`).
        const NR_HELO = 0x00_2000;
        /// No reply to MAIL (`SMFIP_NR_MAIL`).
        const NR_MAIL = 0x00_4000;
        /// No reply to RCPT (`SMFIP_NR_RCPT`).
        const NR_RCPT = 0x00_8000;
        /// No reply to DATA (`SMFIP_NR_DATA`).
        const NR_DATA = 0x01_0000;
        /// No reply to unknown commands (`SMFIP_NR_UNKN`).
        const NR_UNKNOWN = 0x02_0000;
        /// No reply to the end of headers (`SMFIP_NR_EOH`).
        const NR_EOH = 0x04_0000;
        /// No reply to body chunks (`SMFIP_NR_BODY`).
        const NR_BODY = 0x08_0000;
        /// Header values keep their leading white space (`SMFIP_HDR_LEADSPC`).
        const LEADING_SPACE = 0x10_0000;
        /// Frames up to 256 KiB (`SMFIP_MDS_256K`): known, never negotiated.
        const MDS_256K = 0x1000_0000;
        /// Frames up to 1 MiB (`SMFIP_MDS_1M`): known, never negotiated.
        const MDS_1M = 0x2000_0000;
    }
}

/// The stages for which a filter can name macros; the number is the one on the wire (`SMFIM_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MacroStage {
    /// `SMFIM_CONNECT`
    Connect = 0,
    /// `SMFIM_HELO`
    Helo = 1,
    /// `SMFIM_ENVFROM`
    Mail = 2,
    /// `SMFIM_ENVRCPT`
    Rcpt = 3,
    /// `SMFIM_DATA`
    Data = 4,
    /// `SMFIM_EOM`
    EndOfMessage = 5,
    /// `SMFIM_EOH`
    EndOfHeaders = 6,
}

impl Steps {
    /// Every stage that can be left out.
    pub const NO_ALL: Self = Self::NO_CONNECT
        .union(Self::NO_HELO)
        .union(Self::NO_MAIL)
        .union(Self::NO_RCPT)
        .union(Self::NO_DATA)
        .union(Self::NO_HEADERS)
        .union(Self::NO_EOH)
        .union(Self::NO_BODY)
        .union(Self::NO_UNKNOWN);
    /// Every stage that can go without a reply.
    pub const NR_ALL: Self = Self::NR_CONNECT
        .union(Self::NR_HELO)
        .union(Self::NR_MAIL)
        .union(Self::NR_RCPT)
        .union(Self::NR_DATA)
        .union(Self::NR_HEADER)
        .union(Self::NR_EOH)
        .union(Self::NR_BODY)
        .union(Self::NR_UNKNOWN);
    /// What can be negotiated: all but the frame sizes.
    pub const NEGOTIABLE: Self = Self::NO_ALL
        .union(Self::NR_ALL)
        .union(Self::SKIP)
        .union(Self::RCPT_REJECTED)
        .union(Self::LEADING_SPACE);
}

impl MacroStage {
    /// All stages, in the order in which a message passes them.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::EndOfHeaders,
        Self::EndOfMessage,
    ];

    /// The stage of a number on the wire (`SMFIM_*`).
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as u32 == number)
    }

    /// The stage whose macros are sent with this command byte; `None` for commands without a stage
    /// of their own (`L`, `B`, `U`).
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.code() == code)
    }

    /// The command byte that macros of this stage carry.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Connect => b'C',
            Self::Helo => b'H',
            Self::Mail => b'M',
            Self::Rcpt => b'R',
            Self::Data => b'T',
            Self::EndOfHeaders => b'N',
            Self::EndOfMessage => b'E',
        }
    }

    /// Position in the life of a connection: 0 for CONNECT to 6 for the end of the message. It
    /// differs from the number on the wire, where the end of headers comes last.
    #[must_use]
    pub const fn order(self) -> u8 {
        match self {
            Self::Connect => 0,
            Self::Helo => 1,
            Self::Mail => 2,
            Self::Rcpt => 3,
            Self::Data => 4,
            Self::EndOfHeaders => 5,
            Self::EndOfMessage => 6,
        }
    }
}

/// An OPTNEG frame in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Protocol version, 2 to 6.
    pub version: u32,
    /// Actions allowed (from the MTA) or wanted (from the filter). Unknown bits are kept.
    pub actions: Actions,
    /// Steps. Unknown bits are kept.
    pub steps: Steps,
    /// Macro names for each stage, separated by spaces; in a filter's answer only.
    pub macros: Vec<(MacroStage, Bytes)>,
}

impl Offer {
    pub(crate) const CODE: u8 = b'O';

    /// What an MTA that knows everything offers: this version, all actions, all steps but the
    /// frame sizes. Postfix and Sendmail send just this.
    #[must_use]
    pub fn full() -> Self {
        Self {
            version: super::VERSION,
            actions: Actions::all(),
            steps: Steps::NEGOTIABLE,
            macros: Vec::new(),
        }
    }

    /// The macros to be sent for `stage` to the filter that answered so, out of those `known`, in
    /// the order in which it names them. Where it names none, `default` counts (names separated by
    /// spaces). An empty list counts as none, as for Postfix; Sendmail would send nothing. What is
    /// not known is left out.
    #[must_use]
    pub fn select(
        &self,
        stage: MacroStage,
        known: &[(Bytes, Bytes)],
        default: &str,
    ) -> Vec<(Bytes, Bytes)> {
        let mut lists = self.macros.iter();
        let list = lists.find(|(of, names)| *of == stage && !names.is_empty());
        let names = list.map_or(default.as_bytes(), |(_, names)| names);
        let names = names.split(|byte| *byte == b' ');
        names
            .filter_map(|name| known.iter().find(|(key, _)| bare(key) == bare(name)))
            .cloned()
            .collect()
    }

    /// Reads the payload. A list for a stage that does not exist is left out, as Postfix does.
    pub(crate) fn parse(payload: Bytes) -> Result<Self, Malformed> {
        let mut payload = Payload::new(payload);
        let version = payload.u32()?;
        let actions = Actions::from_bits_retain(payload.u32()?);
        let steps = Steps::from_bits_retain(payload.u32()?);
        let mut macros = Vec::new();
        while !payload.is_empty() {
            let stage = MacroStage::from_number(payload.u32()?);
            let names = payload.string()?;
            macros.extend(stage.map(|stage| (stage, names)));
        }
        Ok(Self {
            version,
            actions,
            steps,
            macros,
        })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        check_strings(self.macros.iter().map(|(_, names)| &names[..]))
            .map_err(|reason| reason.of(Self::CODE))?;
        let mut payload = BytesMut::new();
        payload.put_u32(self.version);
        payload.put_u32(self.actions.bits());
        payload.put_u32(self.steps.bits());
        for (stage, names) in &self.macros {
            payload.put_u32(*stage as u32);
            payload.put_slice(names);
            payload.put_u8(0);
        }
        put_frame(out, Self::CODE, &[&payload]);
        Ok(())
    }
}
