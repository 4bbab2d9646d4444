//! What is different behind the orchestrator on purpose (ARCHITECTURE.md, "Deviations from the
//! chain") is taken out of a random scenario here, and nowhere else.

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::testkit::{Act, At, Cue, FilterScript, Scenario};
use milter_proto::verdict::SmtpReply;
use milter_proto::wire::{MacroStage, Reply, Steps};

/// Takes out what is different on purpose when the mail server is the one of that name
/// ([`Mta::name`](super::mta::Mta::name)).
pub fn leave_out(scenario: &mut Scenario, server: &str) {
    on_any(scenario);
    match server {
        "sendmail" => on_sendmail(scenario),
        _ => on_postfix(scenario),
    }
}

/// Whether nothing of it is different on purpose.
#[must_use]
pub fn has_none(scenario: &Scenario, server: &str) -> bool {
    // What the client says is of no account, and can be long.
    let mut without = Scenario {
        filters: scenario.filters.clone(),
        chain: scenario.chain.clone(),
        ..Scenario::default()
    };
    leave_out(&mut without, server);
    without.filters == scenario.filters
}

/// The scenario as the server would have to get it from its own filters, so that it does what it
/// does with the orchestrator between: replies that are put in order come in order.
///
/// A lone `%` stands for itself, and an enhanced code of another class than the reply's is left
/// out. Servers make something else of such replies: Postfix drops the sign, and takes the code for
/// a mistake of configuration; Sendmail has a text of its own instead of the one with the sign.
#[must_use]
pub fn in_order(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    let cues = scenario.filters.iter_mut();
    for act in cues
        .flat_map(|filter| &mut filter.cues)
        .flat_map(|cue| &mut cue.acts)
    {
        let Act::Raw(frame) = act else { continue };
        // Length, code, text, NUL.
        let text = frame.get(4..).and_then(|frame| frame.strip_prefix(b"y"));
        let text = text.and_then(|text| text.strip_suffix(b"\0"));
        if let Some(reply) = text.and_then(|text| SmtpReply::parse(text).ok()) {
            *act = Act::Say(Reply::SmtpReply(reply));
        }
    }
    scenario
}

/// The addresses that filters add to the envelope or set in it. Sendmail writes the last one before
/// the text of a refusal that follows, though the message is refused; the orchestrator tells it of
/// no change then.
#[must_use]
pub fn new_addresses(scenario: &Scenario) -> Vec<Bytes> {
    let cues = scenario.filters.iter().flat_map(|filter| &filter.cues);
    let acts = cues.flat_map(|cue| &cue.acts);
    let address = |act: &Act| match act {
        Act::Say(Reply::Edit(
            Edit::AddRecipient { address, .. }
            | Edit::DeleteRecipient { address }
            | Edit::ChangeSender { address, .. },
        )) => Some(address.clone()),
        Act::Raw(frame) => {
            let address = frame.get(4..)?.strip_prefix(b"2")?.strip_suffix(b"\0")?;
            Some(Bytes::copy_from_slice(address))
        }
        _ => None,
    };
    acts.filter_map(address).collect()
}

/// What is different whatever the server:
///
/// * ABORT goes to filters that are in a message, as Sendmail has it, not after every message. One
///   that hears of no MAIL and ends a message early must not depend on counting.
/// * A client, or its name in HELO, that a later filter refuses is refused before earlier filters
///   hear of MAIL or unknown commands; and a client before they hear of HELO.
///
/// And where the route is not strict:
///
/// * Filters that may not change the message hear of MAIL and of content side by side, so a later
///   one can hear of a message that an earlier one refuses. It cannot tell what the number of the
///   message would be for it in the server's own list: a script must not depend on it.
/// * A filter that refuses or accepts in the content is connected anew for the next message, and
///   counts from one.
/// * After a filter's quarantine Postfix asks no later filter; the orchestrator does, since what
///   a later one finds must not depend on what an earlier one suspects.
fn on_any(scenario: &mut Scenario) {
    for filter in &mut scenario.filters {
        if filter.offer.steps.contains(Steps::NO_MAIL) {
            for cue in &mut filter.cues {
                (cue.message, cue.nth) = (None, None);
            }
        }
    }
    let refused_at = |filters: &[FilterScript], at: At| {
        let refuses = |cue: &Cue| cue.at == at && !passes(cue);
        let refusing = filters
            .iter()
            .rposition(|filter| filter.cues.iter().any(refuses));
        refusing.unwrap_or_default()
    };
    let at_connect = refused_at(&scenario.filters, At::Connect);
    let at_helo = refused_at(&scenario.filters, At::Helo);
    for (number, filter) in scenario.filters.iter_mut().enumerate() {
        let early = |cue: &Cue| match cue.at {
            At::Helo => number < at_connect,
            At::Mail | At::Unknown => number < at_connect.max(at_helo),
            _ => false,
        };
        filter.cues.retain(|cue| !early(cue));
    }
    if scenario.chain.strict {
        return;
    }
    let mut miscounts = false;
    for filter in &mut scenario.filters {
        if miscounts || filter.cues.iter().any(ends_content) {
            filter.cues.iter_mut().for_each(forget_numbers);
        }
        miscounts |= filter.cues.iter().any(refuses);
    }
    let last = scenario.filters.len().saturating_sub(1);
    for filter in &mut scenario.filters[..last] {
        for cue in &mut filter.cues {
            let quarantines =
                |act: &Act| matches!(act, Act::Say(Reply::Edit(Edit::Quarantine { .. })));
            cue.acts.retain(|act| !quarantines(act));
        }
    }
}

/// What is different when the server is Postfix:
///
/// * A filter that asks for no macros at a stage gets none; Postfix would send its usual ones.
/// * After a discard Postfix tells the orchestrator of nothing until the message is over, of no
///   unknown command either; the other filters of its own list would hear of that.
fn on_postfix(scenario: &mut Scenario) {
    let discards = |cue: &Cue| cue.acts.contains(&Act::Say(Reply::Discard));
    let mut cues = scenario.filters.iter().flat_map(|filter| &filter.cues);
    if cues.any(discards) {
        for filter in &mut scenario.filters {
            filter.cues.retain(|cue| cue.at != At::Unknown);
        }
    }
    for filter in &mut scenario.filters {
        filter.offer.macros.retain(|(_, list)| !list.is_empty());
    }
}

/// What is different when the server is Sendmail:
///
/// * For a parameter of a new recipient that it does not know Sendmail writes a line of its own
///   debugging between the replies, and the client loses count.
/// * A filter that hears of no MAIL, or does not answer it, is told of no ABORT before DATA: it
///   must not depend on counting. Any other one, as the orchestrator, hears of no unknown command
///   between an ABORT and the next message.
/// * Sendmail 8.17 mixes up the lists of macros for the end of the header and of the message: both
///   must be given, or neither.
/// * A recipient that comes with room for parameters but without any makes Sendmail read the lists
///   of addresses in the header in another way. The orchestrator has the shorter form.
/// * CR CR LF in a new body is CR LF to later filters, but not to the recipient. The orchestrator
///   shows what is delivered.
fn on_sendmail(scenario: &mut Scenario) {
    for filter in &mut scenario.filters {
        let deaf = Steps::NO_MAIL | Steps::NR_MAIL;
        if filter.offer.steps.intersects(deaf) {
            for cue in &mut filter.cues {
                (cue.message, cue.nth) = (None, None);
            }
            filter.cues.retain(|cue| cue.at != At::Unknown);
        }
        let is_end = |stage| matches!(stage, MacroStage::EndOfHeaders | MacroStage::EndOfMessage);
        let macros = &mut filter.offer.macros;
        if macros.iter().filter(|(stage, _)| is_end(*stage)).count() == 1 {
            macros.retain(|(stage, _)| !is_end(*stage));
        }
    }
    let deviates = |act: &Act| {
        let edit = match act {
            Act::Say(Reply::Edit(edit)) => edit,
            Act::Raw(frame) => return frame.get(4) == Some(&b'2'),
            _ => return false,
        };
        match edit {
            Edit::AddRecipient { args, .. } => args.starts_with(b"X="),
            Edit::ReplaceBody(piece) => piece.windows(3).any(|bytes| bytes == b"\r\r\n"),
            _ => false,
        }
    };
    for cue in scenario
        .filters
        .iter_mut()
        .flat_map(|filter| &mut filter.cues)
    {
        cue.acts.retain(|act| !deviates(act));
    }
}

fn forget_numbers(cue: &mut Cue) {
    cue.message = None;
    // Recipients are told one filter after the other: their numbers are the same.
    if cue.at != At::Rcpt {
        cue.nth = None;
    }
}

/// Whether it may end a message that a later filter has been told of.
fn refuses(cue: &Cue) -> bool {
    let of_message = !matches!(
        cue.at,
        At::Rcpt | At::EndOfMessage | At::Unknown | At::Connect | At::Helo
    );
    of_message && !passes(cue)
}

/// Whether its word on content may be the last one of the message.
fn ends_content(cue: &Cue) -> bool {
    let goes_on = |act: &Act| matches!(act, Act::Say(Reply::Continue | Reply::Skip));
    let of_content = matches!(cue.at, At::Header | At::EndOfHeaders | At::Body);
    of_content && !cue.acts.iter().all(goes_on)
}

fn passes(cue: &Cue) -> bool {
    let passes = |act: &Act| {
        matches!(
            act,
            Act::Say(Reply::Continue | Reply::Accept | Reply::Skip | Reply::Progress)
        )
    };
    cue.acts.iter().all(passes)
}
