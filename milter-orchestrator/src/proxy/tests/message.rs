//! Messages on their way: sequence and parallel, edits, bodies, several messages.
use super::harness::*;
use milter_proto::edit::Edit;
use milter_proto::wire::{Command, Reply, Steps};

#[tokio::test]
async fn a_message_passes_through_two_filters_in_sequence() {
    let stage = Stage::new(vec![vec![Filter::new("a")], vec![Filter::new("b")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    let (edits, verdict) = mta.message("hello\r\n").await;
    assert_eq!((edits.len(), verdict), (0, Reply::Continue));
    mta.quit().await.unwrap();
    stage.closed().await;
    let told = "C H:client.test M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B E";
    assert_eq!(stage.heard(0, 0), format!("{told} Q"));
    assert_eq!(stage.heard(1, 0), format!("{told} Q"));
    assert_eq!(stage.body(1, 0), "hello\r\n");
}
