//! Filters that die, hang or talk garbage at every stage, and MTAs that do.

use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Actions, Command, Offer, Reply, Steps};

use super::harness::{Act, Filter, PATIENCE, Stage, connect, helo, mail, rcpt, text};
use crate::counters::Crash;
use crate::member::{OnFailure, Readiness, Timeouts};
use crate::proxy::Limits;

/// Letters of everything that a filter is told in a session.
const LETTERS: [char; 9] = ['C', 'H', 'M', 'R', 'T', 'L', 'N', 'B', 'E'];

/// One that marks every message, so that its part in the result can be seen.
fn marks(name: &'static str) -> Filter {
    Filter::new(name).on(
        'E',
        Act::edits(vec![Edit::add("X-Mark", name)], Reply::Continue),
    )
}

/// The marks on a message.
fn marks_in(edits: &[Edit]) -> String {
    let marks = edits.iter().filter_map(|edit| match edit {
        Edit::AddHeader { value, .. } => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    });
    marks.collect::<String>()
}

/// Sends a message and goes on sending as long as it is not refused: the marks on it, and the word.
async fn outcome(stage: &Stage) -> (String, Reply) {
    let mut mta = stage.mta().await;
    let mut reply = Reply::Continue;
    for command in [
        connect(),
        helo("client.test"),
        mail(),
        rcpt("<r@x>"),
        Command::Data,
    ] {
        if reply == Reply::Continue {
            reply = mta.ask(command).await;
        }
    }
    if reply == Reply::Continue {
        reply = mta.content("body\r\n").await;
    }
    if reply != Reply::Continue {
        return (String::new(), reply);
    }
    let (edits, reply) = mta.end().await;
    (marks_in(&edits), reply)
}

/// Every way in which a filter can go wrong at a stage.
fn lapses() -> Vec<(&'static str, Act)> {
    vec![
        ("closes", Act::Close),
        ("unknown reply", Act::Raw(b"\0\0\0\x01Z")),
        ("empty frame", Act::Raw(b"\0\0\0\0")),
        ("huge frame", Act::Raw(b"\x7f\xff\xff\xffc")),
        ("text", Act::Raw(b"HTTP/1.0 400 Bad Request\r\n")),
        ("shutdown", Act::Say(vec![Reply::Shutdown])),
        (
            "edit out of place, then nothing",
            Act::Raw(b"\0\0\0\x05h\0\0\0\0"),
        ),
        (
            "surplus reply",
            Act::Say(vec![Reply::Continue, Reply::Continue]),
        ),
        ("half a reply more", Act::Raw(b"\0\0\0\x01c\0\0")),
        (
            "dies in its edits",
            Act::Raw(b"\0\0\0\x05hX\0v\0\0\0\0\x07h"),
        ),
    ]
}

#[tokio::test]
async fn a_filter_that_fails_once_is_told_everything_again() {
    for letter in LETTERS {
        for (lapse, act) in lapses() {
            let fails = marks("fails").once(0, letter, act).patience(1500);
            let stage = Stage::new(vec![vec![marks("a")], vec![fails], vec![marks("z")]]);
            let said = outcome(&stage).await;
            assert_eq!(
                said,
                (" a fails z".to_owned(), Reply::Continue),
                "{lapse} at {letter}"
            );
            assert_eq!(stage.connections(1), 2, "{lapse} at {letter}");
            assert_eq!((stage.connections(0), stage.connections(2)), (1, 1));
            assert_eq!(stage.body(1, 1), "body\r\n", "{lapse} at {letter}");
            assert_eq!(stage.members[1].health.fallbacks(), 0);
            let replays = u64::from(!matches!(letter, 'C' | 'H'));
            assert_eq!(
                stage.members[1].health.replays(),
                replays,
                "{lapse} at {letter}"
            );
        }
    }
}

#[tokio::test]
async fn edits_without_end_are_not_kept() {
    let edit = Edit::add("X", vec![b'x'; 100_000]);
    let greedy = Filter::new("greedy").on('E', Act::edits(vec![edit; 40], Reply::Continue));
    let stage = Stage::new(vec![vec![greedy]]);
    assert_eq!(outcome(&stage).await.1, Reply::TempFail);
}

#[tokio::test]
async fn an_mta_that_quits_during_the_negotiation_is_let_go() {
    let stage = Stage::new(vec![vec![Filter::new("a").on('O', Act::Hang)]]);
    let mut mta = stage.raw_mta();
    mta.send(Command::Negotiate(Offer::full())).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn a_filter_that_fails_again_is_spoken_for_by_its_policy() {
    let table = [
        (OnFailure::Accept, " a z", Reply::Continue),
        (OnFailure::TempFail, "", Reply::TempFail),
        (OnFailure::Reject, "", Reply::Reject),
        (OnFailure::Quarantine, " a z", Reply::Continue),
    ];
    for letter in LETTERS {
        for (policy, marked, verdict) in table.clone() {
            let fails = Filter::new("fails")
                .on(letter, Act::Close)
                .on_failure(policy);
            let stage = Stage::new(vec![vec![marks("a")], vec![fails], vec![marks("z")]]);
            let said = outcome(&stage).await;
            assert_eq!(said, (marked.to_owned(), verdict), "{policy:?} at {letter}");
            // What it heard of the client counts as the first try.
            assert_eq!(stage.connections(1), 2, "{policy:?} at {letter}");
            assert_eq!(
                stage.members[1].health.fallbacks(),
                1,
                "{policy:?} at {letter}"
            );
        }
    }
}

/// The client sends it again, in the same session and in another, and other mail meanwhile.
#[tokio::test]
async fn a_filter_that_crashes_twice_on_a_message_is_not_told_of_it_a_third_time() {
    for letter in ['L', 'N', 'B', 'E'] {
        let dies = marks("dies").once(0, letter, Act::Close);
        let dies = dies.once(1, letter, Act::Close);
        let stage = Stage::new(vec![vec![marks("a")], vec![dies], vec![marks("z")]]);
        for _ in 0..2 {
            let mut mta = stage.mta().await;
            mta.greet().await;
            for _ in 0..2 {
                let (edits, reply) = mta.message("poison\r\n").await;
                assert_eq!((edits.len(), reply), (0, Reply::TempFail), "{letter}");
                let (edits, reply) = mta.message("other\r\n").await;
                assert_eq!(marks_in(&edits), " a dies z", "{letter}");
                assert_eq!(reply, Reply::Continue, "{letter}");
            }
        }
        let told = (0..stage.connections(1)).filter(|at| stage.body(1, *at).contains("poison"));
        // Where it dies at the header it has not heard of the body.
        let told = told.count();
        assert_eq!(
            told,
            if matches!(letter, 'B' | 'E') { 2 } else { told },
            "{letter}"
        );
        let health = &stage.members[1].health;
        assert_eq!((health.replays(), health.fallbacks()), (1, 4), "{letter}");
        let crashes = health.counters().read().crashes_total;
        assert_eq!((crashes[&Crash::Poison], crashes[&Crash::Spared]), (1, 3));
    }
}

#[tokio::test]
async fn a_failed_filter_can_put_the_message_into_quarantine() {
    let fails = Filter::new("fails")
        .on('E', Act::Close)
        .on_failure(OnFailure::Quarantine);
    let stage = Stage::new(vec![vec![fails]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    let (edits, verdict) = mta.message("x\r\n").await;
    assert_eq!(verdict, Reply::Continue);
    let [Edit::Quarantine { reason }] = &edits[..] else {
        panic!("{edits:?}");
    };
    assert_eq!(reason, "not checked, filter fails failed");
}

#[tokio::test]
async fn a_filter_that_hangs_is_late_and_its_policy_applies() {
    for letter in LETTERS {
        let hangs = Filter::new("hangs").on(letter, Act::Hang).patience(100);
        let begin = Instant::now();
        let stage = Stage::new(vec![vec![hangs.on_failure(OnFailure::Accept), marks("z")]]);
        let said = outcome(&stage).await;
        assert_eq!(said, (" z".to_owned(), Reply::Continue), "{letter}");
        // Less than it hangs.
        assert!(begin.elapsed() < PATIENCE, "{letter}");
    }
    let hangs_once = marks("once").once(0, 'E', Act::Hang).patience(2000);
    let stage = Stage::new(vec![vec![hangs_once]]);
    assert_eq!(outcome(&stage).await, (" once".to_owned(), Reply::Continue));
}

/// With the limits as they are, and a clock that is turned: Sendmail gives up after 10 s, Postfix
/// after 30 s, whatever a filter may take by its own limits.
#[tokio::test(start_paused = true)]
async fn case_178_the_mta_is_not_left_waiting_longer_than_it_would_wait() {
    let continues = || Act::Say(vec![Reply::Continue]);
    let (sendmail, postfix) = ("8.17.1.9/8.17.1.9", "Postfix 3.7.11");
    for (version, takes, policy, seconds, answer) in [
        (sendmail, 7, OnFailure::TempFail, 7, Reply::Continue),
        (sendmail, 9, OnFailure::TempFail, 8, Reply::TempFail),
        (sendmail, 9, OnFailure::Reject, 8, Reply::Reject),
        (sendmail, 9, OnFailure::Accept, 8, Reply::Continue),
        (postfix, 9, OnFailure::TempFail, 9, Reply::Continue),
        (postfix, 29, OnFailure::TempFail, 25, Reply::TempFail),
    ] {
        let slow = Filter::new("slow").on('M', Act::after(takes * 1000, continues()));
        let slow = slow.patience(60_000).on_failure(policy);
        let stage = Stage::with_limits(vec![vec![slow]], |limits| *limits = Limits::default());
        let mut mta = stage.mta().await;
        mta.macros('C', &[("v", version)]).await;
        mta.ask(connect()).await;
        mta.ask(helo("client.test")).await;
        let asked = tokio::time::Instant::now();
        mta.send(mail()).await;
        // In two steps, because no reading waits for so long: nothing is said before the answer.
        let early = Duration::from_millis(seconds * 1000 - 100);
        assert!(mta.is_silent_for(early).await, "{version} {takes}");
        assert_eq!(mta.reply().await, answer, "{version} {takes} {policy:?}");
        assert_eq!(asked.elapsed().as_secs(), seconds, "{version} {takes}");
        assert!(mta.is_silent().await, "{version} {takes} {policy:?}");
    }
    // What a filter may take where nothing else is configured.
    assert_eq!(Timeouts::default().command, Duration::from_secs(8));
}

#[tokio::test]
async fn all_filters_together_have_a_limit_at_the_end_of_the_message() {
    let sleeps = Filter::new("sleeps").on('E', Act::Say(vec![Reply::Progress; 3]));
    let stage = Stage::with_limits(vec![vec![sleeps], vec![Filter::new("after")]], |limits| {
        limits.end_of_message = Duration::from_millis(150);
    });
    assert_eq!(outcome(&stage).await.1, Reply::TempFail);
}

#[tokio::test]
async fn signs_of_progress_keep_a_filter_alive() {
    let act = Act::progress(400, 8, Act::Say(vec![Reply::Continue]));
    let patient = Filter::new("patient").on('E', act).patience(2500);
    let stage = Stage::new(vec![vec![patient]]);
    assert_eq!(outcome(&stage).await.1, Reply::Continue);
    assert_eq!(stage.connections(0), 1);
}

#[tokio::test]
async fn signs_of_progress_buy_no_time_that_nobody_waits_for() {
    let endless = || Act::progress(20, 10_000, Act::Hang);
    let refuses = Filter::new("refuses").on_nth('E', 0, Act::Say(vec![Reply::Reject]));
    // Decided without it: the next message is told on a new connection, once that is given up.
    let goes_on = Filter::new("goes-on").once(0, 'E', endless());
    let stage = Stage::with_limits(vec![vec![refuses, goes_on]], |limits| {
        limits.drain = Duration::from_millis(300);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Reject);
    assert_eq!(mta.message("y\r\n").await.1, Reply::Continue);
    assert_eq!((stage.connections(0), stage.connections(1)), (1, 2));
    // A shadow is told nothing more until it has answered, which is not waited for without end.
    let shadow = Filter::new("shadow").once(0, 'E', endless()).shadow();
    let stage = Stage::with_limits(vec![vec![shadow]], |limits| {
        limits.end_of_message = Duration::from_millis(300);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    while stage.members[0].health.last_error().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(mta.message("y\r\n").await.1, Reply::Continue);
    assert_eq!(stage.connections(0), 2);
}

#[tokio::test]
async fn the_next_message_of_the_session_starts_clean() {
    let fails_on_two = Filter::new("fails")
        .once(0, 'E', Act::Close)
        .once(1, 'E', Act::Close);
    let stage = Stage::new(vec![vec![Filter::new("a")], vec![fails_on_two]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::TempFail);
    assert_eq!(mta.message("y\r\n").await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let told = "C H:client.test M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B E";
    assert_eq!(stage.heard(1, 2), format!("{told} Q"));
    assert_eq!(stage.body(1, 2), "y\r\n");
    assert_eq!(stage.connections(0), 1);
}

#[tokio::test]
async fn a_filter_that_closes_between_messages_is_called_again() {
    let closes = Filter::new("closes").once(0, 'E', Act::SayAndClose(vec![Reply::Continue]));
    let stage = Stage::new(vec![vec![closes]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    for _ in 0..2 {
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(stage.connections(0), 2);
    assert_eq!(stage.members[0].health.fallbacks(), 0);
}

#[tokio::test]
async fn filters_that_cannot_be_reached_are_spoken_for_by_their_policies() {
    let table = [
        (OnFailure::Accept, Reply::Continue),
        (OnFailure::TempFail, Reply::TempFail),
        (OnFailure::Reject, Reply::Reject),
    ];
    for (policy, expected) in table {
        let stage = Stage::new(vec![vec![
            Filter::new("gone").on_failure(policy),
            Filter::new("there"),
        ]]);
        stage.remove(0);
        let mut mta = stage.mta().await;
        mta.greet().await;
        // Twice: the second message must not profit from what was decided about the first.
        for _ in 0..2 {
            let reply = mta.ask(mail()).await;
            assert_eq!(reply, expected, "{policy:?}");
            mta.send(Command::Abort).await;
        }
        assert!(stage.members[0].health.fallbacks() > 0, "{policy:?}");
    }
}

#[tokio::test]
async fn with_every_filter_down_nothing_is_accepted_by_default() {
    let stage = Stage::new(vec![vec![Filter::new("a")], vec![Filter::new("b")]]);
    stage.remove(0);
    stage.remove(1);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.ask(mail()).await, Reply::TempFail);
}

#[tokio::test]
async fn one_that_is_known_to_be_down_is_not_called() {
    let stage = Stage::new(vec![vec![Filter::new("a").on_failure(OnFailure::Accept)]]);
    let health = &stage.members[0].health;
    health.set_readiness(Readiness::Open);
    health.note_error("ended with status 78");
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    assert_eq!(stage.connections(0), 0);
    // Why it is down says more than that it is.
    assert_eq!(health.fallbacks(), 1);
    let error = health.last_error().unwrap();
    assert_eq!(&*error.message, "ended with status 78");
    // It comes back, and had been expected to want everything.
    stage.members[0].health.set_readiness(Readiness::Ready);
    assert_eq!(mta.message("y\r\n").await.1, Reply::Continue);
    assert_eq!(stage.body(0, 0), "y\r\n");
}

#[tokio::test]
async fn a_filter_that_refuses_on_the_second_try_is_believed() {
    let table = [
        ('C', Reply::Reject, Reply::Reject),
        // The MTA asks about the body, where Sendmail has another text for it.
        ('M', Reply::Reject, text(550, "5.7.1", "Command rejected")),
        // One recipient was taken already: that cannot be taken back, so the policy speaks.
        ('R', Reply::Reject, Reply::TempFail),
        ('T', Reply::Reject, text(550, "5.7.1", "Command rejected")),
    ];
    for (letter, says, expected) in table {
        let filter =
            Filter::new("a")
                .once(0, 'B', Act::Close)
                .once(1, letter, Act::Say(vec![says]));
        let stage = Stage::new(vec![vec![filter]]);
        assert_eq!(outcome(&stage).await.1, expected, "{letter}");
    }
}

#[tokio::test]
async fn one_that_comes_back_with_more_wishes_must_wait_for_the_next_connection() {
    let modest = Offer {
        steps: Steps::NO_BODY,
        actions: Actions::empty(),
        ..Offer::full()
    };
    let filter = Filter::new("a")
        .once(0, 'O', Act::Say(vec![Reply::Negotiate(modest)]))
        .once(0, 'E', Act::Close);
    let stage = Stage::new(vec![vec![filter]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("").await.1, Reply::TempFail);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
}

#[tokio::test]
async fn a_negotiation_that_never_ends_is_ended() {
    let hangs = Filter::new("hangs")
        .on('O', Act::Hang)
        .on_failure(OnFailure::Accept);
    let stage = Stage::with_limits(
        vec![vec![hangs.patience(60_000), Filter::new("b")]],
        |limits| {
            limits.negotiation = Duration::from_millis(2000);
            limits.stage_postfix = Duration::from_millis(2000);
        },
    );
    let begin = Instant::now();
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    assert!(begin.elapsed() < PATIENCE);
}

#[tokio::test]
async fn case_182_an_mta_that_closes_in_the_middle_closes_the_filters() {
    for letter in LETTERS {
        let hangs = Filter::new("hangs").on(letter, Act::after(100, Act::Hang));
        let stage = Stage::new(vec![vec![hangs, Filter::new("b")]]);
        let mut mta = stage.mta().await;
        for (at, command) in [
            ('C', connect()),
            ('H', helo("client.test")),
            ('M', mail()),
            ('R', rcpt("<r@x>")),
            ('T', Command::Data),
            ('L', super::harness::header("X", " y")),
            ('N', Command::EndOfHeaders),
            ('B', Command::Body(Bytes::from_static(b"x"))),
            ('E', Command::EndOfMessage(Bytes::new())),
        ] {
            if at == letter {
                mta.send(command).await;
                break;
            }
            assert_eq!(mta.ask(command).await, Reply::Continue);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begin = Instant::now();
        mta.outcome().await.unwrap();
        // Less than the filter hangs.
        assert!(begin.elapsed() < PATIENCE, "{letter}");
        assert!(!stage.heard(1, 0).contains('E') || letter == 'E');
    }
}

#[tokio::test]
async fn an_mta_that_talks_nonsense_is_told_off() {
    let table: [(&[u8], &str); 7] = [
        (b"\0\0\0\0", "length 0"),
        (b"\xff\xff\xff\xffX", "over the limit"),
        (b"GET / HTTP/1.0\r\n\r\n", "text"),
        (b"\0\0\0\x01Z", "unknown frame type"),
        (b"\0\0\0\x01E", "out of order"),
        (b"\0\0\0\x05O\0\0\0\x06", "malformed"),
        (b"\0\0\0\x0dO\0", "closed inside a frame"),
    ];
    for (bytes, expected) in table {
        let stage = Stage::new(vec![vec![Filter::new("a")]]);
        let mut mta = stage.raw_mta();
        mta.send_bytes(bytes).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let error = mta.outcome().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn commands_out_of_order_are_refused_and_do_no_harm() {
    let stage = Stage::new(vec![vec![Filter::new("a")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::TempFail);
    mta.ask(mail()).await;
    assert_eq!(mta.ask(Command::Data).await, Reply::TempFail);
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
}

#[tokio::test]
async fn case_190_limits_of_header_and_spool_refuse_for_now_and_harm_nobody_else() {
    let silent = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY;
    for steps in [Steps::empty(), silent] {
        let filters = vec![vec![Filter::new("a").steps(steps)]];
        let stage = Stage::with_limits(filters, |limits| {
            limits.header.fields = 10;
            std::sync::Arc::make_mut(&mut limits.spool).total = 1000;
        });
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.envelope().await;
        let mut reply = Reply::Continue;
        for _ in 0..20 {
            if reply == Reply::Continue {
                reply = mta.ask(super::harness::header("X", " y")).await;
            }
        }
        if reply == Reply::Continue {
            reply = mta.end().await.1;
        }
        assert_eq!(reply, Reply::TempFail);
        mta.send(Command::Abort).await;
        mta.envelope().await;
        let mut reply = mta.content("").await;
        for _ in 0..3 {
            if reply == Reply::Continue {
                reply = mta.ask(Command::Body(Bytes::from(vec![b'x'; 600]))).await;
            }
        }
        if reply == Reply::Continue {
            reply = mta.end().await.1;
        }
        assert_eq!(reply, Reply::TempFail);
        assert_eq!(mta.message("small\r\n").await.1, Reply::Continue);
    }
}

#[tokio::test]
async fn a_whole_message_is_replayed_from_disk() {
    let dies = Filter::new("dies").once(0, 'E', Act::Close);
    let stage = Stage::new(vec![vec![dies]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    mta.content("").await;
    for number in 0..40_u8 {
        let chunk = Bytes::from(vec![b'a' + number % 26; 65_535]);
        assert_eq!(mta.ask(Command::Body(chunk)).await, Reply::Continue);
    }
    assert_eq!(mta.end().await.1, Reply::Continue);
    assert!(stage.body(0, 0) == stage.body(0, 1));
    assert_eq!(stage.body(0, 1).len(), 40 * 65_535);
}
