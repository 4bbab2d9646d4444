//! Every promise can be broken: evidence of a good run passes all of them, and each way to spoil it
//! is found by the promise that is meant for it.

use std::time::Duration;

use super::super::decisions::Decisions;
use super::super::sending::{Kill, Letter};
use super::super::signature::Opinion;
use super::*;
use crate::smtp::client::{Answer, Stage};
use crate::stack::Filter;

const ID: &str = "4A2B";

fn letter(what: &'static str, to: &str, code: u16, text: &str) -> Sent {
    Sent {
        letter: Letter {
            what,
            from: "anna@sender.test".to_owned(),
            to: to.to_owned(),
            guise: None,
            message: b"Subject: x\r\n\r\nbody of it\r\n".to_vec(),
        },
        answer: Ok(Answer {
            stage: Stage::End,
            code,
            text: text.to_owned(),
        }),
        took: Duration::ZERO,
    }
}

fn taken(what: &'static str, to: &str) -> Sent {
    letter(what, to, 250, &format!("2.0.0 Ok: queued as {ID}"))
}

fn arrived(to: &str, header: &str) -> Delivered {
    Delivered {
        to: vec![to.to_owned()],
        message: format!("{header}Subject: x\r\n\r\nbody of it\r\n").into_bytes(),
    }
}

fn filter(name: &str) -> Filter {
    Filter {
        name: name.to_owned(),
        up: true,
        pid: Some(2),
    }
}

/// A run as it should be.
fn good() -> Evidence {
    let decided = |id: &str, by: &str| format!("{{\"queue_id\":\"{id}\",\"by\":\"{by}\"}}\n");
    let log = decided(ID, "every filter") + &decided("S", "spam") + &decided("V", "clamav");
    let maillog = "p: S: milter-reject: END-OF-MESSAGE; to=<spam@demo.test>\n\
                   p: V: milter-reject: END-OF-MESSAGE; to=<virus@demo.test>\n";
    Evidence {
        sent: vec![
            taken(ORDINARY, "ordinary@demo.test"),
            taken(OUTGOING, "anna@sender.test"),
            taken(FORGED, "forged@demo.test"),
            letter(SPAM, "spam@demo.test", 554, "5.7.1 no"),
            letter(VIRUS, "virus@demo.test", 550, "5.7.1 Eicar-Test-Signature"),
            taken(BIG, "big@demo.test"),
        ],
        delivered: vec![
            arrived(
                "ordinary@demo.test",
                "Authentication-Results: mx.demo.test;\r\n none\r\n",
            ),
            arrived(
                "anna@sender.test",
                "DKIM-Signature: v=1; a=x;\r\n\td=demo.test;\r\n s=y\r\n",
            ),
            arrived(
                "forged@demo.test",
                "authentication-results: elsewhere.test; spf=pass\r\n",
            ),
            arrived("big@demo.test", ""),
        ],
        decisions: Decisions::from_logs(&log, maillog),
        signature: vec![Opinion {
            who: "somebody",
            good: true,
            said: "pass".to_owned(),
        }],
        kills: vec![Kill {
            filter: "dkim".to_owned(),
            pid: 1,
            after: 3,
            successor: Some(2),
        }],
        filters: vec![filter("dkim")],
        queued: 0,
        archived: false,
    }
}

#[test]
fn a_good_run_keeps_every_promise() {
    let evidence = good();
    for check in judge(&evidence) {
        assert!(!check.failed(), "{check}");
    }
    let counts = Counts::of(&evidence).to_string();
    assert_eq!(counts, "6 sent, 4 delivered, 2 refused, 0 deferred, 0 lost");
}

/// A way to spoil a run, and the promise that must notice.
type Spoiled = (fn(&mut Evidence), fn(&Evidence) -> Result<()>);

#[test]
fn each_promise_can_be_broken() {
    let ways: &[Spoiled] = &[
        (|e| e.delivered[0].message.push(b'x'), ordinary_arrives),
        (|e| e.delivered[3].message.truncate(20), big_arrives),
        (
            |e| e.delivered[0] = arrived("ordinary@demo.test", ""),
            results_are_written,
        ),
        (
            |e| e.delivered[1] = arrived("anna@sender.test", ""),
            outgoing_is_signed,
        ),
        (|e| e.signature[0].good = false, signatures_verify),
        (|e| e.signature.clear(), signatures_verify),
        (
            |e| e.delivered[2] = arrived("forged@demo.test", ""),
            forged_is_removed,
        ),
        (
            |e| {
                let forged = "Authentication-Results: mx.demo.test; dkim=pass header.d=bank.test";
                let forged = format!("{forged}\r\nAuthentication-Results: elsewhere.test; x\r\n");
                e.delivered[2] = arrived("forged@demo.test", &forged);
            },
            forged_is_removed,
        ),
        (
            |e| e.sent[3] = taken(SPAM, "spam@demo.test"),
            spam_is_refused,
        ),
        (
            |e| e.sent[3].letter.to = "virus@demo.test".to_owned(),
            spam_is_refused,
        ),
        (
            |e| e.sent[4] = letter(VIRUS, "virus@demo.test", 550, "5.7.1 no"),
            virus_is_refused,
        ),
        (|e| e.kills[0].successor = None, killed_are_replaced),
        (|e| e.kills.clear(), killed_are_replaced),
        (
            |e| e.sent[0].answer = Err("gone".to_owned()),
            nothing_deferred,
        ),
        (
            |e| e.sent[0] = letter(ORDINARY, "ordinary@demo.test", 451, "4.7.1 later"),
            nothing_deferred,
        ),
        (|e| drop(e.delivered.remove(3)), nothing_lost),
        (
            |e| e.delivered.push(arrived("big@demo.test", "")),
            nothing_lost,
        ),
        (|e| e.queued = 1, nothing_lost),
        (
            |e| e.delivered.push(arrived("spam@demo.test", "")),
            nothing_smuggled,
        ),
        (|e| e.decisions = Decisions::from_logs("", ""), all_decided),
    ];
    for (index, (spoil, promise)) in ways.iter().enumerate() {
        let mut evidence = good();
        assert!(
            promise(&evidence).is_ok(),
            "{index}: {:?}",
            promise(&evidence)
        );
        spoil(&mut evidence);
        assert!(promise(&evidence).is_err(), "{index} is not noticed");
    }
}
