//! Filters that cannot start or are killed while mail flows.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milter_orchestrator::member::Readiness;
use milter_proto::edit::Edit;
use milter_proto::net::Address;
use milter_proto::verdict::Verdict;
use milter_tests::mta::{Delivery, Envelope, Message, Mta, deliver};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;

use super::stack::{Site, Stack};

const MESSAGE: &str = "From: <stranger@example.net>\n\
    To: <user@example.org>\n\
    Date: Mon, 1 Jan 2024 00:00:00 +0000\n\
    Message-ID: <1@example.net>\n\
    Subject: greetings\n\
    \n\
    Hello.\n";

/// The policies, each with what a test calls it.
const POLICIES: [&str; 4] = ["accept", "tempfail", "reject", "quarantine"];

/// A filter that never starts, once for each policy, before one that works; a listener for each.
fn broken(site: &Site) -> String {
    let mut text = site.frame() + &site.milter("dkim");
    let path = site.path().display();
    for policy in POLICIES {
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "[listen.{policy}]\nsocket = \"unix:{path}/{policy}.sock\"\n\
             [milter.broken-{policy}]\ncommand = [\"false\"]\non_failure = \"{policy}\"\n\
             [[route]]\nmatch = {{ listen = \"{policy}\" }}\n\
             chain = [\"broken-{policy}\", \"dkim\"]"
        );
    }
    text + "[[route]]\nchain = []\n"
}

fn is_temporary(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::TempFail => true,
        Verdict::Reply(reply) => reply.is_temporary(),
        Verdict::Continue | Verdict::Accept | Verdict::Reject | Verdict::Discard => false,
    }
}

fn is_permanent(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Reject => true,
        Verdict::Reply(reply) => !reply.is_temporary(),
        Verdict::Continue | Verdict::Accept | Verdict::TempFail | Verdict::Discard => false,
    }
}

#[tokio::test]
async fn the_policy_of_a_filter_that_never_starts_is_applied() {
    let site = Site::without_clamd();
    let text = broken(&site);
    let stack = site.start_with(&text);
    stack.wait_until("dkim up, the others given up for now", |stack| {
        let expected = |name: &str| match name {
            "dkim" => Readiness::Ready,
            _ => Readiness::Open,
        };
        let mut milters = stack.milters().into_iter();
        milters.all(|milter| milter.readiness == expected(&milter.name))
    });
    let message = Message::parse(MESSAGE.as_bytes());
    for policy in POLICIES {
        let address = Address::Unix(stack.site().path().join(format!("{policy}.sock")));
        let delivery = deliver(&address, &Envelope::default(), &message).await;
        let delivery = delivery.unwrap_or_else(|error| panic!("{policy}: {error:#}"));
        let context = format!("{policy}: {delivery:?}\n{}", stack.process.output());
        match policy {
            "accept" | "quarantine" => assert!(delivery.is_taken(), "{context}"),
            "tempfail" => assert!(is_temporary(&delivery.verdict), "{context}"),
            _ => assert!(is_permanent(&delivery.verdict), "{context}"),
        }
        let held = |edit: &Edit| matches!(edit, Edit::Quarantine { .. });
        let is_held = delivery.edits.iter().any(held);
        assert_eq!(is_held, policy == "quarantine", "{context}");
        if delivery.is_taken() {
            // The filter behind the broken one was asked nevertheless.
            let results = message
                .edited(&delivery.edits)
                .values("Authentication-Results");
            assert_eq!(results.len(), 1, "{context}");
        }
        let broken = stack.milter(&format!("broken-{policy}"));
        assert_eq!((broken.messages, broken.fallbacks), (0, 1), "{context}");
    }
}

/// What became of the messages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Taken with the mark of every filter.
    seen: u32,
    /// Taken without one of them.
    unseen: u32,
    /// Refused for now.
    deferred: u32,
    /// Refused for good, or changed into something else.
    wrong: u32,
    /// No answer at all.
    lost: u32,
}

impl Tally {
    fn add(&mut self, message: &Message, marks: &[&str], outcome: anyhow::Result<Delivery>) {
        let Ok(delivery) = outcome else {
            self.lost += 1;
            return;
        };
        let delivered = message.edited(&delivery.edits);
        let count = |mark: &&str| delivered.values(mark).len();
        let whole = marks.iter().map(count).all(|count| count == 1);
        if !delivery.is_taken() {
            let now = is_temporary(&delivery.verdict);
            self.deferred += u32::from(now);
            self.wrong += u32::from(!now);
        } else if whole {
            self.seen += 1;
        } else {
            self.unseen += 1;
        }
    }

    fn join(&mut self, other: &Self) {
        self.seen += other.seen;
        self.unseen += other.unseen;
        self.deferred += other.deferred;
        self.wrong += other.wrong;
        self.lost += other.lost;
    }
}

const SESSIONS: u32 = 4;

/// Filters that are killed, one after the other.
const KILLS: u64 = 9;

/// One SMTP session with messages until told to stop.
async fn session(address: Address, marks: Vec<&'static str>, done: Arc<AtomicBool>) -> Tally {
    let envelope = Envelope::default();
    let message = Message::parse(MESSAGE.as_bytes());
    let mut tally = Tally::default();
    let mut mta = None;
    while !done.load(Ordering::Relaxed) {
        if mta.is_none() {
            let mut fresh = Mta::connect(&address).await.unwrap();
            let greeted = fresh.greet(&envelope).await.unwrap();
            assert_eq!(greeted, Verdict::Continue);
            mta = Some(fresh);
        }
        if let Some(open) = &mut mta {
            let outcome = open.send(&envelope, &message).await;
            let broken = outcome.is_err();
            tally.add(&message, &marks, outcome);
            if broken {
                mta = None;
            }
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    if let Some(mta) = mta {
        mta.quit().await;
    }
    tally
}

/// Kills one filter after the other, each when it is up, and seldom enough that its breaker stays
/// closed.
fn kill_filters(stack: &Stack) {
    let pause = || {
        std::thread::sleep(Duration::from_millis(1000));
        stack.wait_until_up();
    };
    let filters = stack.site().filters();
    for (name, _) in filters.iter().cycle().zip(0..KILLS) {
        pause();
        let pid = stack.milter(name).pid.expect("it is up again");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    pause();
}

async fn no_message_suffers(parallel: bool) {
    let site = Site::new();
    let mut marks = vec!["Authentication-Results", "X-Spamd-Result"];
    if site.has_clamd() {
        marks.push("X-Virus-Status");
    }
    let chain = site.chain(parallel);
    let stack = Arc::new(site.start(&chain));
    let done = Arc::new(AtomicBool::new(false));
    let killer = tokio::task::spawn_blocking({
        let (stack, done) = (Arc::clone(&stack), Arc::clone(&done));
        move || {
            kill_filters(&stack);
            done.store(true, Ordering::Relaxed);
        }
    });
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (address, done) = (stack.address.clone(), Arc::clone(&done));
        sessions.spawn(session(address, marks.clone(), done));
    }
    let mut tally = Tally::default();
    while let Some(ended) = sessions.join_next().await {
        tally.join(&ended.unwrap());
    }
    killer.await.unwrap();
    println!("{KILLS} filters killed: {tally:?}");
    let restarts: u64 = stack.milters().iter().map(|milter| milter.restarts).sum();
    assert_eq!(restarts, KILLS, "{}", stack.process.output());
    assert!(u64::from(tally.seen) > KILLS, "{tally:?}");
    let expected = Tally {
        seen: tally.seen,
        ..Tally::default()
    };
    assert_eq!(tally, expected, "{}", stack.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_filters_in_parallel_cost_no_message() {
    no_message_suffers(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_filters_in_sequence_cost_no_message() {
    no_message_suffers(false).await;
}
