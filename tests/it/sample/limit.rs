//! A header field that is more than libmilter takes, and a filter beside it that takes it.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::Header;
use milter_proto::net::Address;
use milter_proto::testkit::{FilterServer, Scenario};
use milter_proto::verdict::Verdict;
use milter_proto::wire::Command;
use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::programs::Daemon;

use super::masks::BY_ITSELF;
use super::runs::{Sample, Way};

/// libmilter's largest payload is 65,535 bytes.
const CONFIGURATION: &str = r#"
[milter.small]
socket = "<small>"
on_failure = "<policy>"
[milter.large]
socket = "<large>"
[[route]]
chain = ["small", "large"]
"#;

const LARGE: &str =
    "filter large\nactions change-headers\nat end: change 1 \"X-Long\" \"cut\"; continue";

/// The field, with as many bytes of value behind the space.
fn field(size: usize) -> Header {
    Header::new("X-Long", format!(" {}", "x".repeat(size)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_198_a_field_over_the_limit_of_libmilter() {
    let Some(sample) = Sample::start("case_198", BY_ITSELF) else {
        return;
    };
    sample.set_script("actions\t1\nadd\tX-Small\tvalue\n");
    let script = Scenario::parse("case_198", LARGE)
        .unwrap()
        .filters
        .remove(0);
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("large.sock"));
    let large = FilterServer::start(&address, script).await.unwrap();
    let cut = Edit::change(1, "X-Long", "cut");
    let small = Edit::add("X-Small", "value");
    let fits = Verdict::Continue;
    for (size, policy, verdict, edits) in [
        (60_000, "tempfail", fits.clone(), vec![cut.clone(), small]),
        (70_000, "accept", fits, vec![cut]),
        (70_000, "tempfail", Verdict::TempFail, Vec::new()),
        (70_000, "reject", Verdict::Reject, Vec::new()),
    ] {
        let text = CONFIGURATION.replace("<policy>", policy);
        let text = text.replace("<small>", &sample.address(Way::Direct).to_string());
        let text = text.replace("<large>", &address.to_string());
        let daemon = Daemon::orchestrator(&text).unwrap();
        let context = || format!("{size} {policy}\n{}", daemon.process.output());
        let mut mta = Mta::connect(&daemon.address).await.unwrap();
        let envelope = Envelope::default();
        let greeted = mta.greet(&envelope).await.unwrap();
        assert_eq!(greeted, Verdict::Continue, "{}", context());
        let message = Message {
            headers: vec![field(size)],
            body: Bytes::from_static(b"Hello.\r\n"),
        };
        let delivery = mta.send(&envelope, &message).await;
        let delivery = delivery.unwrap_or_else(|error| panic!("{error:#}\n{}", context()));
        assert_eq!(delivery.verdict, verdict, "{}", context());
        assert_eq!(trimmed(delivery.edits), edits, "{}", context());
        mta.quit().await;
        // The other filter was told all of it, where it was told anything.
        let told = large.take_transcript().into_iter();
        let told: Vec<Header> = told
            .filter_map(|told| match told.command {
                Ok(Command::Header(field)) if field.is("X-Long") => Some(field),
                _ => None,
            })
            .collect();
        let whole = |told: &Header| told.value == field(size).value.trim_ascii_start();
        assert!(told.iter().all(whole), "{}", context());
        assert_eq!(
            told.len(),
            usize::from(verdict == Verdict::Continue),
            "{}",
            context()
        );
    }
}

/// Values without white space around them.
fn trimmed(edits: Vec<Edit>) -> Vec<Edit> {
    let trim = |value: Bytes| Bytes::copy_from_slice(value.trim_ascii());
    let trimmed = edits.into_iter().map(|edit| match edit {
        Edit::AddHeader { name, value } => Edit::add(name, trim(value)),
        Edit::ChangeHeader { index, name, value } => Edit::change(index, name, trim(value)),
        edit => edit,
    });
    trimmed.collect()
}
