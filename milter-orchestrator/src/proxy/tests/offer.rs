//! Tables for the merge of negotiations.

use super::*;

/// What Postfix and Sendmail offer.
fn mta() -> Offer {
    normalise(&Offer {
        version: 6,
        actions: Actions::from_bits_retain(0x1ff),
        steps: Steps::from_bits_retain(0x1f_ffff),
        macros: Vec::new(),
    })
}

fn answer(actions: Actions, steps: Steps) -> Offer {
    Offer {
        version: 6,
        actions,
        steps,
        macros: Vec::new(),
    }
}

fn wish(answer: &Offer) -> Wish<'_> {
    Wish {
        answer: Some(answer),
        shadow: false,
        quarantines: false,
    }
}

/// Merges behind a current MTA.
fn merged(answers: &[Offer]) -> Offer {
    let wishes: Vec<Wish<'_>> = answers.iter().map(wish).collect();
    merge(&mta(), &wishes)
}

#[test]
fn steps_are_what_serves_everybody() {
    let all_no = EVENTS.iter().fold(Steps::empty(), |all, (no, _)| all | *no);
    let everything = answer(Actions::empty(), Steps::empty());
    let nothing = answer(Actions::empty(), all_no);
    let adds = answer(Actions::ADD_HEADERS, all_no);
    let silent = answer(Actions::empty(), Steps::NR_HEADER | Steps::NR_MAIL);
    let rejected = answer(Actions::empty(), Steps::RCPT_REJECTED);
    // (who is there, what must be set, what must not be)
    let table = [
        (
            vec![everything.clone()],
            Steps::SKIP | Steps::LEADING_SPACE,
            all_no | Steps::NR_HEADER | Steps::RCPT_REJECTED,
        ),
        (
            vec![everything.clone(), nothing.clone()],
            Steps::empty(),
            all_no,
        ),
        (
            vec![nothing.clone()],
            Steps::NO_RCPT
                | Steps::NO_BODY
                | Steps::NO_HEADERS
                | Steps::NO_EOH
                | Steps::NO_DATA
                | Steps::NO_UNKNOWN
                | Steps::NO_HELO
                | Steps::NR_CONNECT,
            Steps::NO_CONNECT | Steps::NO_MAIL | Steps::NR_MAIL,
        ),
        // The fields are needed to place the edit, and nobody answers them.
        (
            vec![adds, nothing.clone()],
            Steps::NR_HEADER | Steps::NO_BODY,
            Steps::NO_HEADERS,
        ),
        (
            vec![silent.clone(), nothing],
            Steps::NR_HEADER,
            Steps::NR_MAIL | Steps::NO_HEADERS,
        ),
        (vec![silent, everything], Steps::empty(), Steps::NR_HEADER),
        (vec![rejected], Steps::RCPT_REJECTED, Steps::empty()),
        (
            Vec::new(),
            Steps::NO_HEADERS | Steps::NO_BODY,
            Steps::NR_MAIL | Steps::NO_MAIL,
        ),
    ];
    for (answers, set, clear) in table {
        let steps = merged(&answers).steps;
        assert!(steps.contains(set), "{answers:?}: {steps:?}");
        assert!(!steps.intersects(clear), "{answers:?}: {steps:?}");
    }
}

#[test]
fn actions_are_united_and_stay_within_the_offer() {
    let add = answer(Actions::ADD_HEADERS, Steps::NO_HELO | Steps::NR_HEADER);
    let change = answer(Actions::CHANGE_HEADERS, Steps::NO_HELO);
    let both = merged(&[add.clone(), change]).actions;
    assert_eq!(
        both - Actions::SET_MACRO_LIST,
        Actions::from_bits_retain(0x11)
    );

    let shadow = Wish {
        shadow: true,
        ..wish(&add)
    };
    let held = Wish {
        quarantines: true,
        ..shadow
    };
    let asked = |wish| merge(&mta(), &[wish]).actions - Actions::SET_MACRO_LIST;
    assert_eq!(asked(shadow), Actions::empty());
    assert_eq!(asked(held), Actions::QUARANTINE);

    let unknown = Wish {
        answer: None,
        ..wish(&add)
    };
    let old = normalise(&Offer {
        version: 2,
        actions: Actions::empty(),
        steps: Steps::empty(),
        macros: Vec::new(),
    });
    let reply = merge(&old, &[unknown]);
    assert_eq!(
        (reply.version, reply.actions, reply.macros.len()),
        (2, ACTIONS_V1, 0)
    );
    assert_eq!(reply.steps, Steps::empty());
}

#[test]
fn a_filter_that_could_not_be_asked_is_expected_to_want_everything() {
    let unknown = Wish {
        answer: None,
        shadow: false,
        quarantines: false,
    };
    let nothing = answer(Actions::empty(), Steps::all());
    let steps = merge(&mta(), &[wish(&nothing), unknown]).steps;
    for (no, nr) in EVENTS {
        assert!(!steps.intersects(no | nr), "{no:?}");
    }
}

#[test]
fn a_silent_shadow_does_not_keep_replies_away_nor_force_them() {
    let silent = answer(Actions::empty(), Steps::NR_HEADER);
    let talks = answer(Actions::empty(), Steps::empty());
    let shadow = Wish {
        shadow: true,
        ..wish(&talks)
    };
    let steps = merge(&mta(), &[wish(&silent), shadow]).steps;
    assert!(steps.contains(Steps::NR_HEADER));
    assert!(!steps.contains(Steps::NO_HEADERS));
}

#[test]
fn macro_lists_keep_the_defaults_and_name_both_ends() {
    let mut listed = answer(Actions::SET_MACRO_LIST, Steps::empty());
    listed.macros = vec![
        (
            MacroStage::Mail,
            Bytes::from_static(b"{i} {auth_authen} {client_ptr}"),
        ),
        (MacroStage::EndOfMessage, Bytes::from_static(b"{x}")),
        (MacroStage::Helo, Bytes::new()),
    ];
    let plain = answer(Actions::empty(), Steps::empty());
    let reply = merged(&[listed, plain]);
    let list =
        |stage| list_for(&reply, stage).map(|list| String::from_utf8_lossy(list).into_owned());
    assert_eq!(
        list(MacroStage::Mail).unwrap(),
        "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} \
         {mail_mailer} {auth_ssf} {client_ptr}"
    );
    assert_eq!(list(MacroStage::EndOfMessage).unwrap(), "i {msg_id} {x}");
    assert_eq!(list(MacroStage::EndOfHeaders).unwrap(), "i");
    assert!(list(MacroStage::Connect).unwrap().contains(" v "));
    for stage in [MacroStage::Helo, MacroStage::Rcpt, MacroStage::Data] {
        assert_eq!(list(stage), None, "{stage:?}");
    }
}

#[test]
fn macro_lists_stop_where_sendmail_would_refuse() {
    let mut greedy = answer(Actions::SET_MACRO_LIST, Steps::empty());
    let names: Vec<String> = (0..200).map(|number| format!("{{x{number}}}")).collect();
    greedy.macros = vec![(MacroStage::Rcpt, Bytes::from(names.join(" ")))];
    let reply = merged(&[greedy]);
    let list = list_for(&reply, MacroStage::Rcpt).unwrap();
    assert_eq!(names_in(list).count(), MACRO_NAMES_MAX);
}

#[test]
fn what_cannot_be_made_up_for_is_offered_only_when_the_mta_has_it() {
    assert_eq!(for_filter(&mta()), Offer::full());
    let old = Offer {
        version: 2,
        steps: Steps::NO_ALL - Steps::NO_DATA,
        ..mta()
    };
    let offered = for_filter(&old);
    let missing = Steps::LEADING_SPACE | Steps::RCPT_REJECTED;
    assert_eq!(offered.steps, Steps::NEGOTIABLE - missing);
    assert!(!merge(&old, &[]).steps.contains(Steps::LEADING_SPACE));
}

#[test]
fn an_edit_can_be_written_as_another() {
    let table = [
        (
            Actions::CHANGE_HEADERS,
            Actions::CHANGE_HEADERS | Actions::ADD_HEADERS,
        ),
        (
            Actions::ADD_RECIPIENT_ARGS,
            Actions::ADD_RECIPIENT_ARGS | Actions::ADD_RECIPIENT,
        ),
        (Actions::ADD_HEADERS, Actions::ADD_HEADERS),
        (Actions::ADD_RECIPIENT, Actions::ADD_RECIPIENT),
    ];
    for (asked, expected) in table {
        let merged = merged(&[answer(asked, Steps::empty())]);
        assert_eq!(merged.actions - Actions::SET_MACRO_LIST, expected);
    }
}
