//! Chains of filters on a real mail server, with the orchestrator and without: the scenarios that
//! were written, and some random ones. Many more run with `cargo xtask integration`.

use std::net::SocketAddr;
use std::sync::Arc;

use milter_proto::testkit::Scenario;
use milter_tests::equivalence::campaign::{self, Watch};
use milter_tests::equivalence::mta::{Entry, Mta};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::rig::Rig;
use milter_tests::sendmail::{Installation, start_mta};
use milter_tests::skip::skip;

/// How many random scenarios, always the same ones.
const RANDOM: u64 = 80;

/// And on sendmail, which is slower.
const RANDOM_ON_SENDMAIL: u64 = 20;

/// Written for what is easily got wrong: the name, the filters, the message. All run with the same
/// dialogue, by the default and strictly.
const WRITTEN: &[(&str, &str)] = &[
    (
        "a change of a field that is not there adds it",
        r#"
filter one
  actions change-headers
  at end: change 10 "Received" "x"; change 1 "X-New" "y"; continue
"#,
    ),
    (
        "what one adds, the next finds at its place",
        r#"
filter one
  actions add-headers change-headers
  at end: insert 0 "X-A" "top"; insert 1 "X-A" "below"; add "X-A" "end"; continue
filter two
  actions add-headers change-headers
  at end: delete 3 "X-A"; change 2 "x-a" "changed"; insert 2 "X-B" "mid"; continue
filter three
  actions add-headers change-headers
  at end: delete 1 "Received"; insert 100 "X-C" "last"; continue
"#,
    ),
    (
        "deletions shift what comes behind them",
        r#"
filter one
  actions change-headers
  at end: delete 1 "X-A"; change 1 "X-A" "first now"; delete 2 "X-A"; continue
filter two
  actions change-headers
  at end: change 1 "X-A" "again"; continue
"#,
    ),
    (
        "the last body counts, and ends with a line end",
        r#"
filter one
  actions change-body
  at end: replace-body "first body"; continue
filter two
  actions change-body
  at end: replace-body "second\nbody\r"; replace-body "\nno end"; continue
"#,
    ),
    (
        "recipients and sender in order",
        r#"
filter one
  actions add-recipient delete-recipient change-sender
  at end: add-recipient "<n1@equal.test>"; sender "<one@from.test>"; continue
filter two
  actions delete-recipient change-sender add-recipient-args
  at end: delete-recipient "<n1@equal.test>"; delete-recipient "<r1@equal.test>";
    add-recipient "n2@equal.test" "NOTIFY=NEVER";
    sender "<two@from.test>" "RET=HDRS"; continue
"#,
    ),
    (
        "parameters of a sender outlive it",
        r#"
filter one
  actions change-sender
  at end: sender "<one@from.test>" "RET=HDRS ENVID=e1"; continue
filter two
  actions change-sender
  at end: sender "<two@from.test>"; continue
"#,
    ),
    (
        "quarantine by the last filter",
        r#"
filter one
  actions add-headers
  at end: add "X-A" "1"; continue
filter two
  actions quarantine
  at end: quarantine "odd"; continue
"#,
    ),
    (
        "a refused recipient is that one alone",
        r#"
filter one
  at rcpt 2: reply "550-5.7.1 not\r\n550 5.7.1 100%% you"
filter two
  actions add-headers
  at end: add "X-A" "1"; continue
"#,
    ),
    (
        "a client that is refused for now is so at any command",
        r#"
filter one
filter two
  at connect: reply "450 4.7.1 come back"
"#,
    ),
    (
        "a name that a filter discards means nothing",
        r#"
filter one
  at helo: discard
filter two
  at rcpt 2: tempfail
"#,
    ),
    (
        "an accepted unknown command accepts the message",
        r#"
filter one
  actions add-headers
  at unknown 2 of-connection: accept
  at rcpt: reject
  at end: add "X-B" "end"; continue
filter two
  actions add-headers
  at end: add "X-A" "end"; continue
"#,
    ),
    (
        "a refusal drops the edits of all",
        r#"
filter one
  actions add-headers
  at end: add "X-A" "1"; continue
filter two
  at end: reply "451 4.7.1 later"
"#,
    ),
];

/// As [`WRITTEN`], on Postfix.
const WRITTEN_FOR_POSTFIX: &[(&str, &str)] = &[(
    "a line feed in a value becomes a fold, as Postfix writes it",
    r#"
filter one
  actions add-headers change-headers
  at end: add "X-B" "line\nend\n fold\n\tfold"; change 1 "X-A" "line\nend\n fold"; continue
filter two
  actions add-headers
  at end: insert 1 "X-C" "a\n\nb\n:c"; continue
"#,
)];

/// As [`WRITTEN`], where a route that is not strict deviates on purpose.
const STRICT: &[(&str, &str)] = &[
    (
        "the reason of a quarantine is a filter's own",
        r#"
filter one
  actions quarantine
  at end: quarantine "odd"; quarantine "very odd"; continue
filter two
  actions quarantine
  at end: quarantine "quite usual"; continue
"#,
    ),
    (
        "line ends in a value stay as the server leaves them",
        r#"
filter one
  actions add-headers change-headers
  at end: add "X-B" "a\r\nb\r\n c\rd\n"; change 1 "X-A" "e\nf\r\n\n"; continue
filter two
  actions add-headers
  at end: insert 1 "X-C" "\r\ng\r"; continue
"#,
    ),
];

/// As [`STRICT`], on Sendmail.
const STRICT_ON_SENDMAIL: &[(&str, &str)] = &[(
    "a client that a filter discards is no filter's business",
    r#"
filter one
  at mail: tempfail
filter two
  at connect: discard
filter three
  at rcpt: reject
"#,
)];

/// What Sendmail does in its own way: the client sends neither Date nor From nor Message-Id.
const WRITTEN_FOR_SENDMAIL: &[(&str, &str)] = &[
    (
        "fields that Sendmail makes up are deleted, replaced, and deleted again",
        r#"
filter one
  actions add-headers change-headers
  at end: delete 1 "Date"; add "From" "f@x.test"; change 7 "Message-Id" "<m@x.test>"; continue
filter two
  actions add-headers change-headers
  at end: add "Date" "a date"; change 1 "From" "g@x.test"; delete 1 "Message-Id";
    insert 5 "X-B" "5"; continue
filter three
  actions add-headers change-headers
  at end: add "From" "h@x.test"; change 2 "Received" "new"; add "Received" "top"; continue
"#,
    ),
    (
        "what was deleted keeps its place, and its number until somebody looks",
        r#"
filter one
  actions change-headers
  at end: delete 1 "X-A"; delete 1 "Subject"; delete 1 "Received"; continue
filter two
  actions add-headers change-headers
  steps no-headers
  at end: change 1 "X-A" "is back"; delete 2 "X-A"; insert 10 "X-B" "10"; continue
filter three
  actions add-headers change-headers
  at end: add "Subject" "new"; add "Received" "new"; change 9 "X-A" "into the gap"; continue
"#,
    ),
    (
        "edits at every height, in the order that holds on both servers",
        r#"
filter one
  actions add-headers change-headers
  at end: change 2 "X-A" "changed"; delete 1 "X-A"; delete 1 "Received"; insert 11 "X-Mid" "m";
    insert 1 "X-Low" "2"; insert 1 "X-Low" "1"; insert 0 "X-Top" "2"; insert 0 "X-Top" "1";
    add "X-End" "1"; add "X-Last" "2"; continue
filter two
  actions add-headers change-headers
  at end: insert 0 "X-C" "above"; insert 1 "X-C" "second"; insert 2 "X-C" "third";
    insert 2147483647 "X-A" "end"; add "X-A" "first of its name"; continue
"#,
    ),
    (
        "bare line ends in a new body, and no end",
        r#"
filter one
  actions change-body
  at end: replace-body "bare\nlf\n.\r\nno end"; continue
filter two
  actions add-headers
  at end: add "X-A" "1"; continue
"#,
    ),
];

const DIALOGUE: &str = r#"
smtp
  C: EHLO client.test
  C: FOO
  C: VRFY r1@equal.test
  C: MAIL FROM:<s@from.test> BODY=8BITMIME
  C: RCPT TO:<r1@equal.test> NOTIFY=NEVER
  C: RCPT TO:<r2@equal.test>
  C: DATA
  | Received: from a by b
  | X-A: one
  | x-a:two
  | Subject:  spaces
  | X-A:
  |  three
  |
  | hello
  | .
  C: RSET
  C: MAIL FROM:<>
  C: RCPT TO:<nobody@equal.test>
  C: BAR
  C: RCPT TO:<r1@equal.test>
  C: RCPT TO:<r2@equal.test>
  C: DATA
  |
  C: QUIT
"#;

fn postfix(entries: &[Entry], sink: SocketAddr) -> anyhow::Result<Arc<dyn Mta>> {
    Ok(Arc::new(Postfix::start(entries, sink)?))
}

/// Nobody looks on.
struct Unwatched;

impl Watch for Unwatched {
    fn progress(&self, _: usize, _: usize) {}
    fn differs(&self, _: &str) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_200_postfix_does_the_same() {
    if let Some(why) = Postfix::missing() {
        skip("equivalence::case_200_postfix_does_the_same", why);
        return;
    }
    let rig = Rig::start(3, postfix).await.unwrap();
    check(&rig, WRITTEN, &[false, true]).await;
    check(&rig, WRITTEN_FOR_POSTFIX, &[false, true]).await;
    check(&rig, STRICT, &[true]).await;
    check_random(&rig, RANDOM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendmail_does_the_same() {
    if let Err(error) = Installation::find() {
        skip("equivalence::sendmail_does_the_same", &format!("{error:#}"));
        return;
    }
    let rig = Rig::start(2, start_mta).await.unwrap();
    check(&rig, WRITTEN, &[false, true]).await;
    check(&rig, WRITTEN_FOR_SENDMAIL, &[false, true]).await;
    check(&rig, STRICT, &[true]).await;
    check(&rig, STRICT_ON_SENDMAIL, &[true]).await;
    check_random(&rig, RANDOM_ON_SENDMAIL).await;
}

/// Runs what was written, in routes that are strict or not.
async fn check(rig: &Rig, written: &[(&str, &str)], kinds: &[bool]) {
    for (name, filters) in written {
        for strict in kinds.iter().copied() {
            let mut scenario = Scenario::parse(name, &format!("{filters}{DIALOGUE}")).unwrap();
            scenario.chain.strict = strict;
            let found = rig.compare(&scenario).await.unwrap();
            if let Some(found) = found {
                panic!("{name}, strict {strict}: {found}\n{}", rig.log());
            }
        }
    }
}

/// Runs so many random scenarios.
async fn check_random(rig: &Rig, count: u64) {
    let summary = campaign::run(rig, 1, count, &Unwatched).await.unwrap();
    assert_eq!(summary.ran as u64, count);
    assert!(
        summary.failures.is_empty(),
        "{}",
        summary.failures.join("\n")
    );
}

/// The comparison must be able to fail: a scenario that asks for a known deviation differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found_and_made_small() {
    if let Some(why) = Postfix::missing() {
        skip("equivalence::a_difference_is_found_and_made_small", why);
        return;
    }
    let rig = Rig::start(1, postfix).await.unwrap();
    // Postfix asks nobody after a quarantine; the orchestrator does.
    let filters = r#"
filter one
  actions quarantine
  at end: quarantine "odd"; continue
filter two
  actions add-headers
  at end: add "X-A" "1"; add "X-B" "2"; continue
"#;
    let scenario = Scenario::parse("deviation", &format!("{filters}{DIALOGUE}")).unwrap();
    let found = rig.compare(&scenario).await.unwrap().unwrap();
    let shrink = milter_tests::equivalence::shrink::shrink;
    let (smallest, difference) = shrink(&rig, scenario, found).await.unwrap();
    assert_eq!(smallest.filters.len(), 2, "{smallest}");
    let steps = smallest.smtp[0].steps.len();
    assert!(steps <= 5, "{smallest}\n{difference}");
}
