//! Macros: names and values that an MTA sends ahead of a command (`SMFIC_MACRO`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::error::{Malformed, WireError};
use crate::wire::frame::put_frame;
use crate::wire::strings::{Payload, STRINGS_MAX, check_strings};

/// A macro frame: for which command, and the pairs in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macros {
    /// The command byte they belong to (`b'C'`, `b'M'` …).
    pub stage: u8,
    /// Name, with braces where the MTA wrote them, and value. An empty value is not an absent one.
    pub pairs: Vec<(Bytes, Bytes)>,
}

impl Macros {
    pub(crate) const CODE: u8 = b'D';

    /// A macro's value by its name, braces aside.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        let name = bare(name.as_bytes());
        let mut pairs = self.pairs.iter();
        pairs.find_map(|(key, value)| (bare(key) == name).then_some(value))
    }

    pub(crate) fn parse(payload: Bytes) -> Result<Self, Malformed> {
        let mut payload = Payload::new(payload);
        let stage = payload.u8()?;
        let mut pairs = Vec::new();
        while !payload.is_empty() {
            if pairs.len() == STRINGS_MAX {
                return Err(Malformed::TooMany(STRINGS_MAX));
            }
            let name = payload.string()?;
            if payload.is_empty() {
                return Err(Malformed::NoValue);
            }
            pairs.push((name, payload.string()?));
        }
        Ok(Self { stage, pairs })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let strings = self.pairs.iter().flat_map(|(key, value)| [key, value]);
        check_strings(strings.clone().map(|string| &string[..]))
            .map_err(|reason| reason.of(Self::CODE))?;
        let mut payload = BytesMut::new();
        payload.put_u8(self.stage);
        for string in strings {
            payload.put_slice(string);
            payload.put_u8(0);
        }
        put_frame(out, Self::CODE, &[&payload]);
        Ok(())
    }
}

/// A macro's name without the braces that names of several letters mostly have.
pub(crate) fn bare(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"{")
        .and_then(|name| name.strip_suffix(b"}"))
        .unwrap_or(name)
}
