//! Many messages over one connection, and the two ways of an administrator to run the filter.

use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;
use milter_tests::mta::{Envelope, Message, Mta};

use super::masks::BY_ITSELF;
use super::runs::{Sample, Way};

/// Messages on one connection.
const MESSAGES: usize = 1_000;

/// The field that the filter writes: the number of the message.
async fn numbers(sample: &Sample, way: Way) -> Vec<String> {
    let envelope = Envelope::default();
    let message = Message::parse(b"Subject: x\n\nHello.\n");
    let mut mta = Mta::connect(&sample.address(way)).await.unwrap();
    assert_eq!(mta.greet(&envelope).await.unwrap(), Verdict::Continue);
    let mut numbers = Vec::new();
    for number in 1..=MESSAGES {
        let delivery = mta.send(&envelope, &message).await;
        let delivery = delivery.unwrap_or_else(|error| panic!("{way:?} {number}: {error:#}"));
        assert_eq!(delivery.verdict, Verdict::Continue, "{way:?} {number}");
        for edit in delivery.edits {
            match edit {
                Edit::AddHeader { value, .. } => {
                    numbers.push(String::from_utf8_lossy(value.trim_ascii()).into_owned());
                }
                other => panic!("{way:?} {number}: {other:?}"),
            }
        }
    }
    mta.quit().await;
    numbers
}

/// No reply is lost on the way, nor made up.
#[tokio::test]
async fn case_143_a_thousand_messages_on_one_connection() {
    let Some(sample) = Sample::start("case_143", BY_ITSELF) else {
        return;
    };
    let expected: Vec<String> = (1..=MESSAGES).map(|number| number.to_string()).collect();
    // With an answer to everything, and with as few answers as there can be.
    for steps in ["0", "ff080"] {
        sample.set_script(&format!("actions\t1\nsteps\t{steps}\ncount\n"));
        for way in [Way::Direct, Way::Behind] {
            assert_eq!(numbers(&sample, way).await, expected, "{way:?} {steps}");
        }
    }
}

/// libmilter binds its socket by itself: on a port as on a path.
#[tokio::test]
async fn a_filter_that_binds_its_own_port() {
    let ip = milter_tests::equivalence::mta::private_address();
    let port = milter_tests::equivalence::mta::free_ports(ip, 1).unwrap()[0];
    let on_a_port = BY_ITSELF.replace("{folder}/behind.sock", &format!("inet:{port}@{ip}"));
    let on_a_port = on_a_port.replace("unix:inet", "inet");
    let Some(sample) = Sample::start("a_filter_that_binds_its_own_port", &on_a_port) else {
        return;
    };
    sample.set_script("actions\t1\nadd\tX-New\tvalue\n");
    let direct = sample.run(Way::Direct).await;
    let behind = sample.run(Way::Behind).await;
    assert_eq!(direct.difference(&behind), None, "{}", sample.output());
}
