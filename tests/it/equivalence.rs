//! Chains of filters on a real mail server, with the orchestrator and without.

use std::net::SocketAddr;
use std::sync::Arc;

use milter_proto::testkit::Scenario;
use milter_tests::equivalence::mta::{Entry, Mta};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::rig::Rig;
use milter_tests::skip::skip;

fn postfix(entries: &[Entry], sink: SocketAddr) -> anyhow::Result<Arc<dyn Mta>> {
    Ok(Arc::new(Postfix::start(entries, sink)?))
}

const FIRST: &str = r#"
filter one
  actions add-headers change-headers
  at end: insert 0 "X-Top" "1"; add "X-End" "2"; continue
filter two
  actions add-headers change-headers
  at end: change 1 "X-End" "3"; continue
smtp
  C: EHLO client.test
  C: MAIL FROM:<a@from.test>
  C: RCPT TO:<b@equal.test>
  C: DATA
  | Subject: x
  |
  | hello
  C: QUIT
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_does_the_same() {
    if let Some(why) = Postfix::missing() {
        skip("equivalence::postfix_does_the_same", why);
        return;
    }
    let rig = Rig::start(1, postfix).await.unwrap();
    let scenario = Scenario::parse("first", FIRST).unwrap();
    let found = rig.compare(&scenario).await.unwrap();
    if let Some(found) = found {
        panic!("{found}\n{}", rig.log());
    }
}
