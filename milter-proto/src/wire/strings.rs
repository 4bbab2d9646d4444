//! Strings that end in NUL, as payloads hold them. Reading shares the buffer; nothing is copied.

use bytes::{Buf, Bytes};

use crate::wire::error::Malformed;

/// Strings in one payload. A line of SMTP has no room for as many; what is kept for each is many
/// times the one byte that it may have.
pub(crate) const STRINGS_MAX: usize = 1024;

/// Reads a payload from front to back.
pub(crate) struct Payload(Bytes);

impl Payload {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self(payload)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes up to the next NUL, which is consumed.
    pub(crate) fn string(&mut self) -> Result<Bytes, Malformed> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Malformed::NoNul)?;
        let string = self.0.split_to(end);
        self.0.advance(1);
        Ok(string)
    }

    /// All strings that are left.
    pub(crate) fn strings(mut self) -> Result<Vec<Bytes>, Malformed> {
        let mut all = Vec::new();
        while !self.is_empty() {
            if all.len() == STRINGS_MAX {
                return Err(Malformed::TooMany(STRINGS_MAX));
            }
            all.push(self.string()?);
        }
        Ok(all)
    }

    /// The one string that the payload is: a NUL at its end and nowhere else.
    pub(crate) fn only_string(mut self) -> Result<Bytes, Malformed> {
        let string = self.string()?;
        self.end().map_err(|_| Malformed::InnerNul)?;
        Ok(string)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed::TooShort)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.0.try_get_u16().map_err(|_| Malformed::TooShort)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed::TooShort)
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }
}

/// The refusal to write a string that holds a NUL: the peer would read another frame than was
/// meant.
pub(crate) fn check_strings<'a>(
    strings: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), Malformed> {
    for string in strings {
        if string.contains(&0) {
            return Err(Malformed::InnerNul);
        }
    }
    Ok(())
}
