//! Changes to a message: asked for at the end of the message only.

use bytes::Bytes;

use crate::wire::options::Actions;

/// One change, in the terms of the wire. Indexes and their differences between MTAs: see `session`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Append a header field (`SMFIR_ADDHEADER`).
    AddHeader {
        /// Field name.
        name: Bytes,
        /// Field body; folds are LF and white space.
        value: Bytes,
    },
    /// Insert a header field (`SMFIR_INSHEADER`): 0 is above everything, the MTA's own Received included.
    InsertHeader {
        /// Position.
        index: u32,
        /// Field name.
        name: Bytes,
        /// Field body.
        value: Bytes,
    },
    /// Change the `index`-th field of that name, counted from 1 (`SMFIR_CHGHEADER`); an empty value deletes it.
    ChangeHeader {
        /// Which one of that name, from 1.
        index: u32,
        /// Field name.
        name: Bytes,
        /// New field body, or empty to delete.
        value: Bytes,
    },
    /// Add an envelope recipient (`SMFIR_ADDRCPT`, with parameters `SMFIR_ADDRCPT_PAR`).
    AddRecipient {
        /// The address, brackets as the filter wrote them.
        address: Bytes,
        /// ESMTP parameters separated by spaces; empty for none.
        args: Bytes,
    },
    /// Remove an envelope recipient (`SMFIR_DELRCPT`).
    DeleteRecipient {
        /// The address, as given in the envelope.
        address: Bytes,
    },
    /// Replace the envelope sender (`SMFIR_CHGFROM`).
    ChangeSender {
        /// The address.
        address: Bytes,
        /// ESMTP parameters separated by spaces; empty for none.
        args: Bytes,
    },
    /// A piece of the new body (`SMFIR_REPLBODY`); all pieces together replace the old one.
    ReplaceBody(Bytes),
    /// Hold the message in the MTA's quarantine (`SMFIR_QUARANTINE`).
    Quarantine {
        /// Why, for the operator.
        reason: Bytes,
    },
}

impl Edit {
    /// Appends a header field.
    pub fn add(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::AddHeader {
            name: name.into(),
            value: value.into(),
        }
    }

    /// Inserts a header field at `index`.
    pub fn insert(index: u32, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::InsertHeader {
            index,
            name: name.into(),
            value: value.into(),
        }
    }

    /// Deletes the `index`-th field of that name, counted from 1.
    pub fn delete(index: u32, name: impl Into<Bytes>) -> Self {
        Self::ChangeHeader {
            index,
            name: name.into(),
            value: Bytes::new(),
        }
    }

    /// Changes the `index`-th field of that name, counted from 1.
    pub fn change(index: u32, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::ChangeHeader {
            index,
            name: name.into(),
            value: value.into(),
        }
    }

    /// What must have been negotiated for it.
    #[must_use]
    pub fn action(&self) -> Actions {
        match self {
            Self::AddHeader { .. } | Self::InsertHeader { .. } => Actions::ADD_HEADERS,
            Self::ChangeHeader { .. } => Actions::CHANGE_HEADERS,
            Self::AddRecipient { args, .. } if args.is_empty() => Actions::ADD_RECIPIENT,
            Self::AddRecipient { .. } => Actions::ADD_RECIPIENT_ARGS,
            Self::DeleteRecipient { .. } => Actions::DELETE_RECIPIENT,
            Self::ChangeSender { .. } => Actions::CHANGE_SENDER,
            Self::ReplaceBody(_) => Actions::CHANGE_BODY,
            Self::Quarantine { .. } => Actions::QUARANTINE,
        }
    }
}
