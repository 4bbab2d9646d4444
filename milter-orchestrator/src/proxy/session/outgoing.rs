//! What is to be written to the MTA, in order. A body is read only as it is written.

use std::collections::VecDeque;

use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;
use milter_proto::wire::Reply;

use crate::proxy::spool::Spool;

/// Something to be written.
#[derive(Debug)]
enum Item {
    Reply(Reply),
    /// A whole new body, from this offset on; `begun` once a piece of it is out.
    Body {
        spool: Spool,
        offset: u64,
        begun: bool,
    },
}

/// The replies that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    items: VecDeque<Item>,
}

impl Outgoing {
    /// Appends a reply.
    pub(super) fn push(&mut self, reply: Reply) {
        self.items.push_back(Item::Reply(reply));
    }

    /// Appends a body, in one uninterrupted run of pieces: Postfix refuses anything else.
    pub(super) fn push_body(&mut self, spool: Spool) {
        self.items.push_back(Item::Body {
            spool,
            offset: 0,
            begun: false,
        });
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next reply.
    pub(super) fn next(&mut self) -> Option<Reply> {
        loop {
            match self.items.pop_front()? {
                Item::Reply(reply) => return Some(reply),
                Item::Body {
                    spool,
                    offset,
                    begun,
                } => match spool.read(offset) {
                    Ok(piece) if piece.is_empty() && begun => {}
                    Ok(piece) => {
                        // A first empty piece is an empty body.
                        let offset = offset + piece.len() as u64;
                        self.items.push_front(Item::Body {
                            spool,
                            offset,
                            begun: true,
                        });
                        return Some(Reply::Edit(Edit::ReplaceBody(piece)));
                    }
                    Err(error) => {
                        tracing::error!(%error, "new body lost, the message is refused for now");
                        // Edits count for nothing without a positive verdict.
                        self.items.clear();
                        return Some(Reply::from(Verdict::TempFail));
                    }
                },
            }
        }
    }
}
