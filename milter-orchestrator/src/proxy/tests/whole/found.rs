//! What chance found, made small.

use std::time::Duration;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Actions, Command, Offer, Reply, Steps};

use crate::member::OnFailure;
use crate::proxy::tests::harness::{Act, Filter, Mta, Stage, connect, helo, mail, rcpt};

/// DATA that the proxy makes up for a filter has an answer of its own: it was taken for the
/// filter's last word on the message.
#[tokio::test]
async fn the_answer_to_what_was_made_up_is_not_the_last_word() {
    let table = [
        ('E', Act::Say(vec![Reply::Reject]), Reply::Reject),
        ('T', Act::Say(vec![Reply::TempFail]), Reply::TempFail),
    ];
    for (letter, act, expected) in table {
        let filter = Filter::new("wants DATA").steps(Steps::NO_EOH);
        let stage = Stage::new(vec![vec![filter.on(letter, act)]]);
        let mut mta = stage.raw_mta();
        let old = Offer {
            version: 3,
            actions: Actions::all(),
            steps: Steps::NEGOTIABLE - Steps::NO_DATA,
            macros: Vec::new(),
        };
        mta.send(Command::Negotiate(old)).await;
        assert!(matches!(mta.reply().await, Reply::Negotiate(_)));
        for command in [connect(), helo("client.test"), mail(), rcpt("<r@x>")] {
            mta.send(command).await;
            assert_eq!(mta.reply().await, Reply::Continue);
        }
        // No DATA in version 3, and here neither header nor body.
        assert_eq!(mta.end().await, (Vec::new(), expected), "{letter}");
    }
}

/// A filter that was not told because another hangs before it was taken for late itself.
#[tokio::test]
async fn whoever_waits_behind_a_filter_that_hangs_is_still_asked() {
    let hangs = Filter::new("hangs")
        .on('B', Act::Hang)
        .on_failure(OnFailure::Accept);
    let mark = Edit::add("X-Mark", "after");
    let after = Filter::new("after")
        .on('E', Act::edits(vec![mark.clone()], Reply::Continue))
        .on_failure(OnFailure::Accept);
    let stage = Stage::with_limits(vec![vec![hangs], vec![after]], |limits| {
        limits.stage_postfix = Duration::from_secs(2);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    let (edits, reply) = mta.message("body\r\n").await;
    assert_eq!((edits.len(), reply), (1, Reply::Continue), "{edits:?}");
}

/// The MTA was not read any more, because a filter that refused the client, told of it anew, was
/// behind with the body for ever.
#[tokio::test]
async fn a_filter_that_refuses_the_client_on_the_second_try_keeps_nobody_waiting() {
    let changes_its_mind = Filter::new("a")
        .steps(Steps::NR_BODY)
        .once(0, 'B', Act::Close)
        .once(1, 'C', Act::Say(vec![Reply::Reject]));
    let stage = Stage::with_limits(vec![vec![changes_its_mind]], |limits| limits.lag = 10);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    assert_eq!(mta.content("").await, Reply::Continue);
    send_body(&mut mta).await;
    assert_eq!(mta.end().await, (Vec::new(), Reply::Reject));
}

/// Sends much more than filters may be behind by; every piece is taken.
async fn send_body(mta: &mut Mta) {
    for _ in 0..5 {
        let chunk = Command::Body(Bytes::from_static(b"more than the limit\r\n"));
        assert_eq!(mta.ask(chunk).await, Reply::Continue);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The MTA was not read any more: a filter that was told everything again waited for the word on a
/// recipient of one that had refused the content, which the MTA hears of at the end.
#[tokio::test]
async fn a_refusal_that_is_kept_for_the_end_does_not_stop_a_second_try() {
    let kept = |filter: Filter, letter| filter.on(letter, Act::Say(vec![Reply::Discard]));
    let table: [(Filter, Reply); 2] = [
        (kept(Filter::new("discards"), 'L'), Reply::Discard),
        (
            Filter::new("refuses the client later")
                .once(0, 'L', Act::Close)
                .once(1, 'C', Act::Say(vec![Reply::Reject])),
            Reply::Reject,
        ),
    ];
    for (refuses, expected) in table {
        let undecided = Filter::new("undecided");
        let crashes = Filter::new("crashes").once(0, 'B', Act::Close);
        let chain = vec![vec![undecided, refuses, crashes]];
        let stage = Stage::with_limits(chain, |limits| limits.lag = 10);
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.envelope().await;
        assert_eq!(mta.content("").await, Reply::Continue);
        send_body(&mut mta).await;
        assert_eq!(mta.end().await, (Vec::new(), expected));
    }
}
