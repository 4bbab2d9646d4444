//! Two conversations, and one end of a message, as they were recorded, restated as data: what
//! Postfix 3.7.11 and Sendmail 8.17.1.9 sent, and what the filter behind them answered.

use bytes::{BufMut, BytesMut};

/// A conversation: each command (code and payload) with the reply to it, empty for none.
pub(crate) struct Capture {
    /// The protocol steps in the filter's answer.
    pub(crate) steps: u32,
    /// Commands and replies.
    pub(crate) turns: &'static [(&'static [u8], &'static [u8])],
}

impl Capture {
    /// All commands as they went over the wire, and all replies.
    pub(crate) fn streams(&self) -> (BytesMut, BytesMut) {
        let mut sides = (BytesMut::new(), BytesMut::new());
        for (command, reply) in self.turns {
            put(&mut sides.0, command);
            put(&mut sides.1, reply);
        }
        sides
    }
}

fn put(out: &mut BytesMut, frame: &[u8]) {
    if !frame.is_empty() {
        out.put_u32(u32::try_from(frame.len()).unwrap());
        out.put_slice(frame);
    }
}

const OFFER: &[u8] = b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";

/// Nothing is left out. Macros come before every header field; an ABORT after every message.
pub(crate) const POSTFIX: Capture = Capture {
    steps: 0,
    turns: &[
        (OFFER, b"O\0\0\0\x06\0\0\x01\xff\0\0\0\0"),
        (
            b"DCj\0mx.lab.test\0{daemon_name}\0mx.lab.test\0{daemon_addr}\x00127.0.0.1\0\
              v\0Postfix 3.7.11\0_\0localhost [127.0.0.1]\0",
            b"",
        ),
        (b"Clocalhost\x004\x8b\x72127.0.0.1\0", b"c"),
        (b"DH", b""),
        (b"Hclient.test\0", b"c"),
        (b"DU", b""),
        (b"UFOO\0", b"c"),
        (
            b"DM{mail_addr}\0s@x.test\0{mail_host}\0x.test\0{mail_mailer}\0discard\0",
            b"",
        ),
        (b"M<s@x.test>\0BODY=8BITMIME\0SIZE=100\0", b"c"),
        (
            b"DR{rcpt_addr}\0r1@lab.test\0{rcpt_host}\0lab.test\0{rcpt_mailer}\0discard\0",
            b"",
        ),
        (b"R<r1@lab.test>\0NOTIFY=NEVER\0", b"c"),
        (b"DRi\x001E2149DC027\0{rcpt_addr}\0r2@lab.test\0", b""),
        (b"R<r2@lab.test>\0", b"c"),
        (b"DTi\x001E2149DC027\0", b""),
        (b"T", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LReceived\0from a by b; date\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LSubject\0 two spaces\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LX-Tab\0\ttabbed\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LX-Fold\0line1\n\tline2\n  line3\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LX-Empty\0\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LX-8bit\0caf\xc3\xa9\0", b"c"),
        (b"DLi\x001E2149DC027\0", b""),
        (
            b"LMessage-Id\0<20261122134301.1E2149DC027@mx.lab.test>\0",
            b"c",
        ),
        (b"DLi\x001E2149DC027\0", b""),
        (b"LDate\0Sun, 22 Nov 2026 13:43:01 +0000\0", b"c"),
        (b"DNi\x001E2149DC027\0", b""),
        (b"N", b"c"),
        (b"DBi\x001E2149DC027\0", b""),
        (b"Bbody line1\r\n.dot\r\nlast\r\n", b"c"),
        (b"DEi\x001E2149DC027\0", b""),
        (b"E", b"c"),
        (b"A", b""),
        (
            b"DM{mail_addr}\0\0{mail_host}\0mx.lab.test\0{mail_mailer}\0discard\0",
            b"",
        ),
        (b"M<>\0", b"c"),
        (b"A", b""),
        (b"A", b""),
        (b"Q", b""),
    ],
};

/// Skip was negotiated and is used. No ABORT after a complete message, one for RSET.
pub(crate) const SENDMAIL: Capture = Capture {
    steps: 0x400,
    turns: &[
        (OFFER, b"O\0\0\0\x06\0\0\x01\xff\0\0\x04\0"),
        (
            b"DCj\0sm.lab.test\0_\0localhost [127.0.0.1]\0{daemon_name}\0MTA\0\
              {if_name}\0localhost\0",
            b"",
        ),
        (b"Clocalhost\x004\xa6\x2c127.0.0.1\0", b"c"),
        (b"DH", b""),
        (b"Hc.test\0", b"c"),
        (b"UBAR zz\0", b"c"),
        (
            b"DMi\x006AMDhMMR013809\0{mail_mailer}\0relay\0{mail_host}\0[127.0.0.1]\0\
              {mail_addr}\0s@x.test\0",
            b"",
        ),
        (b"M<s@x.test>\0", b"c"),
        (
            b"DR{rcpt_mailer}\0relay\0{rcpt_host}\0[127.0.0.1]\0{rcpt_addr}\0r1@lab.test\0",
            b"",
        ),
        (b"R<r1@lab.test>\0", b"c"),
        (
            b"DR{rcpt_mailer}\0local\0{rcpt_host}\0\0{rcpt_addr}\0nosuch-user\0",
            b"",
        ),
        (b"R<nosuch-user@sm.lab.test>\0", b"c"),
        (b"T", b"c"),
        (b"LSubject\0x\0", b"c"),
        (b"LX-A\x001\0", b"c"),
        (b"LFrom\0a@lab.test\0", b"c"),
        (b"N", b"c"),
        (b"Bbody\r\n", b"s"),
        (
            b"DE{msg_id}\0<202611221343.6AMDhMMR013809@sm.lab.test>\0",
            b"",
        ),
        (b"E", b"c"),
        (b"DM{mail_addr}\0s2@x.test\0", b""),
        (b"M<s2@x.test>\0", b"c"),
        (b"A", b""),
        (b"Q", b""),
    ],
};

/// What a filter says at the end of a message when it edits in every way that positions matter for:
/// on both MTAs it comes to the same header.
pub(crate) const EDITS: &[&[u8]] = &[
    b"m\0\0\0\x02A\0changed\0",
    b"m\0\0\0\x01A\0\0",
    b"m\0\0\0\x01Received\0\0",
    b"i\0\0\0\x03Mid\0v\0",
    b"i\0\0\0\x01Below2\0v\0",
    b"i\0\0\0\x01Below1\0v\0",
    b"i\0\0\0\0Top2\0v\0",
    b"i\0\0\0\0Top1\0v\0",
    b"hTail1\0v\0",
    b"hTail2\0v\0",
    b"c",
];

/// [`EDITS`] as they go over the wire.
pub(crate) fn edits() -> BytesMut {
    let mut out = BytesMut::new();
    for frame in EDITS {
        put(&mut out, frame);
    }
    out
}
