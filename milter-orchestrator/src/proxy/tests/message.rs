//! Messages on their way: sequence and parallel, edits, bodies, several messages, what is told and
//! what is not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Actions, Command, MacroStage, Offer, Reply, Steps};

use super::harness::{Act, Filter, Mta, Stage, connect, header, helo, mail, rcpt};

/// What a filter is told of an ordinary message, short of QUIT.
const TOLD: &str = "C H:client.test M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B E";

/// One message through filters, and what comes back.
async fn through(stage: &Stage, body: &'static str) -> (Vec<Edit>, Reply) {
    let mut mta = stage.mta().await;
    mta.greet().await;
    let said = mta.message(body).await;
    mta.quit().await.unwrap();
    stage.closed().await;
    said
}

#[tokio::test]
async fn a_message_passes_through_filters_in_sequence_and_in_parallel() {
    let [a, b, c] = ["a", "b", "c"].map(Filter::new);
    for segments in [
        vec![vec![a.clone()], vec![b.clone()], vec![c.clone()]],
        vec![vec![a.clone(), b.clone(), c.clone()]],
        vec![vec![a.clone()], vec![b, c]],
        vec![vec![a]],
    ] {
        let stage = Stage::new(segments);
        let said = through(&stage, "hello\r\n").await;
        assert_eq!(said, (Vec::new(), Reply::Continue));
        for number in 0..stage.members.len() {
            assert_eq!(stage.heard(number, 0), format!("{TOLD} Q"));
            assert_eq!(stage.body(number, 0), "hello\r\n");
            assert_eq!(stage.members[number].health.messages(), 1);
        }
    }
}

#[tokio::test]
async fn without_filters_mail_passes() {
    let stage = Stage::new(Vec::new());
    let said = through(&stage, "hello\r\n").await;
    assert_eq!(said, (Vec::new(), Reply::Continue));
}

#[tokio::test]
async fn edits_are_seen_by_the_next_segment_and_reach_the_mta_as_one_difference() {
    let first = Filter::new("first").on(
        'E',
        Act::edits(
            vec![
                Edit::insert(0, "X-First", "1"),
                Edit::delete(1, "Subject"),
                Edit::ReplaceBody(Bytes::from_static(b"new\nbody\n")),
                Edit::AddRecipient {
                    address: Bytes::from_static(b"<added@x>"),
                    args: Bytes::new(),
                },
            ],
            Reply::Continue,
        ),
    );
    let second = Filter::new("second").on(
        'E',
        Act::edits(
            vec![
                Edit::change(1, "X-First", "2"),
                Edit::add("X-Second", "s"),
                Edit::Quarantine {
                    reason: Bytes::from_static(b"odd"),
                },
            ],
            Reply::Accept,
        ),
    );
    let stage = Stage::new(vec![vec![first], vec![second]]);
    let (edits, verdict) = through(&stage, "old\r\n").await;
    assert_eq!(
        stage.heard(1, 0),
        "C H:client.test M<s@x> R<r@x> T L:X-First=1 L:Received=r1 N B E Q"
    );
    assert_eq!(stage.body(1, 0), "new\r\nbody\r\n");
    // The MTA sends and takes leading spaces, the filters were not asked to.
    let expected = vec![
        Edit::delete(1, "Subject"),
        Edit::insert(0, "X-First", " 2"),
        Edit::add("X-Second", " s"),
        Edit::ReplaceBody(Bytes::from_static(b"new\r\nbody\r\n")),
        Edit::AddRecipient {
            address: Bytes::from_static(b"<added@x>"),
            args: Bytes::new(),
        },
        Edit::Quarantine {
            reason: Bytes::from_static(b"odd"),
        },
    ];
    assert_eq!((edits, verdict), (expected, Reply::Continue));
}

#[tokio::test]
async fn members_of_one_segment_see_the_same_and_all_their_edits_count() {
    let adds = |name: &'static str| {
        Filter::new(name).on(
            'E',
            Act::edits(vec![Edit::insert(0, "X-By", name)], Reply::Continue),
        )
    };
    let stage = Stage::new(vec![vec![adds("a"), adds("b")]]);
    let (edits, _) = through(&stage, "x\r\n").await;
    let expected = vec![Edit::insert(0, "X-By", " a"), Edit::insert(0, "X-By", " b")];
    assert_eq!(edits, expected);
    assert_eq!(stage.heard(0, 0), format!("{TOLD} Q"));
    assert_eq!(stage.heard(1, 0), format!("{TOLD} Q"));
}

#[tokio::test]
async fn an_empty_new_body_is_one_empty_piece() {
    let empties = Act::edits(vec![Edit::ReplaceBody(Bytes::new())], Reply::Continue);
    let stage = Stage::new(vec![
        vec![Filter::new("a").on('E', empties)],
        vec![Filter::new("b")],
    ]);
    let (edits, _) = through(&stage, "old\r\n").await;
    assert_eq!(edits, vec![Edit::ReplaceBody(Bytes::new())]);
    assert_eq!(stage.heard(1, 0), format!("{TOLD} Q").replace(" B ", " "));
}

#[tokio::test]
async fn filters_in_parallel_take_as_long_as_the_slowest() {
    const WAIT: Duration = Duration::from_secs(1);
    let slow = |name| Filter::new(name).on('E', Act::after(1000, Act::Say(vec![Reply::Continue])));
    let [together, apart] = [
        vec![vec![slow("a"), slow("b"), slow("c")]],
        vec![vec![slow("a")], vec![slow("b")], vec![slow("c")]],
    ]
    .map(Stage::new);
    let mut times = Vec::new();
    for stage in [together, apart] {
        let begin = Instant::now();
        assert_eq!(through(&stage, "x\r\n").await.1, Reply::Continue);
        times.push(begin.elapsed());
    }
    // Much of the difference is left to a machine that has other things to do.
    assert!(times[0] >= WAIT && times[0] < 3 * WAIT, "{times:?}");
    assert!(times[1] >= 3 * WAIT, "{times:?}");
}

#[tokio::test]
async fn case_177_the_mta_hears_signs_of_progress_at_the_end_of_the_message_only() {
    let slow = Filter::new("slow")
        .on('M', Act::after(150, Act::Say(vec![Reply::Continue])))
        .on('E', Act::after(2000, Act::Say(vec![Reply::Continue])));
    let stage = Stage::with_limits(vec![vec![slow]], |limits| {
        limits.progress = Duration::from_millis(50);
    });
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    mta.content("x\r\n").await;
    mta.send(Command::EndOfMessage(Bytes::new())).await;
    let mut signs = 0;
    while mta.reply().await == Reply::Progress {
        signs += 1;
    }
    // At most one every 50 ms, and not all of them on a busy machine.
    assert!((2..=40).contains(&signs), "{signs}");
}

#[tokio::test]
async fn many_messages_on_one_connection_do_not_touch_each_other() {
    let refuses_the_third = Filter::new("a").on_nth('M', 2, Act::Say(vec![Reply::Reject]));
    let accepts_the_second = Filter::new("b").on_nth('R', 1, Act::Say(vec![Reply::Accept]));
    let edits_the_fourth = Filter::new("c").on_nth(
        'E',
        2,
        Act::edits(vec![Edit::add("X", "4")], Reply::Continue),
    );
    let stage = Stage::new(vec![
        vec![refuses_the_third],
        vec![accepts_the_second],
        vec![edits_the_fourth],
    ]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    let mut said = Vec::new();
    for number in 0..6 {
        if number == 2 {
            assert_eq!(mta.ask(mail()).await, Reply::Reject);
        } else {
            let (edits, verdict) = mta.message("x\r\n").await;
            assert_eq!(verdict, Reply::Continue);
            said.push(edits.len());
        }
        // Postfix says this after every message, and more than once.
        mta.send(Command::Abort).await;
        mta.send(Command::Abort).await;
    }
    assert_eq!(said, [0, 0, 1, 0, 0]);
    mta.quit().await.unwrap();
    stage.closed().await;
    let count = |filter, what| {
        stage
            .heard(filter, 0)
            .split(' ')
            .filter(|told| *told == what)
            .count()
    };
    assert_eq!([count(0, "E"), count(1, "E"), count(2, "E")], [5, 4, 5]);
    assert_eq!([count(0, "C"), count(0, "H:client.test")], [1, 1]);
    // The third message was refused by the first filter, after the others had let it pass.
    assert_eq!([count(0, "A"), count(1, "A"), count(2, "A")], [0, 1, 1]);
}

#[tokio::test]
async fn an_abort_ends_the_message_everywhere_and_the_next_one_is_clean() {
    let stage = Stage::new(vec![vec![Filter::new("a")], vec![Filter::new("b")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    mta.ask(header("X", " dropped")).await;
    mta.send(Command::Abort).await;
    assert!(mta.is_silent().await);
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let begun = "C H:client.test M<s@x> R<r@x> T";
    let whole = "M<s@x> R<r@x> T L:Received=r1 L:Subject=s N B E Q";
    assert_eq!(stage.heard(0, 0), format!("{begun} L:X=dropped A {whole}"));
    assert_eq!(stage.heard(1, 0), format!("{begun} A {whole}"));
}

#[tokio::test]
async fn an_abort_while_a_filter_is_at_work_is_not_answered() {
    let slow = Filter::new("slow").on_nth('E', 0, Act::after(1500, Act::Say(vec![Reply::Reject])));
    let stage = Stage::new(vec![vec![slow, Filter::new("quick")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    mta.content("x\r\n").await;
    mta.send(Command::EndOfMessage(Bytes::new())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    mta.send(Command::Abort).await;
    assert!(mta.is_silent().await);
    // The late refusal belongs to the message that is gone.
    assert_eq!(mta.message("y\r\n").await.1, Reply::Continue);
    assert_eq!(stage.connections(0), 1);
}

#[tokio::test]
async fn postfix_says_helo_before_abort_and_the_new_name_stays() {
    let stage = Stage::new(vec![vec![Filter::new("a")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.ask(mail()).await;
    assert_eq!(mta.ask(helo("again.test")).await, Reply::Continue);
    mta.send(Command::Abort).await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    let heard = stage.heard(0, 0);
    assert!(
        heard.starts_with("C H:client.test M<s@x> A H:again.test M<s@x> R<r@x>"),
        "{heard}"
    );
}

#[tokio::test]
async fn what_nobody_wants_is_not_asked_for_and_not_told() {
    let blind = |name| Filter::new(name).steps(Steps::NO_BODY | Steps::NO_UNKNOWN);
    let stage = Stage::new(vec![vec![blind("a")], vec![blind("b")]]);
    let mut mta = stage.mta().await;
    assert!(
        mta.agreed
            .steps
            .contains(Steps::NO_BODY | Steps::NO_UNKNOWN)
    );
    mta.greet().await;
    mta.message("").await;
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(stage.heard(1, 0), format!("{TOLD} Q").replace(" B ", " "));

    let reads = Filter::new("b");
    let stage = Stage::new(vec![vec![blind("a")], vec![reads]]);
    through(&stage, "body\r\n").await;
    assert_eq!(stage.heard(0, 0), format!("{TOLD} Q").replace(" B ", " "));
    assert_eq!(stage.body(1, 0), "body\r\n");
}

#[tokio::test]
async fn events_without_replies_are_promised_when_all_filters_promise() {
    let all = Steps::NR_ALL;
    let some = Steps::NR_HEADER | Steps::NR_EOH;
    // (first filter, second filter, what the MTA must be promised, and what not)
    let table = [
        (all, all, Steps::NR_ALL - Steps::NR_MAIL, Steps::NR_MAIL),
        (
            all,
            some,
            some,
            Steps::NR_BODY | Steps::NR_RCPT | Steps::NR_CONNECT,
        ),
        (Steps::empty(), all, Steps::empty(), Steps::NR_ALL),
        (Steps::NO_HEADERS, some, Steps::NR_HEADER, Steps::NR_EOH),
    ];
    for (first, second, promised, kept) in table {
        let stage = Stage::new(vec![
            vec![Filter::new("a").steps(first)],
            vec![Filter::new("b").steps(second)],
        ]);
        let mut mta = stage.mta().await;
        assert!(mta.agreed.steps.contains(promised), "{first:?} {second:?}");
        assert!(!mta.agreed.steps.intersects(kept), "{first:?} {second:?}");
        mta.greet().await;
        for _ in 0..2 {
            assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        }
        assert!(mta.is_silent().await);
        mta.quit().await.unwrap();
        stage.closed().await;
        assert_eq!(stage.members[1].health.fallbacks(), 0);
        assert_eq!(stage.body(1, 0), "x\r\nx\r\n");
    }
}

#[tokio::test]
async fn a_filter_that_skips_gets_no_more_of_the_body() {
    let skips = |name| Filter::new(name).on('B', Act::Say(vec![Reply::Skip]));
    let chunks = |mta: Mta, expected: [Reply; 2]| async move {
        let mut mta = mta;
        mta.greet().await;
        mta.envelope().await;
        mta.content("").await;
        for reply in expected {
            let chunk = Command::Body(Bytes::from_static(b"chunk\r\n"));
            assert_eq!(mta.ask(chunk).await, reply);
            if reply == Reply::Skip {
                break;
            }
        }
        assert_eq!(mta.end().await.1, Reply::Continue);
        mta.quit().await.unwrap();
    };
    let stage = Stage::new(vec![vec![skips("a"), Filter::new("b")]]);
    chunks(stage.mta().await, [Reply::Continue, Reply::Continue]).await;
    stage.closed().await;
    assert_eq!(stage.body(0, 0), "chunk\r\n");
    assert_eq!(stage.body(1, 0), "chunk\r\nchunk\r\n");

    let stage = Stage::new(vec![vec![skips("a"), skips("b")]]);
    chunks(stage.mta().await, [Reply::Skip, Reply::Skip]).await;
    // A later segment wants the body that the first one skips.
    let stage = Stage::new(vec![vec![skips("a")], vec![Filter::new("b")]]);
    chunks(stage.mta().await, [Reply::Continue, Reply::Continue]).await;
    stage.closed().await;
    assert_eq!(stage.body(1, 0), "chunk\r\nchunk\r\n");
}

#[tokio::test]
async fn recipients_go_from_filter_to_filter() {
    let slow = Filter::new("a").on('R', Act::after(2000, Act::Say(vec![Reply::Continue])));
    let stage = Stage::new(vec![vec![slow, Filter::new("b")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.ask(mail()).await;
    mta.send(rcpt("<one@x>")).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(stage.heard(1, 0), "C H:client.test M<s@x>");
    assert_eq!(mta.reply().await, Reply::Continue);
    assert_eq!(stage.heard(1, 0), "C H:client.test M<s@x> R<one@x>");
}

#[tokio::test]
async fn recipients_that_the_mta_refused_go_to_those_who_asked() {
    let asks = Filter::new("asks").steps(Steps::RCPT_REJECTED);
    let stage = Stage::new(vec![vec![asks, Filter::new("plain")]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.ask(mail()).await;
    mta.macros('R', &[("{rcpt_mailer}", "error"), ("{rcpt_addr}", "no")])
        .await;
    assert_eq!(mta.ask(rcpt("<gone@x>")).await, Reply::Continue);
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(
        stage.heard(0, 0),
        "C H:client.test M<s@x> R<gone@x> R<r@x> A Q"
    );
    assert_eq!(stage.heard(1, 0), "C H:client.test M<s@x> R<r@x> A Q");
}

#[tokio::test]
async fn unknown_commands_are_told_and_do_not_touch_the_message() {
    let strict = Filter::new("a").on('U', Act::Say(vec![Reply::Reject]));
    let stage = Stage::new(vec![vec![Filter::new("b"), strict]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.ask(mail()).await;
    let unknown = Command::Unknown(Bytes::from_static(b"BAR zz"));
    assert_eq!(mta.ask(unknown).await, Reply::Reject);
    assert_eq!(mta.ask(rcpt("<r@x>")).await, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(stage.heard(0, 0), "C H:client.test M<s@x> U R<r@x> A Q");
}

#[tokio::test]
async fn whoever_accepted_a_message_hears_of_unknown_commands_where_the_mta_would_tell() {
    for (version, expected) in [("Postfix 3.7.11", " U"), ("8.17.1", "")] {
        let accepts = Filter::new("a").on('L', Act::Say(vec![Reply::Accept]));
        let stage = Stage::new(vec![vec![accepts], vec![Filter::new("b")]]);
        let mut mta = stage.mta().await;
        mta.macros('C', &[("v", version)]).await;
        mta.ask(connect()).await;
        mta.ask(helo("client.test")).await;
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        let unknown = Command::Unknown(Bytes::from_static(b"BAR zz"));
        assert_eq!(mta.ask(unknown).await, Reply::Continue);
        assert_eq!(mta.message("x\r\n").await.1, Reply::Continue);
        mta.quit().await.unwrap();
        stage.closed().await;
        let message = "M<s@x> R<r@x> T L:Received=r1";
        let heard = format!("C H:client.test {message}{expected} {message} Q");
        assert_eq!(stage.heard(0, 0), heard, "{version}");
    }
}

#[tokio::test]
async fn leading_space_is_kept_for_those_who_want_it() {
    let exact = Filter::new("exact").steps(Steps::LEADING_SPACE).on(
        'E',
        Act::edits(vec![Edit::add("X-Exact", "v")], Reply::Continue),
    );
    let plain = Filter::new("plain").on(
        'E',
        Act::edits(vec![Edit::add("X-Plain", "v")], Reply::Continue),
    );
    let stage = Stage::new(vec![vec![exact, plain]]);
    let (edits, _) = through(&stage, "").await;
    assert!(stage.heard(0, 0).contains("L:Subject= s"));
    assert!(stage.heard(1, 0).contains("L:Subject=s"));
    let expected = vec![Edit::add("X-Exact", "v"), Edit::add("X-Plain", " v")];
    assert_eq!(edits, expected);
}

#[tokio::test]
async fn an_old_mta_gets_what_it_understands() {
    let filter = Filter::new("a")
        .steps(Steps::NR_HEADER)
        .actions(Actions::ADD_HEADERS);
    let stage = Stage::new(vec![vec![filter]]);
    let mut mta = stage.raw_mta();
    mta.send(Command::Negotiate(Offer {
        version: 2,
        actions: Actions::from_bits_retain(0x3f),
        steps: Steps::from_bits_retain(0x7f),
        macros: Vec::new(),
    }))
    .await;
    let Reply::Negotiate(agreed) = mta.reply().await else {
        panic!("no answer to the negotiation");
    };
    assert_eq!((agreed.version, agreed.steps), (2, Steps::empty()));
    mta.agreed = agreed;
    for command in [connect(), helo("client.test"), mail(), rcpt("<r@x>")] {
        assert_eq!(mta.ask(command).await, Reply::Continue);
    }
    // Version 2 has no DATA; the filter's own version does.
    mta.content("x\r\n").await;
    assert_eq!(mta.end().await.1, Reply::Continue);
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(
        stage.heard(0, 0),
        format!("{TOLD} Q")
            .replace("=r1", "= r1")
            .replace("=s", "= s")
    );
}

#[tokio::test]
async fn macro_lists_reach_the_mta_with_the_defaults() {
    let stage = Stage::new(vec![vec![Filter::new("a").macros(MacroStage::Mail, "{x}")]]);
    let mta = stage.mta().await;
    let list = |stage| {
        let found = mta.agreed.macros.iter().find(|(named, _)| *named == stage);
        found.map(|(_, names)| String::from_utf8_lossy(names).into_owned())
    };
    assert!(list(MacroStage::Mail).unwrap().ends_with(" {x}"));
    assert!(list(MacroStage::Connect).unwrap().contains(" v "));
    assert_eq!(list(MacroStage::Rcpt), None);
}

#[tokio::test]
async fn macros_go_to_those_who_named_them_the_usual_ones_to_those_without_a_list() {
    let named = Filter::new("named").macros(MacroStage::Mail, "i {rcpt_addr}");
    let none = Filter::new("none").macros(MacroStage::Mail, "");
    let stage = Stage::new(vec![vec![named, Filter::new("all"), none]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.macros(
        'M',
        &[("{i}", "Q1"), ("{mail_addr}", "s@x"), ("rcpt_addr", "")],
    )
    .await;
    mta.ask(mail()).await;
    mta.quit().await.unwrap();
    stage.closed().await;
    assert_eq!(stage.macros(0, 'M'), "{i}=Q1 rcpt_addr=");
    // It did not ask for what the first one asked for, and might take it for something else.
    assert_eq!(stage.macros(1, 'M'), "{i}=Q1 {mail_addr}=s@x");
    assert_eq!(stage.macros(2, 'M'), "");
    assert_eq!(stage.macros(2, 'C'), "j=mx.test v=Postfix 3.7.11");
}

#[tokio::test]
async fn macros_of_events_that_nobody_wants_reach_the_filters() {
    let steps = Steps::NO_RCPT | Steps::NO_DATA | Steps::NO_EOH;
    let named = Filter::new("b")
        .steps(steps)
        .macros(MacroStage::Rcpt, "{rcpt_addr}");
    let stage = Stage::new(vec![vec![Filter::new("a").steps(steps), named]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    for address in ["one", "two"] {
        mta.ask(mail()).await;
        mta.macros('R', &[("{rcpt_addr}", "earlier")]).await;
        mta.macros('R', &[("{rcpt_addr}", address), ("i", "QID")])
            .await;
        mta.macros('T', &[("i", "QID")]).await;
        mta.content("x\r\n").await;
        assert_eq!(mta.end().await.1, Reply::Continue);
        assert_eq!(
            stage.macros(0, 'R'),
            format!("{{rcpt_addr}}={address} i=QID")
        );
        assert_eq!(stage.macros(1, 'R'), format!("{{rcpt_addr}}={address}"));
        assert_eq!(stage.macros(0, 'T'), "i=QID");
    }
    mta.quit().await.unwrap();
    stage.closed().await;
    assert!(!stage.heard(0, 0).contains(" R"));
}

#[tokio::test]
async fn a_large_body_is_spilled_and_arrives_whole_everywhere() {
    let silent = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY;
    for steps in [Steps::empty(), silent] {
        let segments = vec![
            vec![Filter::new("a").steps(steps), Filter::new("b").steps(steps)],
            vec![Filter::new("c").steps(steps)],
        ];
        let stage = Stage::with_limits(segments, |limits| {
            std::sync::Arc::make_mut(&mut limits.spool).budget = std::sync::Arc::default();
        });
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.envelope().await;
        mta.content("").await;
        let chunk = Bytes::from(vec![b'x'; 65_535]);
        for _ in 0..160 {
            assert_eq!(mta.ask(Command::Body(chunk.clone())).await, Reply::Continue);
        }
        assert_eq!(mta.end().await.1, Reply::Continue);
        mta.quit().await.unwrap();
        stage.closed().await;
        for filter in 0..3 {
            assert_eq!(stage.body(filter, 0).len(), 160 * 65_535);
        }
    }
}

#[tokio::test]
async fn case_189_a_slow_reader_slows_the_mta_and_nothing_is_lost() {
    let silent = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY;
    let slow = Filter::new("slow")
        .steps(silent)
        .on('B', Act::after(2, Act::Say(Vec::new())));
    let stage = Stage::with_limits(vec![vec![slow]], |limits| limits.lag = 64 * 1024);
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    mta.content("").await;
    for _ in 0..100 {
        let chunk = Bytes::from(vec![b'y'; 30_000]);
        assert_eq!(mta.ask(Command::Body(chunk)).await, Reply::Continue);
    }
    let behind = 100 * 30_000 - stage.body(0, 0).len();
    // What is on its way in sockets and queues, and not all of it.
    assert!(behind < 2_000_000, "{behind}");
    assert_eq!(mta.end().await.1, Reply::Continue);
    assert_eq!(stage.body(0, 0).len(), 100 * 30_000);
}
