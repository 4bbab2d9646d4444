//! Header fields and body are told to a filter without waiting for its answer to each, and the MTA
//! is answered before.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Command, Reply, Steps};

use super::harness::{Act, Filter, Stage, header};

/// A filter that answers everything and wants everything.
fn plain(name: &'static str) -> Filter {
    Filter::new(name).steps(Steps::empty())
}

const INTRODUCTION: &str = "C H:client.test M<s@x> R<r@x> T";
const CONTENT: &str = "L:Received=r1 L:Subject=s N B";

#[tokio::test]
async fn the_mta_does_not_wait_for_answers_to_content() {
    let word = Act::Say(vec![Reply::Reject]);
    for letter in ['L', 'N', 'B'] {
        let slow = plain("a").on_nth(letter, 0, Act::after(500, word.clone()));
        for segments in [
            vec![vec![slow.clone()]],
            vec![vec![slow.clone(), plain("b")]],
        ] {
            let stage = Stage::new(segments);
            let mut mta = stage.mta().await;
            mta.greet().await;
            mta.envelope().await;
            // Nothing that could be slow has been said by then.
            assert_eq!(mta.content("x\r\n").await, Reply::Continue, "{letter}");
            assert_eq!(mta.end().await.1, Reply::Reject, "{letter}");
        }
        // Step by step it does.
        let stage = Stage::strict(vec![slow]);
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.envelope().await;
        assert_eq!(mta.content("x\r\n").await, Reply::Reject, "{letter}");
    }
}

#[tokio::test]
async fn a_filter_that_may_skip_the_body_is_waited_for() {
    let skip = Act::after(50, Act::Say(vec![Reply::Skip]));
    let stage = Stage::new(vec![vec![Filter::new("a").on('B', skip.clone())]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    assert_eq!(mta.ask(header("A", " b")).await, Reply::Continue);
    assert_eq!(mta.ask(Command::EndOfHeaders).await, Reply::Continue);
    let chunk = Command::Body(Bytes::from_static(b"x\r\n"));
    assert_eq!(mta.ask(chunk.clone()).await, Reply::Skip);
    assert_eq!(mta.end().await.1, Reply::Continue);
    // Beside one that wants all of it, nobody could skip anything.
    let stage = Stage::new(vec![vec![Filter::new("a").on('B', skip), plain("b")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    for command in [Command::EndOfHeaders, chunk.clone(), chunk] {
        assert_eq!(mta.ask(command).await, Reply::Continue);
    }
    assert_eq!(mta.end().await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert!(stage.heard(0, 0).contains("N B E"));
    assert!(stage.heard(1, 0).contains("N B B E"));
}

#[tokio::test]
async fn after_a_word_in_the_middle_the_filter_is_connected_anew() {
    for word in [Reply::Reject, Reply::Discard, Reply::Accept] {
        let edit = Edit::add("X", "y");
        let filter = plain("a")
            .once(0, 'L', Act::Say(vec![word.clone()]))
            .on('E', Act::edits(vec![edit], Reply::Continue));
        let stage = Stage::new(vec![vec![filter, plain("b")]]);
        let mut mta = stage.mta().await;
        mta.greet().await;
        let expected = match &word {
            // The other one has the last word then.
            Reply::Accept => Reply::Continue,
            word => word.clone(),
        };
        assert_eq!(mta.message("x\r\n").await, (Vec::new(), expected));
        if word == Reply::Discard {
            mta.send(Command::Abort).await;
        }
        let (edits, last) = mta.message("x\r\n").await;
        assert_eq!((edits.len(), last), (1, Reply::Continue), "{word:?}");
        mta.quit().await.unwrap();
        stage.closed().await;
        assert_eq!(stage.connections(0), 2, "{word:?}");
        assert_eq!(stage.heard(0, 0), format!("{INTRODUCTION} {CONTENT} Q"));
        assert_eq!(stage.heard(0, 1), format!("{INTRODUCTION} {CONTENT} E Q"));
        assert_eq!(stage.connections(1), 1, "{word:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_given_up_leaves_the_connection_in_step() {
    let slow = Act::after(100, Act::Say(vec![Reply::Continue]));
    let stage = Stage::new(vec![vec![plain("a").on('L', slow)]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    assert_eq!(mta.content("x\r\n").await, Reply::Continue);
    mta.send(Command::Abort).await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(stage.connections(0), 1);
    let message = format!("M<s@x> R<r@x> T {CONTENT}");
    let expected = format!("C H:client.test {message} A {message} E Q");
    assert_eq!(stage.heard(0, 0), expected);
}

#[tokio::test]
async fn a_filter_that_crashes_in_the_middle_is_told_all_again() {
    for letter in ['L', 'N', 'B'] {
        let filter = plain("a").once(0, letter, Act::Close);
        let stage = Stage::new(vec![vec![filter]]);
        let mut mta = stage.mta().await;
        mta.greet().await;
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        mta.quit().await.unwrap();
        stage.closed().await;
        assert_eq!(stage.heard(0, 1), format!("{INTRODUCTION} {CONTENT} E Q"));
    }
}
