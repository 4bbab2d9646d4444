//! Header fields and body are told to a filter without waiting for its answer to each, and the MTA
//! is answered before.

use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Command, Reply, Steps};

use super::harness::{Act, Filter, PATIENCE, Stage, header, settle};
use crate::member::OnFailure;

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

#[tokio::test]
async fn an_empty_chunk_keeps_nobody_waiting() {
    // Nobody else can be told of it, and the first filter has not begun.
    let filters = vec![Filter::new("a").steps(Steps::NO_BODY), Filter::new("b")];
    let stage = Stage::with_limits(vec![filters], |limits| {
        limits.stage_postfix = Duration::from_secs(3);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    for command in [
        header("A", " b"),
        Command::EndOfHeaders,
        Command::Body(Bytes::new()),
    ] {
        assert_eq!(mta.ask(command).await, Reply::Continue);
    }
    assert_eq!(mta.end().await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert!(
        stage.heard(0, 0).contains("L:A=b N E"),
        "{}",
        stage.heard(0, 0)
    );
}

#[tokio::test]
async fn whoever_is_far_behind_with_the_body_has_failed_in_time() {
    let stuck = plain("a").on_nth('L', 0, Act::Hang);
    let stuck = stuck.on_failure(OnFailure::Accept);
    let stage = Stage::with_limits(vec![vec![stuck, plain("b")]], |limits| {
        limits.lag = 1000;
        limits.stage_postfix = Duration::from_secs(3);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    assert_eq!(mta.ask(header("A", " b")).await, Reply::Continue);
    assert_eq!(mta.ask(Command::EndOfHeaders).await, Reply::Continue);
    let begun = Instant::now();
    for _ in 0..20 {
        // More than sockets hold: it is not read.
        let chunk = Command::Body(Bytes::from(vec![b'x'; 60_000]));
        assert_eq!(mta.ask(chunk).await, Reply::Continue);
    }
    // Its own time is not over by far.
    assert!(begun.elapsed() < PATIENCE / 2);
    assert_eq!(mta.end().await.1, Reply::Continue);
    assert_eq!(stage.body(1, 0).len(), 1_200_000);
}

#[tokio::test]
async fn who_answers_many_fields_slowly_is_not_hurried_by_the_body() {
    let slow = Act::after(600, Act::Say(vec![Reply::Continue]));
    let filter = Filter::new("a").on('L', slow);
    let stage = Stage::with_limits(vec![vec![filter]], |limits| {
        limits.stage_postfix = Duration::from_secs(3);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    for _ in 0..8 {
        assert_eq!(mta.ask(header("A", " b")).await, Reply::Continue);
    }
    assert_eq!(mta.ask(Command::EndOfHeaders).await, Reply::Continue);
    let chunk = Command::Body(Bytes::from_static(b"x\r\n"));
    assert_eq!(mta.ask(chunk).await, Reply::Continue);
    assert_eq!(mta.end().await.1, Reply::Continue);
    assert_eq!(stage.connections(0), 1);
}

#[tokio::test]
async fn a_kept_connection_has_only_its_first_answer_to_prove_itself() {
    let silent =
        Steps::NR_CONNECT | Steps::NR_HELO | Steps::NR_MAIL | Steps::NR_RCPT | Steps::NR_DATA;
    let slow = Act::after(2500, Act::Say(vec![Reply::Continue]));
    let filter = Filter::new("a").steps(silent).pool(1).on('B', slow);
    let stage = Stage::new(vec![vec![filter]]);
    for client in 0..2 {
        let mut mta = stage.mta().await;
        mta.greet().await;
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        mta.quit().await.unwrap();
        let begun = Instant::now();
        while stage.heard(0, 0).matches('K').count() <= client {
            assert!(begun.elapsed() < PATIENCE, "{}", stage.heard(0, 0));
            settle().await;
        }
    }
    assert_eq!(stage.connections(0), 1);
}

#[tokio::test]
async fn a_first_message_is_told_piece_by_piece() {
    // Only that shows an answer too many, before any message can pass by it.
    let twice = Act::Say(vec![Reply::Continue, Reply::Continue]);
    let filter = plain("a").untried().on_nth('L', 0, twice);
    let stage = Stage::new(vec![vec![filter.on('E', Act::Say(vec![Reply::Reject]))]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    for message in 0..2 {
        assert_eq!(mta.message("x\r\n").await.1, Reply::TempFail, "{message}");
        let heard = stage.heard(0, message);
        assert!(heard.ends_with("T L:Received=r1"), "{heard}");
    }
    // One that keeps step is told the second in one go.
    let slow = Act::after(100, Act::Say(vec![Reply::Continue]));
    let stage = Stage::new(vec![vec![plain("a").untried().on('L', slow)]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    for in_step in [false, true] {
        assert_eq!(stage.members[0].health.keeps_step(), in_step);
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    }
}

#[tokio::test]
async fn a_filter_that_was_out_of_step_is_not_told_ahead_any_more() {
    let twice = Act::Say(vec![Reply::Continue, Reply::Continue]);
    let slow = Act::after(100, Act::Say(vec![Reply::Continue]));
    let filter = plain("a").on_nth('L', 0, twice).on('B', slow);
    let stage = Stage::new(vec![vec![filter.on('E', Act::Say(vec![Reply::Reject]))]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    // It kept step before: its answer to the body is taken for the last word, nobody can tell.
    mta.message("x\r\n").await;
    let begun = Instant::now();
    while stage.members[0].health.keeps_step() {
        assert!(begun.elapsed() < PATIENCE, "{}", stage.heard(0, 0));
        settle().await;
    }
    // Step by step the two answers come together.
    assert_eq!(mta.message("x\r\n").await.1, Reply::TempFail);
    assert!(
        stage.heard(0, 1).ends_with("T L:Received=r1"),
        "{}",
        stage.heard(0, 1)
    );
}
