//! Routes that are decided late: who is called when, what it is told, and what its word does.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::Path;
use milter_proto::wire::{Actions, Command, Reply, Steps};

use super::harness::{Act, Filter, Mta, Stage, connect, helo, mail, rcpt, text};
use crate::route::{Condition, Said, Test};

/// A condition, as JSON.
fn when(text: &str) -> Condition {
    let routes = crate::route::tests::routes(&[text]);
    routes.routes[0].condition.clone()
}

/// What another filter has said.
fn said(filter: &str, words: &[Said]) -> Condition {
    Condition::Is(Test::Verdict(filter.to_owned(), words.to_vec()).into())
}

/// Two filters, each for the recipients of a domain, and one for both.
fn by_recipient(first: Filter, second: Filter) -> Stage {
    Stage::routed(
        vec![first, second, Filter::new("both")],
        vec![
            (
                "one",
                when(r#"{"recipient": "one.test"}"#),
                vec![vec![0], vec![2]],
            ),
            (
                "two",
                when(r#"{"recipient": "two.test"}"#),
                vec![vec![1], vec![2]],
            ),
        ],
    )
}

/// A client that has said MAIL.
async fn sender(stage: &Stage) -> Mta {
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.macros('M', &[("auth_type", "PLAIN"), ("mail_addr", "s@x")])
        .await;
    assert_eq!(mta.ask(mail()).await, Reply::Continue);
    mta
}

async fn data_and_content(mta: &mut Mta) -> (Vec<Edit>, Reply) {
    assert_eq!(mta.ask(Command::Data).await, Reply::Continue);
    match mta.content("body\r\n").await {
        Reply::Continue => mta.end().await,
        refused => (Vec::new(), refused),
    }
}

/// Everything after the envelope.
const CONTENT: &str = "T L:Received=r1 L:Subject=s N B E Q";

#[tokio::test]
async fn who_joins_with_a_recipient_is_called_then_and_told_everything() {
    let add = |name: &'static str| {
        let edit = Edit::add(name, "1");
        Filter::new(name).on('E', Act::edits(vec![edit], Reply::Continue))
    };
    let stage = by_recipient(add("first"), add("second"));
    // What nobody has asked before is learned with the first client.
    stage.mta().await.quit().await.unwrap();
    stage.closed().await;
    let before = [0, 1, 2].map(|filter| stage.connections(filter));
    assert_eq!(before, [1, 1, 1]);

    let mut mta = sender(&stage).await;
    let now = [0, 1, 2].map(|filter| stage.connections(filter));
    assert_eq!(
        now,
        [1, 1, 2],
        "only who is in every chain is called before"
    );
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
    assert_eq!(stage.connections(1), 1);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<c@one.test>")).await, Reply::Continue);
    let (edits, last) = data_and_content(&mut mta).await;
    assert_eq!(last, Reply::Continue);
    let edits = format!("{edits:?}");
    assert!(
        edits.contains("first") && edits.contains("second"),
        "{edits}"
    );
    mta.quit().await.unwrap();
    stage.closed().await;
    // Of recipients with another route a filter is not told.
    let told = [
        "R<a@one.test> R<c@one.test>",
        "R<b@two.test>",
        "R<a@one.test> R<b@two.test> R<c@one.test>",
    ];
    for (filter, added) in ["", "L:first=1 ", "L:first=1 L:second=1 "]
        .into_iter()
        .enumerate()
    {
        let heard = stage.heard(filter, 1);
        let content = format!("T L:Received=r1 L:Subject=s {added}N B E Q");
        let envelope = format!("C H:client.test M<s@x> {}", told[filter]);
        assert_eq!(heard, format!("{envelope} {content}"), "{filter}");
        assert!(
            stage.macros(filter, 'M').contains("auth_type=PLAIN"),
            "{filter}"
        );
        assert!(stage.macros(filter, 'C').contains("j=mx.test"), "{filter}");
    }
}

#[tokio::test]
async fn who_is_asked_for_by_nobody_hears_nothing() {
    let stage = by_recipient(Filter::new("first"), Filter::new("second"));
    for round in 0..2 {
        let mut mta = sender(&stage).await;
        assert_eq!(mta.ask(rcpt("<a@two.test>")).await, Reply::Continue);
        assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
        mta.quit().await.unwrap();
        stage.closed().await;
        assert!(stage.heard(1, round).contains("R<a@two.test>"));
    }
    // Called once, to learn what it wants.
    assert_eq!(stage.connections(0), 1);
    assert_eq!(stage.heard(0, 0), "Q");
}

#[tokio::test]
async fn a_recipient_without_a_route_is_refused_and_the_others_are_not() {
    let stage = by_recipient(Filter::new("first"), Filter::new("second"));
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<x@three.test>")).await, Reply::TempFail);
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<y@three.test>")).await, Reply::TempFail);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let told = format!("C H:client.test M<s@x> R<a@one.test> {CONTENT}");
    assert_eq!(stage.heard(0, 0), told);
}

#[tokio::test]
async fn what_a_late_filter_refuses_is_refused_where_the_server_can_hear_it() {
    // What it refuses when it is told; what the server hears at the recipient that calls it.
    let no = || text(550, "5.7.1", "no");
    for (letter, first, second) in [
        ('C', Reply::Continue, no()),
        ('H', Reply::Continue, no()),
        ('M', Reply::Continue, no()),
        ('R', Reply::Continue, no()),
    ] {
        let refuses = Filter::new("second").on(letter, Act::Say(vec![no()]));
        let stage = by_recipient(Filter::new("first"), refuses);
        let mut mta = sender(&stage).await;
        assert_eq!(mta.ask(rcpt("<a@one.test>")).await, first, "{letter}");
        assert_eq!(mta.ask(rcpt("<b@two.test>")).await, second, "{letter}");
        let last = if letter == 'R' { Reply::Continue } else { no() };
        assert_eq!(mta.ask(rcpt("<c@one.test>")).await, last, "{letter}");
        mta.quit().await.unwrap();
        stage.closed().await;
    }
}

#[tokio::test]
async fn a_filter_accepts_and_discards_for_recipients_of_its_route_alone() {
    for word in [Reply::Accept, Reply::Discard] {
        // It would say so about the recipient of the other route only, of which it is not told.
        let first = Filter::new("first").on_nth('R', 1, Act::Say(vec![word]));
        let first = first.on('E', Act::Say(vec![Reply::Reject]));
        let stage = by_recipient(first, Filter::new("second"));
        let mut mta = sender(&stage).await;
        assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
        assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
        assert_eq!(data_and_content(&mut mta).await.1, Reply::Reject);
        mta.quit().await.unwrap();
    }
}

#[tokio::test]
async fn filters_that_hear_of_no_recipients_see_what_is_decided_late() {
    for (own, sees) in [
        (when(r#"{"size": "<1KB"}"#), true),
        (when(r#"{"size": ">1KB"}"#), false),
        (said("first", &[Said::Continue]), true),
        (said("first", &[Said::Accept]), false),
        (when(r#"{"macro": {"rcpt_host": "*"}}"#), false),
    ] {
        let deaf = |name| {
            let steps = Steps::NO_RCPT | Steps::NR_RCPT;
            Filter::new(name).steps(steps)
        };
        let own = deaf("own").when(own).on('E', Act::Say(vec![Reply::Reject]));
        let always = Condition::default();
        let chain = vec![vec![0], vec![1]];
        let stage = Stage::routed(vec![deaf("first"), own], vec![("all", always, chain)]);
        let mut mta = sender(&stage).await;
        assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
        let expected = if sees { Reply::Reject } else { Reply::Continue };
        assert_eq!(data_and_content(&mut mta).await.1, expected);
        mta.quit().await.unwrap();
    }
}

#[tokio::test]
async fn nobody_joins_a_decided_message_and_no_part_outlives_it() {
    let refuses = Filter::new("first").on_nth('M', 0, Act::Say(vec![Reply::TempFail]));
    let stage = by_recipient(refuses, Filter::new("second"));
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::TempFail);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::TempFail);
    mta.send(Command::Abort).await;
    assert_eq!(mta.ask(mail()).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let last = stage.heard(1, stage.connections(1) - 1);
    assert!(
        last.ends_with(&format!("M<s@x> R<b@two.test> {CONTENT}")),
        "{last}"
    );
}

#[tokio::test]
async fn what_one_message_decided_says_nothing_about_the_client() {
    let accepts = Filter::new("accepts").on('C', Act::Say(vec![Reply::Accept]));
    let refuses = Filter::new("refuses").on('E', Act::Say(vec![Reply::Reject]));
    let stage = Stage::routed(
        vec![accepts, refuses],
        vec![
            ("one", when(r#"{"recipient": "one.test"}"#), vec![vec![0]]),
            ("two", Condition::default(), vec![vec![1]]),
        ],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
    // That is all of this message's filters.
    assert_eq!(mta.ask(Command::Data).await, Reply::Accept);
    assert_eq!(mta.ask(helo("again.test")).await, Reply::Continue);
    assert_eq!(mta.ask(mail()).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Reject);
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn nobody_accepts_a_message_for_those_who_join_later() {
    let eager = Filter::new("both-eager").on('R', Act::Say(vec![Reply::Accept]));
    let refuses = Filter::new("second").on('E', Act::Say(vec![Reply::Reject]));
    let stage = Stage::routed(
        vec![eager, refuses],
        vec![
            ("one", when(r#"{"recipient": "one.test"}"#), vec![vec![0]]),
            ("two", Condition::default(), vec![vec![0], vec![1]]),
        ],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Reject);
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn without_a_declared_size_the_filters_hear_of_the_message_at_its_end() {
    let stage = Stage::routed(
        vec![Filter::new("large"), Filter::new("small")],
        vec![
            ("large", when(r#"{"size": ">=1KB"}"#), vec![vec![0]]),
            ("small", Condition::default(), vec![vec![1]]),
        ],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let told = format!("C H:client.test M<s@x> R<r@x> {CONTENT}");
    assert_eq!(
        (stage.heard(0, 0), stage.heard(1, 0)),
        ("Q".to_owned(), told)
    );
    assert_eq!(stage.body(1, 0), "body\r\n");

    // A declared one counts at MAIL.
    let mut mta = stage.mta().await;
    mta.greet().await;
    let declared = Path {
        address: Bytes::from_static(b"<s@x>"),
        args: vec![Bytes::from_static(b"SIZE=5000")],
    };
    assert_eq!(mta.ask(Command::Mail(declared)).await, Reply::Continue);
    assert!(
        stage.heard(0, 1).ends_with("M<s@x>"),
        "{}",
        stage.heard(0, 1)
    );
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn no_route_at_the_end_of_the_message_refuses_it_for_now() {
    let stage = Stage::routed(
        vec![Filter::new("large")],
        vec![("large", when(r#"{"size": ">=1MB"}"#), vec![vec![0]])],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::TempFail);
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn a_filter_sees_what_its_own_condition_holds_for() {
    for (condition, sees) in [
        (r#"{"sender": "s@x"}"#, true),
        (r#"{"sender": "other@x"}"#, false),
        (r#"{"recipient": "r@x"}"#, true),
        (r#"{"recipient": "q@x"}"#, false),
        (r#"{"size": "<1KB"}"#, true),
        (r#"{"size": ">1KB"}"#, false),
        (r#"{"macro": {"auth_type": "PLAIN"}}"#, true),
        (r#"{"authenticated": false}"#, false),
        (r#"{"tls": true}"#, false),
        (r#"{"helo": "client.test", "client": "192.0.2.0/24"}"#, true),
        (r#"{"load": ">1"}"#, false),
        (r#"{"time": "00:00-24:00"}"#, true),
    ] {
        let always = Condition::default();
        let own = Filter::new("own")
            .when(when(condition))
            .on('E', Act::Say(vec![Reply::Reject]));
        let stage = Stage::routed(
            vec![Filter::new("first"), own, Filter::new("last")],
            vec![("all", always, vec![vec![0], vec![1], vec![2]])],
        );
        let mut mta = sender(&stage).await;
        assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue, "{condition}");
        let last = data_and_content(&mut mta).await.1;
        let expected = if sees { Reply::Reject } else { Reply::Continue };
        assert_eq!(last, expected, "{condition}");
        mta.quit().await.unwrap();
        stage.closed().await;
        assert_eq!(stage.heard(1, 0).contains("M<s@x>"), sees, "{condition}");
        if !sees {
            assert_eq!(stage.members[1].health.messages(), 0, "{condition}");
        }
    }
}

#[tokio::test]
async fn a_filter_may_ask_what_another_one_said() {
    for (word, wanted, sees) in [
        (Reply::Accept, Said::Accept, true),
        (Reply::Continue, Said::Accept, false),
        (Reply::Continue, Said::Continue, true),
        (Reply::Accept, Said::Failed, false),
    ] {
        for early in [false, true] {
            let at = if early { 'M' } else { 'E' };
            let edit = Edit::insert(0, "X-First", "1");
            let mut act = Act::Say(vec![word.clone()]);
            if !early {
                act = Act::edits(vec![edit], word.clone());
            }
            let asked = Filter::new("asked").on(at, act);
            let asks = Filter::new("asks").when(said("asked", &[wanted]));
            let stage = Stage::routed(
                vec![asked, asks, Filter::new("third")],
                vec![("all", Condition::default(), vec![vec![0], vec![1], vec![2]])],
            );
            let mut mta = sender(&stage).await;
            assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
            assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
            mta.quit().await.unwrap();
            stage.closed().await;
            let heard = stage.heard(1, 0);
            assert_eq!(
                heard.contains("M<s@x>"),
                sees,
                "{word:?} {wanted:?} {heard}"
            );
            // It sees the message as the one before has left it.
            if sees && !early {
                assert!(heard.contains("L:X-First=1 L:Received=r1"), "{heard}");
            }
        }
    }
}

#[tokio::test]
async fn a_failed_and_an_absent_filter_are_words_too() {
    let fails = Filter::new("fails")
        .on('M', Act::Close)
        .on_failure(crate::member::OnFailure::Accept);
    let never = Filter::new("never").when(when(r#"{"sender": "<>"}"#));
    let on_failed = Filter::new("on-failed").when(said("fails", &[Said::Failed]));
    let on_absent = Filter::new("on-absent").when(said("never", &[Said::Absent]));
    let stage = Stage::routed(
        vec![fails, never, on_failed, on_absent],
        vec![(
            "all",
            Condition::default(),
            vec![vec![0], vec![1], vec![2, 3]],
        )],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    for (filter, sees) in [(1, false), (2, true), (3, true)] {
        assert_eq!(stage.heard(filter, 0).contains("M<s@x>"), sees, "{filter}");
    }
}

#[tokio::test]
async fn the_server_is_asked_for_what_routes_need() {
    let quiet = || {
        let steps = Steps::NO_ALL | Steps::NR_ALL;
        Filter::new("quiet").actions(Actions::empty()).steps(steps)
    };
    for (condition, needed) in [
        (
            r#"{"recipient": "one.test"}"#,
            Steps::NO_RCPT | Steps::NR_RCPT,
        ),
        (r#"{"helo": "client.test"}"#, Steps::NO_HELO),
        (
            r#"{"size": ">1MB"}"#,
            Steps::NO_BODY | Steps::NO_HEADERS | Steps::NO_RCPT,
        ),
        (r#"{"sender": "<>"}"#, Steps::empty()),
    ] {
        let stage = Stage::routed(
            vec![quiet()],
            vec![
                ("one", when(condition), vec![vec![0]]),
                ("rest", Condition::default(), vec![]),
            ],
        );
        let mta = stage.mta().await;
        let steps = mta.agreed.steps;
        assert!(!steps.intersects(needed), "{condition} {steps:?}");
        let others = Steps::NO_ALL - Steps::NO_CONNECT - Steps::NO_MAIL - needed;
        assert!(steps.contains(others), "{condition} {steps:?}");
        mta.quit().await.unwrap();
    }
    let stage = Stage::routed(
        vec![quiet()],
        vec![
            (
                "one",
                when(r#"{"macro": {"client_ptr": "*", "rcpt_host": "x"}}"#),
                vec![vec![0]],
            ),
            ("rest", Condition::default(), vec![]),
        ],
    );
    let mta = stage.mta().await;
    let lists = format!("{:?}", mta.agreed.macros);
    assert!(
        lists.contains("{client_ptr}") && lists.contains("{rcpt_host}"),
        "{lists}"
    );
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn a_shadow_that_joins_late_changes_nothing() {
    let shadow = Filter::new("shadow")
        .shadow()
        .when(when(r#"{"recipient": "r@x"}"#))
        .on('R', Act::Say(vec![Reply::Reject]));
    let hanging = Filter::new("hanging")
        .shadow()
        .when(said("first", &[Said::Continue]))
        .on('C', Act::Hang);
    let stage = Stage::routed(
        vec![Filter::new("first"), shadow, hanging],
        vec![("all", Condition::default(), vec![vec![0], vec![1], vec![2]])],
    );
    let mut mta = sender(&stage).await;
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
}

#[tokio::test]
async fn each_message_of_a_client_goes_its_own_way() {
    let stage = by_recipient(Filter::new("first"), Filter::new("second"));
    let mut mta = sender(&stage).await;
    for (address, filter) in [
        ("<a@one.test>", 0),
        ("<b@two.test>", 1),
        ("<c@one.test>", 0),
    ] {
        assert_eq!(mta.ask(rcpt(address)).await, Reply::Continue);
        assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
        let counted = stage.members[filter].health.messages();
        assert!(counted > 0);
        assert_eq!(mta.ask(mail()).await, Reply::Continue);
    }
    mta.quit().await.unwrap();
    stage.closed().await;
    let counted = [0, 1, 2].map(|filter| stage.members[filter].health.messages());
    assert_eq!(counted, [2, 1, 3]);
}

#[tokio::test]
async fn a_filter_that_dies_after_joining_late_is_told_again() {
    let dies = Filter::new("second").once(0, 'R', Act::Close);
    let stage = by_recipient(Filter::new("first"), dies);
    let mut mta = stage.mta().await;
    mta.macros('C', &[("j", "mx.test"), ("v", "Postfix 3.7.11")])
        .await;
    assert_eq!(mta.ask(connect()).await, Reply::Continue);
    assert_eq!(mta.ask(helo("client.test")).await, Reply::Continue);
    assert_eq!(mta.ask(mail()).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<a@one.test>")).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<b@two.test>")).await, Reply::Continue);
    assert_eq!(data_and_content(&mut mta).await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let told = "C H:client.test M<s@x> R<b@two.test>";
    assert_eq!(stage.heard(1, 1), format!("{told} {CONTENT}"));
    assert_eq!(stage.members[1].health.replays(), 1);
}
