//! Negotiation: what the filters are offered, and what their answers come to for the MTA.
//!
//! Pure. The answer to the MTA is the least that serves every filter: an event is left out only
//! when nobody wants it, a reply is promised away only when nobody will give one. What the proxy
//! can make up for (events left out, replies that are not given, skip) is offered to every filter
//! whatever the MTA can do; what it cannot make up for is offered only when the MTA has it.
//! Nothing here connects, waits or fails.

use bytes::Bytes;
pub(crate) use milter_proto::wire::VERSION;
use milter_proto::wire::options::{Actions, MacroStage, Offer, Steps};

/// Names in a macro list at most: Sendmail refuses more (`MAXFILTERMACROS`).
const MACRO_NAMES_MAX: usize = 50;

/// What an offer of no actions at all stands for (`SMFI_V1_ACTS`).
const ACTIONS_V1: Actions = Actions::from_bits_truncate(0x0f);

/// What an offer of no steps at all stands for (`SMFI_V1_PROT`).
const STEPS_V1: Steps = Steps::from_bits_truncate(0x3f);

/// Every event that can be left out, with the flag that promises not to answer it.
const EVENTS: [(Steps, Steps); 9] = [
    (Steps::NO_CONNECT, Steps::NR_CONNECT),
    (Steps::NO_HELO, Steps::NR_HELO),
    (Steps::NO_MAIL, Steps::NR_MAIL),
    (Steps::NO_RCPT, Steps::NR_RCPT),
    (Steps::NO_DATA, Steps::NR_DATA),
    (Steps::NO_HEADERS, Steps::NR_HEADER),
    (Steps::NO_EOH, Steps::NR_EOH),
    (Steps::NO_BODY, Steps::NR_BODY),
    (Steps::NO_UNKNOWN, Steps::NR_UNKNOWN),
];

/// What each MTA sends at a stage when it is asked for nothing: Postfix's list, then what Sendmail
/// has beyond it. Which of the two asks is not known during the negotiation.
const DEFAULT_MACROS: [(MacroStage, &str); 7] = [
    (
        MacroStage::Connect,
        "j {daemon_name} {daemon_addr} v _ {if_name} {if_addr}",
    ),
    (
        MacroStage::Helo,
        "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
    ),
    (
        MacroStage::Mail,
        "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} \
         {mail_mailer} {auth_ssf}",
    ),
    (MacroStage::Rcpt, "i {rcpt_addr} {rcpt_host} {rcpt_mailer}"),
    (MacroStage::Data, "i"),
    (MacroStage::EndOfMessage, "i {msg_id}"),
    (MacroStage::EndOfHeaders, "i"),
];

/// What one filter asks of the negotiation with the MTA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Its answer; `None` when it could not be asked and must be expected to want everything.
    pub(crate) answer: Option<&'a Offer>,
    /// Whether its verdicts and edits count.
    pub(crate) shadow: bool,
    /// Whether its failure puts messages into quarantine.
    pub(crate) quarantines: bool,
}

/// The MTA's offer without what is unknown, and with what "nothing" stands for.
pub(crate) fn normalise(mta: &Offer) -> Offer {
    let actions = Actions::from_bits_truncate(mta.actions.bits());
    let steps = Steps::from_bits_truncate(mta.steps.bits());
    let large = Steps::MDS_256K | Steps::MDS_1M;
    Offer {
        version: mta.version.min(VERSION),
        actions: if actions.is_empty() {
            ACTIONS_V1
        } else {
            actions
        },
        steps: if steps.is_empty() {
            STEPS_V1
        } else {
            steps - large
        },
        macros: Vec::new(),
    }
}

/// What a filter is offered behind an MTA that offered `mta` (normalised).
pub(crate) fn for_filter(mta: &Offer) -> Offer {
    let passed_on = Steps::RCPT_REJECTED | Steps::LEADING_SPACE;
    let made_up = EVENTS
        .iter()
        .fold(Steps::SKIP, |all, (no, nr)| all | *no | *nr);
    Offer {
        version: VERSION,
        actions: mta.actions,
        steps: (mta.steps & passed_on) | made_up,
        macros: Vec::new(),
    }
}

/// The one answer to the MTA (whose normalised offer is `mta`) that serves all filters.
pub(crate) fn merge(mta: &Offer, wishes: &[Wish<'_>]) -> Offer {
    let macros = if mta.actions.contains(Actions::SET_MACRO_LIST) {
        merge_macros(wishes)
    } else {
        Vec::new()
    };
    let mut actions = merge_actions(wishes) - Actions::SET_MACRO_LIST;
    actions.set(Actions::SET_MACRO_LIST, !macros.is_empty());
    Offer {
        version: mta.version,
        actions: actions & mta.actions,
        steps: merge_steps(mta.steps, wishes) & mta.steps,
        macros,
    }
}

/// Everything that somebody may do, quarantine by policy included, and what that comes to.
fn merge_actions(wishes: &[Wish<'_>]) -> Actions {
    wishes.iter().fold(Actions::empty(), |mut all, wish| {
        if !wish.shadow {
            all |= wish
                .answer
                .map_or(Actions::all(), |answer| written(answer.actions));
        }
        if wish.quarantines {
            all |= Actions::QUARANTINE;
        }
        all
    })
}

/// What edits that these actions allow are written as: a change of a field that is not there adds
/// it, and a recipient without parameters is a recipient.
fn written(actions: Actions) -> Actions {
    let mut written = actions;
    if actions.contains(Actions::CHANGE_HEADERS) {
        written |= Actions::ADD_HEADERS;
    }
    if actions.contains(Actions::ADD_RECIPIENT_ARGS) {
        written |= Actions::ADD_RECIPIENT;
    }
    written
}

/// What may be left out, what is not answered, and what is understood; beyond what was offered for
/// some of it.
fn merge_steps(offered: Steps, wishes: &[Wish<'_>]) -> Steps {
    // Routes ask for the client, and at MAIL filters are called that were not there before.
    let needed = Steps::NO_CONNECT | Steps::NO_MAIL;
    let edits_headers = Actions::ADD_HEADERS | Actions::CHANGE_HEADERS;
    let headers_matter = merge_actions(wishes).intersects(edits_headers);
    let mut merged = Steps::SKIP | Steps::LEADING_SPACE;
    for (no, nr) in EVENTS {
        let unwanted = wishes.iter().all(|wish| steps_of(wish).contains(no));
        // Without the original header fields an edit of theirs could not be put into place.
        let kept = needed.contains(no) || (no == Steps::NO_HEADERS && headers_matter);
        if unwanted && !kept && offered.contains(no) {
            merged |= no;
            continue;
        }
        let unanswered = wishes
            .iter()
            .all(|wish| wish.shadow || steps_of(wish).intersects(no | nr));
        // Sendmail never aborts a message to whom MAIL needed no reply.
        if unanswered && nr != Steps::NR_MAIL {
            merged |= nr;
        }
    }
    let rejected = wishes
        .iter()
        .any(|wish| steps_of(wish).contains(Steps::RCPT_REJECTED));
    merged.set(Steps::RCPT_REJECTED, rejected);
    merged
}

/// A filter's steps; one that could not be asked leaves nothing out and answers everything.
fn steps_of(wish: &Wish<'_>) -> Steps {
    wish.answer.map_or(Steps::empty(), |answer| answer.steps)
}

/// The macro lists to ask for; a stage that nobody named keeps the MTA's own choice.
fn merge_macros(wishes: &[Wish<'_>]) -> Vec<(MacroStage, Bytes)> {
    let named = |stage: MacroStage| {
        wishes
            .iter()
            .any(|wish| list_of(wish, stage).is_some_and(|list| !list.trim_ascii().is_empty()))
    };
    // Sendmail 8.17.1 takes the list of one of these two stages for both: both or neither.
    let ends = named(MacroStage::EndOfMessage) || named(MacroStage::EndOfHeaders);
    DEFAULT_MACROS
        .iter()
        .filter(|(stage, _)| match stage {
            // `v` tells the MTAs apart, and Sendmail sends it on request only.
            MacroStage::Connect => true,
            MacroStage::EndOfMessage | MacroStage::EndOfHeaders => ends,
            MacroStage::Helo | MacroStage::Mail | MacroStage::Rcpt | MacroStage::Data => {
                named(*stage)
            }
        })
        .map(|(stage, default)| (*stage, union(*stage, default, wishes)))
        .collect()
}

/// The names that one stage needs: the default, since a filter without a list counts on it and the
/// proxy reads some of them, then what the lists name beyond it.
fn union(stage: MacroStage, default: &str, wishes: &[Wish<'_>]) -> Bytes {
    let mut names: Vec<&[u8]> = default.split(' ').map(str::as_bytes).collect();
    for list in wishes.iter().filter_map(|wish| list_of(wish, stage)) {
        for name in names_in(list) {
            if names.len() < MACRO_NAMES_MAX && !names.iter().any(|known| same_macro(known, name)) {
                names.push(name);
            }
        }
    }
    Bytes::from(names.join(&b' '))
}

/// The list that a filter gave for a stage.
fn list_of<'a>(wish: &Wish<'a>, stage: MacroStage) -> Option<&'a Bytes> {
    list_for(wish.answer?, stage)
}

/// The list in an answer for a stage; an empty one asks for no macros at all.
pub(crate) fn list_for(answer: &Offer, stage: MacroStage) -> Option<&Bytes> {
    answer
        .macros
        .iter()
        .find_map(|(named, list)| (*named == stage).then_some(list))
}

/// What MTAs send at the stage of that command when nobody asks for anything else.
pub(crate) fn default_macros(code: u8) -> &'static str {
    let wanted = MacroStage::from_code(code);
    let mut lists = DEFAULT_MACROS.iter();
    lists
        .find_map(|(stage, list)| (Some(*stage) == wanted).then_some(*list))
        .unwrap_or_default()
}

/// Where MTAs send that macro, when nobody asks for anything else.
pub(crate) fn default_stage(name: &[u8]) -> Option<MacroStage> {
    let has = |list: &str| names_in(list.as_bytes()).any(|known| same_macro(known, name));
    let mut lists = DEFAULT_MACROS.iter();
    lists.find_map(|(stage, list)| has(list).then_some(*stage))
}

/// The names in a list.
pub(crate) fn names_in(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b' ' | b','))
        .filter(|name| !name.is_empty())
}

/// Whether two spellings name the same macro: `i` and `{i}` do.
pub(crate) fn same_macro(one: &[u8], other: &[u8]) -> bool {
    bare(one) == bare(other)
}

/// A macro name without its braces.
pub(crate) fn bare(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"{")
        .and_then(|name| name.strip_suffix(b"}"))
        .unwrap_or(name)
}

#[cfg(test)]
#[path = "tests/offer.rs"]
mod tests;
