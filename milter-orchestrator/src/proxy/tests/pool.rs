//! Connections to filters that go from one client to the next.

use std::time::{Duration, Instant};

use milter_proto::wire::{Command, Offer, Reply, Steps};

use super::harness::{Act, Filter, Mta, PATIENCE, Stage, connect, mail, rcpt};

/// What a filter hears of one client with one message.
const CLIENT: &str = "C H:client.test M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B E";

/// A session with one message, which ends as the filter says.
async fn session(stage: &Stage) -> Reply {
    let mut mta = stage.mta().await;
    mta.greet().await;
    let word = mta.message("x\r\n").await.1;
    quit(stage, mta).await;
    word
}

/// Ends the session, and waits until the filters have been told.
async fn quit(stage: &Stage, mta: Mta) {
    mta.quit().await.unwrap();
    let told = |heard: String| heard.ends_with('K') || heard.ends_with('Q');
    let begin = Instant::now();
    while !told(stage.heard(0, stage.connections(0) - 1)) {
        assert!(begin.elapsed() < PATIENCE, "the filter is not told");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_connection_goes_on_with_the_next_client() {
    let stage = Stage::new(vec![vec![Filter::new("a").pool(2)]]);
    for _ in 0..3 {
        assert_eq!(session(&stage).await, Reply::Continue);
    }
    assert_eq!(stage.connections(0), 1);
    let expected = format!("{CLIENT} K {CLIENT} K {CLIENT} K");
    assert_eq!(stage.heard(0, 0), expected);
    // Not so where nobody asked for it.
    let stage = Stage::new(vec![vec![Filter::new("a")]]);
    for _ in 0..2 {
        assert_eq!(session(&stage).await, Reply::Continue);
    }
    assert_eq!(stage.connections(0), 2);
    assert_eq!(stage.heard(0, 0), format!("{CLIENT} Q"));
}

#[tokio::test]
async fn only_a_message_that_passed_or_was_aborted_leaves_it_usable() {
    let says = |reply| Filter::new("a").pool(1).on('E', Act::Say(vec![reply]));
    for (filter, connections) in [
        (says(Reply::Continue), 1),
        (says(Reply::Accept), 2),
        (says(Reply::Reject), 2),
    ] {
        let stage = Stage::new(vec![vec![filter]]);
        session(&stage).await;
        session(&stage).await;
        assert_eq!(stage.connections(0), connections);
    }
    let stage = Stage::new(vec![vec![Filter::new("a").pool(1)]]);
    for abort in [true, false] {
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.ask(mail()).await;
        mta.ask(rcpt("<r@x>")).await;
        // An MTA that just goes away in the middle is told of as an ABORT too.
        if abort {
            mta.send(Command::Abort).await;
        }
        quit(&stage, mta).await;
    }
    assert_eq!(stage.connections(0), 1);
    let aborted = "C H:client.test M<s@x> R<r@x> A K";
    assert_eq!(stage.heard(0, 0), format!("{aborted} {aborted}"));
    // One that has only heard of the client.
    let mut mta = stage.mta().await;
    mta.greet().await;
    quit(&stage, mta).await;
    assert!(stage.heard(0, 0).ends_with("K C H:client.test Q"));
}

#[tokio::test]
async fn case_196_one_that_does_not_work_any_more_is_replaced_once() {
    let filter = || Filter::new("a").pool(1);
    for stale in [
        // As libmilter does where it had not expected the command.
        filter().on_nth('C', 1, Act::Hang),
        filter().on_nth('C', 1, Act::Close),
        filter().on_nth('C', 1, Act::Raw(b"\0\0\0\x01?")),
        filter().on('K', Act::Close),
        filter().on('K', Act::Say(vec![Reply::Continue])),
    ] {
        let stage = Stage::new(vec![vec![stale]]);
        assert_eq!(session(&stage).await, Reply::Continue);
        let begin = Instant::now();
        assert_eq!(session(&stage).await, Reply::Continue);
        // Less than it hangs.
        assert!(begin.elapsed() < PATIENCE);
        assert_eq!(stage.connections(0), 2);
        assert_eq!(stage.heard(0, 1), format!("{CLIENT} K"));
        assert_eq!(stage.members[0].health.fallbacks(), 0);
        assert_eq!(stage.members[0].health.replays(), 0);
    }
    // With the new one broken as well, the policy speaks.
    let stage = Stage::new(vec![vec![
        filter()
            .on_nth('C', 1, Act::Close)
            .once(1, 'C', Act::Close)
            .once(2, 'C', Act::Close)
            .once(3, 'C', Act::Close),
    ]]);
    assert_eq!(session(&stage).await, Reply::Continue);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.ask(mail()).await, Reply::TempFail);
}

#[tokio::test]
async fn no_more_are_kept_than_allowed_and_none_for_another_offer() {
    let stage = Stage::new(vec![vec![Filter::new("a").pool(1)]]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut mta = stage.mta().await;
        mta.greet().await;
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        clients.push(mta);
    }
    for mta in clients {
        mta.quit().await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(session(&stage).await, Reply::Continue);
    }
    assert_eq!(stage.connections(0), 3);
    // Another MTA, without leading space: what was negotiated does not fit.
    let mut mta = stage.raw_mta();
    let poor = Offer {
        steps: Offer::full().steps - Steps::LEADING_SPACE,
        ..Offer::full()
    };
    assert!(matches!(
        mta.ask(Command::Negotiate(poor)).await,
        Reply::Negotiate(_)
    ));
    assert_eq!(stage.connections(0), 4);
}

/// What a filter said unasked would be taken for the answer to the next client's CONNECT, and every
/// answer after it for the one before.
#[tokio::test]
async fn on_one_with_something_unread_nothing_more_is_said() {
    for stale in [Act::Say(vec![Reply::Continue]), Act::Raw(b"\0"), Act::Close] {
        let reject = Act::Say(vec![Reply::Reject]);
        let filter = Filter::new("a").pool(1).on('K', stale).once(1, 'E', reject);
        let stage = Stage::new(vec![vec![filter]]);
        assert_eq!(session(&stage).await, Reply::Continue);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(session(&stage).await, Reply::Reject);
        assert_eq!(stage.heard(0, 0), format!("{CLIENT} K"));
        assert_eq!(stage.connections(0), 2);
    }
}

#[tokio::test]
async fn one_that_is_gone_is_passed_over() {
    let filter = Filter::new("a").pool(2).once(1, 'K', Act::Close);
    let stage = Stage::new(vec![vec![filter]]);
    let mut first = stage.mta().await;
    first.greet().await;
    first.message("x\r\n").await;
    // The newest is the one that closes.
    assert_eq!(session(&stage).await, Reply::Continue);
    first.quit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    for _ in 0..2 {
        assert_eq!(session(&stage).await, Reply::Continue);
    }
    assert_eq!(stage.connections(0), 2);
}

#[tokio::test]
async fn what_was_said_of_one_client_is_not_told_of_the_next() {
    let stage = Stage::new(vec![vec![Filter::new("a")]]);
    let mut mta = stage.mta().await;
    mta.macros('C', &[("v", "Postfix 3.7.11")]).await;
    mta.ask(connect()).await;
    // The client goes before its HELO.
    mta.macros('H', &[("{cert_subject}", "somebody")]).await;
    mta.send(Command::QuitReuse).await;
    mta.greet().await;
    assert_eq!(stage.macros(0, 'H'), "");
}
