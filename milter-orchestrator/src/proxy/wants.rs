//! What routes and the filters' own conditions need to be told by the MTA, as if they were one more
//! filter in the negotiation. Pure.

use bytes::Bytes;
use milter_proto::wire::options::{Actions, MacroStage, Offer, Steps};

use super::offer::{self, VERSION};
use crate::route::{Routes, Test};

/// What must be asked of the MTA for the sake of routes; none where they ask for nothing that is
/// not asked for anyway.
pub(crate) fn of(routes: &Routes) -> Option<Offer> {
    let mut needed = Steps::empty();
    let mut macros: Vec<(MacroStage, String)> = Vec::new();
    for test in routes.tests() {
        match &**test {
            // A recipient without a route is refused, so it must be asked about.
            Test::Recipient(_) => needed |= Steps::NO_RCPT | Steps::NR_RCPT,
            Test::Helo(_) => needed |= Steps::NO_HELO,
            // What is decided behind the recipients is decided for each of them.
            Test::Size(_) => needed |= Steps::NO_HEADERS | Steps::NO_BODY | Steps::NO_RCPT,
            Test::Verdict(..) => needed |= Steps::NO_RCPT,
            Test::Tls => want(&mut macros, "tls_version"),
            Test::Authenticated | Test::Login(_) => {
                want(&mut macros, "auth_type");
                want(&mut macros, "auth_authen");
            }
            Test::Macro(name, _) => {
                needed |= match stage_of(name) {
                    MacroStage::Rcpt => Steps::NO_RCPT | Steps::NR_RCPT,
                    _ => Steps::NO_RCPT,
                };
                want(&mut macros, name);
            }
            Test::Listen(_)
            | Test::Client(_)
            | Test::Host(_)
            | Test::Sender(_)
            | Test::Load(_)
            | Test::Time(_) => {}
        }
    }
    if needed.is_empty() && macros.is_empty() {
        return None;
    }
    let list = |(stage, names): (MacroStage, String)| (stage, Bytes::from(names));
    Some(Offer {
        version: VERSION,
        actions: Actions::SET_MACRO_LIST,
        steps: (Steps::NO_ALL | Steps::NR_ALL) - needed,
        macros: macros.into_iter().map(list).collect(),
    })
}

/// Whether the time or the number of clients is asked for somewhere.
pub(crate) fn arrival(routes: &Routes) -> bool {
    let asks = |test: &Test| matches!(test, Test::Load(_) | Test::Time(_));
    routes.tests().any(|test| asks(test))
}

/// Where a macro is asked for: where MTAs send it, or at MAIL, where all that concerns the client
/// and the sender is known.
pub(crate) fn stage_of(name: &str) -> MacroStage {
    offer::default_stage(name.as_bytes()).unwrap_or(MacroStage::Mail)
}

fn want(macros: &mut Vec<(MacroStage, String)>, name: &str) {
    // With TLS a client says HELO twice; what MAIL brings is the latest.
    let stage = match stage_of(name) {
        MacroStage::Helo => MacroStage::Mail,
        stage => stage,
    };
    let braced = format!("{{{name}}}");
    let written = if name.len() == 1 { name } else { &braced };
    match macros.iter_mut().find(|(of, _)| *of == stage) {
        Some((_, names)) if names.split(' ').any(|one| one == written) => {}
        Some((_, names)) => {
            names.push(' ');
            names.push_str(written);
        }
        None => macros.push((stage, written.to_owned())),
    }
}
