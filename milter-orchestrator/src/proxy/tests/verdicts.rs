//! Who decides, at which stage, and with which words.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Command, Reply, Steps};

use super::harness::{Act, Filter, Stage, connect, helo, mail, rcpt, settle, text};
use crate::counters::{Decision, Word};
use crate::member::OnFailure;

/// The commands of a session in order, with the letters of the filters' scripts.
fn session() -> Vec<(char, Command)> {
    vec![
        ('C', connect()),
        ('H', helo("client.test")),
        ('M', mail()),
        ('R', rcpt("<r@x>")),
        ('T', Command::Data),
        ('L', super::harness::header("Subject", " s")),
        ('N', Command::EndOfHeaders),
        ('B', Command::Body(Bytes::from_static(b"body\r\n"))),
        ('E', Command::EndOfMessage(Bytes::new())),
    ]
}

/// Runs a session until the reply is not `Continue`: at which letter, and which reply.
async fn until_refused(stage: &Stage) -> (char, Reply) {
    let mut mta = stage.mta().await;
    for (letter, command) in session() {
        let reply = mta.ask(command).await;
        if reply != Reply::Continue {
            assert!(mta.is_silent().await, "{letter}: more than one reply");
            mta.quit().await.unwrap();
            stage.closed().await;
            return (letter, reply);
        }
    }
    panic!("never refused");
}

/// The word on `letter` is heard there; that on content, to which the MTA is answered ahead, at a
/// later question perhaps.
async fn check_refused(stage: &Stage, letter: char, reply: Reply) {
    let (heard, got) = until_refused(stage).await;
    let place = |letter| "LNBE".find(letter);
    let in_time = match (place(letter), place(heard)) {
        (Some(said), Some(heard)) => said <= heard,
        _ => letter == heard,
    };
    assert!(in_time && got == reply, "{letter}: {got:?} at {heard}");
}

#[tokio::test]
async fn a_refusal_passes_unchanged_at_every_stage() {
    let replies = [
        Reply::Reject,
        Reply::TempFail,
        text(550, "5.7.1", "100% spam"),
        text(421, "4.7.0", "later"),
    ];
    for (letter, _) in session() {
        for reply in &replies {
            let refuses = Filter::new("b").on(letter, Act::Say(vec![reply.clone()]));
            let stage = Stage::new(vec![vec![refuses.clone(), Filter::new("c")]]);
            check_refused(&stage, letter, reply.clone()).await;
            let stage = Stage::strict(vec![refuses.clone(), Filter::new("c")]);
            assert_eq!(until_refused(&stage).await, (letter, reply.clone()));
            // An MTA would have told all of the content to the first filter by then.
            let held = if matches!(letter, 'L' | 'N' | 'B') {
                'E'
            } else {
                letter
            };
            let stage = Stage::new(vec![vec![Filter::new("a"), refuses, Filter::new("c")]]);
            assert_eq!(until_refused(&stage).await, (held, reply.clone()));
        }
    }
}

#[tokio::test]
async fn the_word_on_content_is_that_of_the_first_filter_though_it_comes_later() {
    let early = |letter| Filter::new("b").on(letter, Act::Say(vec![Reply::Discard]));
    for letter in ['L', 'N', 'B', 'E'] {
        let late = Filter::new("a").on('E', Act::Say(vec![text(550, "5.7.1", "a")]));
        let stage = Stage::new(vec![vec![late, early(letter)]]);
        let word = ('E', text(550, "5.7.1", "a"));
        assert_eq!(until_refused(&stage).await, word, "{letter}");
        // One that has accepted says nothing more.
        let accepts = Filter::new("a").on('L', Act::Say(vec![Reply::Accept]));
        let stage = Stage::new(vec![vec![accepts, early(letter)]]);
        check_refused(&stage, letter, Reply::Discard).await;
    }
}

#[tokio::test]
async fn in_a_later_segment_content_is_judged_when_its_turn_comes() {
    for letter in ['L', 'N', 'B', 'E'] {
        let refuses = Filter::new("b").on(letter, Act::Say(vec![Reply::Reject]));
        let stage = Stage::new(vec![vec![Filter::new("a")], vec![refuses]]);
        assert_eq!(until_refused(&stage).await, ('E', Reply::Reject));
    }
}

#[tokio::test]
async fn the_first_in_the_chain_decides_however_late_it_speaks() {
    let slow = Filter::new("slow").on('E', Act::after(150, Act::Say(vec![Reply::TempFail])));
    let quick = Filter::new("quick").on('E', Act::Say(vec![Reply::Reject]));
    let stage = Stage::new(vec![vec![slow.clone(), quick.clone()]]);
    assert_eq!(until_refused(&stage).await, ('E', Reply::TempFail));
    // With nobody before it, it need not wait for those behind.
    let hangs = Filter::new("hangs").on('E', Act::Hang);
    let stage = Stage::new(vec![vec![quick, hangs]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Reject);
}

#[tokio::test]
async fn no_edit_comes_with_a_refusal() {
    let edits = vec![
        Edit::add("X", "v"),
        Edit::ReplaceBody(Bytes::from_static(b"new")),
    ];
    for last in [
        Reply::Reject,
        Reply::TempFail,
        Reply::Discard,
        text(550, "", "no"),
    ] {
        let first = Filter::new("a").on('E', Act::edits(edits.clone(), Reply::Continue));
        let second = Filter::new("b").on('E', Act::edits(edits.clone(), last.clone()));
        let stage = Stage::new(vec![vec![first], vec![second]]);
        let mut mta = stage.mta().await;
        mta.greet().await;
        assert_eq!(mta.message("x\r\n").await, (Vec::new(), last));
    }
}

#[tokio::test]
async fn a_recipient_is_refused_alone() {
    let refuses = Filter::new("b").on_nth('R', 0, Act::Say(vec![text(550, "5.1.1", "who")]));
    let stage = Stage::new(vec![vec![Filter::new("a"), refuses, Filter::new("c")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.ask(mail()).await;
    assert_eq!(mta.ask(rcpt("<one@x>")).await, text(550, "5.1.1", "who"));
    assert_eq!(mta.ask(rcpt("<two@x>")).await, Reply::Continue);
    mta.ask(Command::Data).await;
    mta.content("x\r\n").await;
    assert_eq!(mta.end().await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert!(stage.heard(0, 0).contains("M<s@x> R<one@x> R<two@x> T"));
    assert!(stage.heard(1, 0).contains("M<s@x> R<one@x> R<two@x> T"));
    assert!(stage.heard(2, 0).contains("M<s@x> R<two@x> T"));
}

#[tokio::test]
async fn a_refused_sender_is_taken_back_from_those_who_took_it() {
    let refuses = Filter::new("b").on_nth('M', 0, Act::Say(vec![Reply::Reject]));
    let stage = Stage::new(vec![vec![Filter::new("a"), refuses, Filter::new("c")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.ask(mail()).await, Reply::Reject);
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let begin = |filter| stage.heard(filter, 0).chars().take(40).collect::<String>();
    assert!(begin(0).starts_with("C H:client.test M<s@x> A M<s@x> R"));
    assert!(begin(1).starts_with("C H:client.test M<s@x> M<s@x> R"));
    assert!(begin(2).starts_with("C H:client.test M<s@x> A M<s@x> R"));
}

#[tokio::test]
async fn discard_ends_the_message_and_means_nothing_before_it() {
    for letter in ['M', 'R', 'T', 'L', 'N', 'B', 'E'] {
        let discards = Filter::new("a").on(letter, Act::Say(vec![Reply::Discard]));
        let stage = Stage::new(vec![vec![discards, Filter::new("b")]]);
        check_refused(&stage, letter, Reply::Discard).await;
    }
    let discards = Filter::new("a")
        .on('C', Act::Say(vec![Reply::Discard]))
        .on('H', Act::Say(vec![Reply::Discard]));
    let stage = Stage::new(vec![vec![discards]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
}

#[tokio::test]
async fn one_that_accepts_hears_no_more_and_the_others_go_on() {
    let table = [
        ('C', "C Q"),
        ('H', "C H:client.test Q"),
        ('M', "C H:client.test M<s@x> Q"),
        ('R', "C H:client.test M<s@x> R<r@x> Q"),
        (
            'B',
            "C H:client.test M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B Q",
        ),
    ];
    for (letter, told) in table {
        for accepting in 0..2 {
            let mut filters = [Filter::new("a"), Filter::new("b")];
            filters[accepting] = filters[accepting]
                .clone()
                .on(letter, Act::Say(vec![Reply::Accept]));
            let reason = Bytes::from_static(b"held");
            filters[1 - accepting] = filters[1 - accepting].clone().on(
                'E',
                Act::edits(vec![Edit::Quarantine { reason }], Reply::Continue),
            );
            let stage = Stage::new(filters.into_iter().map(|one| vec![one]).collect());
            let mut mta = stage.mta().await;
            mta.greet().await;
            let (edits, verdict) = mta.message("x\r\n").await;
            assert_eq!(
                (edits.len(), verdict),
                (1, Reply::Continue),
                "{letter} {accepting}"
            );
            mta.quit().await.unwrap();
            stage.closed().await;
            assert_eq!(stage.heard(accepting, 0), told);
        }
    }
}

#[tokio::test]
async fn when_all_accept_the_mta_is_told_so() {
    for letter in ['C', 'H', 'M', 'R', 'T', 'L', 'N', 'B'] {
        let accepts = |name| Filter::new(name).on(letter, Act::Say(vec![Reply::Accept]));
        let stage = Stage::new(vec![vec![accepts("a"), accepts("b")]]);
        check_refused(&stage, letter, Reply::Accept).await;
    }
    // One that only failed has accepted nothing.
    let accepts = Filter::new("a").on('C', Act::Say(vec![Reply::Accept]));
    let fails = Filter::new("b")
        .on('C', Act::Close)
        .on_failure(OnFailure::Accept);
    let stage = Stage::new(vec![vec![accepts, fails]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
}

#[tokio::test]
async fn a_refusal_where_no_reply_is_expected_is_given_at_the_next_question() {
    // The second filter takes part again after a failure and may then say what the first connection
    // had promised not to.
    let steps = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY | Steps::NR_RCPT;
    let silent = Filter::new("a").steps(steps).on('R', Act::Close);
    let stage = Stage::new(vec![vec![silent.on_failure(OnFailure::Reject)]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert!(mta.agreed.steps.contains(steps));
    assert_eq!(mta.ask(mail()).await, Reply::Continue);
    mta.send(rcpt("<r@x>")).await;
    assert_eq!(mta.ask(Command::Data).await, Reply::Reject);
}

#[tokio::test]
async fn a_client_refused_at_connect_is_refused_again_should_the_mta_go_on() {
    let refuses = Filter::new("a").on('C', Act::Say(vec![text(554, "5.7.1", "go")]));
    let stage = Stage::new(vec![vec![refuses]]);
    let mut mta = stage.mta().await;
    assert_eq!(mta.ask(connect()).await, text(554, "5.7.1", "go"));
    assert_eq!(mta.ask(mail()).await, text(554, "5.7.1", "go"));
}

#[tokio::test]
async fn nobody_waits_for_what_a_shadow_makes_of_a_message() {
    let slow = Filter::new("shadow")
        .shadow()
        .on('E', Act::after(3000, Act::Say(vec![Reply::Reject])));
    for segments in [
        vec![vec![slow.clone(), Filter::new("real")]],
        vec![vec![Filter::new("real")], vec![slow]],
    ] {
        let shadow = segments[0].len() % 2;
        let stage = Stage::with_limits(segments, |limits| {
            limits.shadow = std::time::Duration::from_secs(2);
        });
        let mut mta = stage.mta().await;
        mta.greet().await;
        let begin = std::time::Instant::now();
        assert_eq!(mta.message("x\r\n").await, (Vec::new(), Reply::Continue));
        assert!(begin.elapsed() < std::time::Duration::from_millis(2900));
        // It is not waited for either when it has not even begun with the next one.
        assert_eq!(mta.message("x\r\n").await, (Vec::new(), Reply::Continue));
        assert!(begin.elapsed() < std::time::Duration::from_millis(2950));
        tokio::time::sleep(std::time::Duration::from_millis(3100)).await;
        settle().await;
        assert_eq!(mta.message("x\r\n").await, (Vec::new(), Reply::Continue));
        // All of the first and of the third, on one connection.
        settle().await;
        assert_eq!(stage.heard(shadow, 0).matches(" B E").count(), 2);
        // Its word on the second came to nothing: it heard nothing of that.
        mta.quit().await.unwrap();
        let counts = stage.members[shadow].health.counters().read();
        assert_eq!(counts.shadow_missed_total, 1, "{counts:?}");
        assert!(counts.shadow_differs() >= 1, "{counts:?}");
    }
}

#[tokio::test]
async fn shadows_see_everything_and_change_nothing() {
    let refuses = Filter::new("shadow")
        .shadow()
        .on('M', Act::Say(vec![Reply::Reject]));
    let edits = Filter::new("shadow")
        .shadow()
        .on('E', Act::edits(vec![Edit::add("X", "v")], Reply::Continue));
    let breaks = Filter::new("shadow").shadow().on('B', Act::Close);
    let hangs = Filter::new("shadow").shadow().on('R', Act::Hang);
    for shadow in [refuses, edits, breaks, hangs] {
        let stage = Stage::with_limits(vec![vec![shadow, Filter::new("real")]], |limits| {
            limits.shadow = std::time::Duration::from_millis(200);
        });
        let mut mta = stage.mta().await;
        mta.greet().await;
        for _ in 0..2 {
            assert_eq!(mta.message("x\r\n").await, (Vec::new(), Reply::Continue));
        }
        assert_eq!(stage.members[1].health.messages(), 2);
        assert_eq!(stage.members[0].health.fallbacks(), 0);
        assert_eq!(stage.members[0].health.messages(), 0);
    }
}

/// When the shadow says what, what the other filter says at the end, which pair that is, and
/// whether the message would have ended otherwise.
type ShadowRow = (char, Reply, Reply, Word, Decision, u64);

fn shadow_rows() -> Vec<ShadowRow> {
    let no = || text(550, "5.7.1", "no");
    let later = || text(451, "4.7.1", "later");
    vec![
        (
            'E',
            Reply::Continue,
            Reply::Continue,
            Word::Continue,
            Decision::Accept,
            0,
        ),
        (
            'E',
            Reply::Reject,
            Reply::Continue,
            Word::Reject,
            Decision::Accept,
            1,
        ),
        ('E', Reply::Reject, no(), Word::Reject, Decision::Reject, 0),
        (
            'E',
            Reply::Continue,
            Reply::Reject,
            Word::Continue,
            Decision::Reject,
            1,
        ),
        (
            'E',
            Reply::Discard,
            Reply::Reject,
            Word::Discard,
            Decision::Reject,
            1,
        ),
        (
            'M',
            later(),
            Reply::Continue,
            Word::Tempfail,
            Decision::Accept,
            1,
        ),
        (
            'M',
            Reply::Accept,
            Reply::Continue,
            Word::Accept,
            Decision::Accept,
            0,
        ),
        (
            'R',
            no(),
            Reply::Continue,
            Word::Reject,
            Decision::Accept,
            1,
        ),
        (
            'C',
            no(),
            Reply::Continue,
            Word::Reject,
            Decision::Accept,
            1,
        ),
    ]
}

#[tokio::test]
async fn what_a_shadow_would_have_decided_is_counted_by_pairs() {
    for (letter, shadows, reals, said, decided, differs) in shadow_rows() {
        let what = format!("{letter} {shadows:?} {reals:?}");
        let shadow = Filter::new("shadow")
            .shadow()
            .on(letter, Act::Say(vec![shadows]));
        let real = Filter::new("real").on('E', Act::Say(vec![reals.clone()]));
        let stage = Stage::with_limits(vec![vec![shadow, real]], |limits| {
            limits.shadow = std::time::Duration::from_secs(20);
        });
        let mut mta = stage.mta().await;
        mta.greet().await;
        assert_eq!(mta.message("x\r\n").await.1, reals, "{what}");
        let counters = stage.members[0].health.counters();
        let mut counts = counters.read();
        // It may be behind the message with its word.
        for _ in 0..2000 {
            if !counts.shadow_words_total.is_empty() {
                break;
            }
            settle().await;
            counts = counters.read();
        }
        let pairs = format!("{:?}", counts.shadow_words_total);
        assert_eq!(pairs, format!("{{{decided:?}: {{{said:?}: 1}}}}"), "{what}");
        assert_eq!(counts.shadow_differs(), differs, "{what}");
        assert_eq!(counts.shadow_missed_total, 0, "{what}");
        mta.quit().await.unwrap();
    }
}
