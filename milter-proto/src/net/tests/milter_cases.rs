//! The answering side's cases of the conformance list that need a stream or a clock. Where a filter
//! takes its time, the clock is the test's own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{DuplexStream, duplex};

use super::counting::{Count, Counting};
use super::*;
use crate::filter::{Context, Filter, Needs, Transaction};
use crate::message::Path;
use crate::net::{ConnectionError, Peer, Stop, converse};
use crate::verdict::{Outcome, Verdict};

type Ended = JoinHandle<Result<(), ConnectionError>>;

/// A filter on a stream in memory, and the MTA's end of it.
fn running<F: Filter>(filter: Arc<F>, limits: Limits) -> (DuplexStream, Count, Ended) {
    let (near, far) = duplex(1 << 20);
    let count = Count::default();
    let stream = Counting(far, count.clone());
    let peer = Peer::from("test");
    let task = tokio::spawn(converse(filter, stream, peer, limits, Stop::never()));
    (near, count, task)
}

/// Sends frames and gives all that comes back until the server closes, which a QUIT sees to.
async fn talk(sent: &[&[u8]], limits: Limits) -> String {
    let (mut near, _, task) = running(Arc::new(Probe(Steps::SKIP)), limits);
    near.write_all(&frames(sent)).await.unwrap();
    let mut replies = Vec::new();
    near.read_to_end(&mut replies).await.unwrap();
    task.await.unwrap().unwrap();
    replies.escape_ascii().to_string()
}

fn shown(replies: &[&[u8]]) -> String {
    frames(replies).escape_ascii().to_string()
}

const RCPT: &[u8] = b"R<r@x>\0";

#[tokio::test]
async fn case_042_replies_to_one_write_leave_in_one() {
    let (mut near, count, _task) = running(Arc::new(Probe(Steps::SKIP)), Limits::default());
    let sent = frames(&[OFFER, b"DCj\0mx\0", b"Cx\0U"]);
    near.write_all(&sent).await.unwrap();
    let mut replies = vec![0; frames(&[ANSWER, b"c"]).len()];
    patient(near.read_exact(&mut replies)).await.unwrap();
    assert_eq!(replies, frames(&[ANSWER, b"c"]));
    assert_eq!(count.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn case_070_progress_while_the_end_is_worked_on() {
    let sent = [
        OFFER,
        b"Cx\0U",
        b"M<nap@end>\0",
        RCPT,
        b"T",
        b"N",
        b"E",
        b"Q",
    ];
    let replies = talk(&sent, Limits::default()).await;
    let mut expected = vec![ANSWER];
    expected.extend([&b"c"[..]; 5]);
    expected.extend([b"p", b"p", &b"hX-Size\x000\0"[..], b"c"]);
    assert_eq!(replies, shown(&expected));
}

#[tokio::test(start_paused = true)]
async fn case_071_no_progress_at_rcpt() {
    let patient = Limits {
        stage: Duration::from_secs(60),
        ..Limits::default()
    };
    let sent = [OFFER, b"Cx\0U", b"M<nap@rcpt>\0", RCPT, b"Q"];
    let replies = talk(&sent, patient).await;
    assert_eq!(replies, shown(&[ANSWER, b"c", b"c", b"c"]));
}

#[tokio::test]
async fn case_072_nothing_counts_after_quit() {
    let sent = [OFFER, b"Cx\0U", b"Q", b"M<s@x>\0", b"X", b"E"];
    let replies = patient(talk(&sent, Limits::default())).await;
    assert_eq!(replies, shown(&[ANSWER, b"c"]));
}

/// Writes down what happens to its messages.
#[derive(Default)]
struct Book {
    begun: AtomicUsize,
    dropped: AtomicUsize,
    told: Mutex<Vec<String>>,
}

struct Keeper(Arc<Book>);

struct Kept(Arc<Book>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Filter for Keeper {
    type Transaction = Kept;

    fn needs(&self) -> Needs {
        Needs {
            steps: Steps::RCPT_REJECTED,
            ..Needs::default()
        }
    }

    fn begin(&self, _cx: Context<'_>) -> Kept {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        Kept(Arc::clone(&self.0))
    }
}

impl Kept {
    fn note(&self, what: &str, recipient: &Path) {
        let address = recipient.address.escape_ascii();
        self.0
            .told
            .lock()
            .unwrap()
            .push(format!("{what} {address}"));
    }
}

impl Transaction for Kept {
    async fn rcpt(&mut self, _cx: Context<'_>, recipient: Path) -> Verdict {
        self.note("asked", &recipient);
        Verdict::Reject
    }

    async fn rejected_rcpt(&mut self, cx: Context<'_>, recipient: Path) {
        assert_eq!(cx.macro_value("rcpt_addr").unwrap(), "no such user");
        self.note("told", &recipient);
    }

    async fn finish(self, _cx: Context<'_>) -> Outcome {
        Outcome::default()
    }
}

/// What comes of a client that sends this and then closes: messages begun and dropped.
async fn closing_after(sent: &[&[u8]]) -> (usize, usize) {
    let book = Arc::new(Book::default());
    let filter = Arc::new(Keeper(Arc::clone(&book)));
    let (mut near, _, task) = running(filter, Limits::default());
    near.write_all(&frames(sent)).await.unwrap();
    near.shutdown().await.unwrap();
    patient(task).await.unwrap().unwrap();
    let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    (load(&book.begun), load(&book.dropped))
}

#[tokio::test]
async fn case_074_the_end_inside_a_message() {
    let sent: &[&[u8]] = &[OFFER, b"Cx\0U", b"M<s@x>\0", b"R<r@x>\0", b"T"];
    assert_eq!(closing_after(sent).await, (1, 1));
    // ABORT and the end are one end to the message.
    let sent: &[&[u8]] = &[OFFER, b"Cx\0U", b"M<s@x>\0", b"A", b"A"];
    assert_eq!(closing_after(sent).await, (1, 1));
}

#[tokio::test]
async fn case_075_the_end_between_messages() {
    assert_eq!(closing_after(&[OFFER, b"Cx\0U"]).await, (0, 0));
    assert_eq!(closing_after(&[]).await, (0, 0));
}

#[tokio::test]
async fn case_082_a_recipient_that_the_mta_refused() {
    let book = Arc::new(Book::default());
    let filter = Arc::new(Keeper(Arc::clone(&book)));
    let (mut near, _, task) = running(filter, Limits::default());
    let sent: &[&[u8]] = &[
        OFFER,
        b"Cx\0U",
        b"M<s@x>\0",
        b"DR{rcpt_mailer}\0error\0{rcpt_host}\x005.1.1\0{rcpt_addr}\0no such user\0",
        b"R<gone@x>\0",
        b"DR{rcpt_mailer}\0local\0{rcpt_host}\0\0{rcpt_addr}\0r\0",
        b"R<r@x>\0",
        b"Q",
    ];
    near.write_all(&frames(sent)).await.unwrap();
    let mut replies = Vec::new();
    patient(near.read_to_end(&mut replies)).await.unwrap();
    patient(task).await.unwrap().unwrap();
    let answer: &[u8] = b"O\0\0\0\x06\0\0\0\0\0\0\x09\0";
    let expected = shown(&[answer, b"c", b"c", b"c", b"r"]);
    assert_eq!(replies.escape_ascii().to_string(), expected);
    let told = book.told.lock().unwrap().join(", ");
    assert_eq!(told, "told <gone@x>, asked <r@x>");
}
