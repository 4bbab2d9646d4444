//! Who is told when: filters side by side where that changes nothing, one after the other elsewhere
//! and in a strict chain.

use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::wire::{Actions, Command, Offer, Reply, Steps};

use super::harness::{
    Act, Filter, PATIENCE, Stage, connect, header, helo, mail, rcpt, settle, text,
};

/// A filter that changes nothing of the content.
fn reader(name: &'static str) -> Filter {
    Filter::new(name).actions(Actions::QUARANTINE | Actions::ADD_RECIPIENT)
}

/// An answer to the negotiation that asks for these edits.
fn negotiates(actions: Actions) -> Act {
    let answer = Offer {
        actions,
        steps: Steps::SKIP,
        ..Offer::full()
    };
    Act::Say(vec![Reply::Negotiate(answer)])
}

/// Waits until a filter has been told something; `false` when that does not happen soon.
async fn hears(stage: &Stage, filter: usize, what: &str) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if stage.heard(filter, 0).contains(what) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// Whether each filter is told of the body while the MTA is still sending.
async fn live(filters: Vec<Filter>) -> Vec<bool> {
    let count = filters.len();
    let stage = Stage::new(filters.into_iter().map(|one| vec![one]).collect());
    let mut mta = stage.mta().await;
    mta.greet().await;
    mta.envelope().await;
    assert_eq!(mta.content("x\r\n").await, Reply::Continue);
    // The first of all is told at once; once it is, so are those beside it.
    assert!(hears(&stage, 0, " B").await);
    settle().await;
    let told = (0..count).map(|filter| stage.heard(filter, 0).contains(" B"));
    let told = told.collect();
    assert_eq!(mta.end().await.1, Reply::Continue);
    for filter in 0..count {
        assert!(stage.heard(filter, 0).contains(" B E"), "filter {filter}");
    }
    told
}

#[tokio::test]
async fn filters_that_change_nothing_of_what_others_read_run_on_live_bytes() {
    let readers = vec![reader("a"), reader("b"), reader("c"), reader("d")];
    assert_eq!(live(readers).await, [true; 4]);
    let adds = || reader("b").actions(Actions::ADD_HEADERS);
    let filters = vec![reader("a"), adds(), reader("c")];
    assert_eq!(live(filters).await, [true, true, false]);
    let blind = reader("c").steps(Steps::NO_HEADERS | Steps::SKIP);
    let filters = vec![reader("a"), adds(), blind.clone()];
    assert_eq!(live(filters).await, [true, true, true]);
    let replaces = reader("b").actions(Actions::CHANGE_BODY);
    assert_eq!(
        live(vec![replaces, reader("a"), blind]).await,
        [true, false, false]
    );
}

#[tokio::test]
async fn edits_of_one_that_did_not_look_refer_to_the_header_after_those_before_it() {
    let adds = Edit::InsertHeader {
        index: 0,
        name: Bytes::from_static(b"Subject"),
        value: Bytes::from_static(b"first"),
    };
    let adds = reader("a")
        .actions(Actions::ADD_HEADERS)
        .on('E', Act::edits(vec![adds], Reply::Continue));
    let changes = Edit::ChangeHeader {
        index: 1,
        name: Bytes::from_static(b"Subject"),
        value: Bytes::from_static(b"second"),
    };
    let changes = reader("b")
        .actions(Actions::CHANGE_HEADERS | Actions::ADD_HEADERS)
        .steps(Steps::NO_HEADERS)
        .on('E', Act::edits(vec![changes], Reply::Continue));
    let stage = Stage::new(vec![vec![adds], vec![changes]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    let (edits, _) = mta.message("x\r\n").await;
    let expected = Edit::InsertHeader {
        index: 0,
        name: Bytes::from_static(b"Subject"),
        // The MTA takes header fields with their leading space.
        value: Bytes::from_static(b" second"),
    };
    assert_eq!(edits, [expected]);
}

#[tokio::test]
async fn one_that_comes_back_with_more_wishes_moves_the_barriers() {
    let wider = Actions::ADD_HEADERS | Actions::QUARANTINE | Actions::ADD_RECIPIENT;
    // Something else must have asked the MTA for it.
    let last = reader("c").actions(wider);
    for (second, told) in [(wider, false), (Actions::QUARANTINE, true)] {
        let returns = reader("a")
            .once(0, 'M', Act::Close)
            .once(1, 'O', negotiates(second));
        let stage = Stage::new(vec![vec![returns], vec![reader("b")], vec![last.clone()]]);
        let mut mta = stage.mta().await;
        mta.greet().await;
        mta.envelope().await;
        assert_eq!(mta.content("x\r\n").await, Reply::Continue);
        assert!(stage.heard(0, 1).contains(" B"));
        assert_eq!(stage.heard(1, 0).contains(" B"), told, "{second:?}");
        assert_eq!(mta.end().await.1, Reply::Continue);
    }
    // Too late: the others have been told of content that it may change.
    let returns = reader("a")
        .once(0, 'E', Act::Close)
        .once(1, 'O', negotiates(wider));
    let stage = Stage::new(vec![vec![returns], vec![reader("b")], vec![last]]);
    let mut mta = stage.mta().await;
    mta.greet().await;
    assert_eq!(mta.message("x\r\n").await.1, Reply::TempFail);
}

/// The commands of a session, with the letters of the filters' scripts.
fn session() -> Vec<(char, Command)> {
    vec![
        ('C', connect()),
        ('H', helo("client.test")),
        ('M', mail()),
        ('R', rcpt("<r@x>")),
        ('T', Command::Data),
        ('L', header("Subject", " s")),
        ('N', Command::EndOfHeaders),
        ('B', Command::Body(Bytes::from_static(b"body\r\n"))),
        ('E', Command::EndOfMessage(Bytes::new())),
    ]
}

#[tokio::test]
async fn in_a_strict_chain_nobody_hears_what_one_before_has_refused() {
    let word = |letter| match letter {
        // A word for the message as a whole, from anybody.
        'R' => Reply::Discard,
        _ => text(550, "5.7.1", "no"),
    };
    for (letter, _) in session() {
        let refuses = reader("b").on(letter, Act::Say(vec![word(letter)]));
        let stage = Stage::strict(vec![reader("a"), refuses, reader("c")]);
        let mut mta = stage.mta().await;
        for (at, command) in session() {
            let reply = mta.ask(command).await;
            if reply != Reply::Continue {
                let content = matches!(letter, 'L' | 'N' | 'B' | 'E');
                assert_eq!(
                    (at, reply),
                    (if content { 'E' } else { letter }, word(letter))
                );
                break;
            }
        }
        mta.quit().await.unwrap();
        stage.closed().await;
        let told = |filter| {
            let heard: String = stage.heard(filter, 0);
            let letters = heard.split(' ').filter_map(|word| word.chars().next());
            letters
                .filter(|letter| !"AQ".contains(*letter))
                .collect::<String>()
        };
        assert!(told(1).ends_with(letter), "{letter}: {}", told(1));
        let before = told(1).replace(letter, "");
        let expected = if "LNBE".contains(letter) {
            "CHMRT"
        } else {
            &*before
        };
        assert_eq!(told(2), expected, "{letter}");
    }
}

#[tokio::test]
async fn a_strict_chain_goes_one_filter_at_a_time() {
    let slow =
        |name, letter| reader(name).on(letter, Act::after(800, Act::Say(vec![Reply::Continue])));
    for (letter, command) in session().into_iter().take(5) {
        for strict in [true, false] {
            let filters = vec![slow("a", letter), reader("b")];
            let stage = if strict {
                Stage::strict(filters)
            } else {
                Stage::new(filters.into_iter().map(|one| vec![one]).collect())
            };
            let mut mta = stage.mta().await;
            for (at, command) in session() {
                if at == letter {
                    break;
                }
                assert_eq!(mta.ask(command).await, Reply::Continue);
            }
            mta.send(command.clone()).await;
            let heard = |filter: usize| stage.heard(filter, 0).contains(letter);
            while !heard(0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            settle().await;
            // A recipient goes from one to the next in any chain.
            assert_eq!(heard(1), !strict && letter != 'R', "{letter} {strict}");
            assert_eq!(mta.reply().await, Reply::Continue);
            assert!(heard(1));
        }
    }
}

#[tokio::test]
async fn behind_a_quarantine_a_strict_chain_ends_on_postfix_alone() {
    let reason = Bytes::from_static(b"held");
    let holds = |name| {
        let edit = Edit::Quarantine {
            reason: reason.clone(),
        };
        reader(name).on('E', Act::edits(vec![edit], Reply::Continue))
    };
    for (version, strict, seen) in [
        ("Postfix 3.7.11", true, false),
        ("8.17.1.9", true, true),
        ("Postfix 3.7.11", false, true),
    ] {
        let filters = vec![holds("a"), reader("b")];
        let stage = if strict {
            Stage::strict(filters)
        } else {
            Stage::new(filters.into_iter().map(|one| vec![one]).collect())
        };
        let mut mta = stage.mta().await;
        mta.macros('C', &[("v", version)]).await;
        assert_eq!(mta.ask(connect()).await, Reply::Continue);
        let (edits, reply) = mta.message("x\r\n").await;
        assert_eq!((edits.len(), reply), (1, Reply::Continue));
        assert_eq!(stage.heard(1, 0).contains(" E"), seen, "{version} {strict}");
    }
}
