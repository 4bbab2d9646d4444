//! `explain`: what would happen to a message, in words. Pure; nothing is connected or sent, and
//! what filters negotiated is given.

mod arguments;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::member::{Chain, Member, Negotiated};
use crate::proxy::segments::{self, Barrier, Reach};
use crate::route::{self, Choice, Client, Condition, Fact, Facts, Routes};
use crate::supervisor::keeper::consequence;

pub use arguments::Explain;

/// What filters have negotiated, by their names.
pub type Profiles = BTreeMap<String, Negotiated>;

/// A message as it was told on the command line.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What is known of it, recipients aside.
    pub facts: Facts<'a>,
    /// Its recipients.
    pub recipients: &'a [Vec<u8>],
}

impl<'a> Case<'a> {
    /// What is known for each recipient; for the message alone where none is given.
    fn each(&self) -> Vec<(Option<&'a [u8]>, Facts<'a>)> {
        if self.recipients.is_empty() {
            return vec![(None, self.facts)];
        }
        let known = |one: &'a Vec<u8>| {
            let recipient = Fact::Known(&**one);
            let facts = Facts {
                recipient,
                ..self.facts
            };
            (Some(&**one), facts)
        };
        self.recipients.iter().map(known).collect()
    }
}

/// Which route a message takes, why not the ones before it, and through which filters it goes, who
/// of them waits for whom and why. A filter that is not among `known` is taken to read everything
/// and to change everything.
#[must_use]
pub fn explain(routes: &Routes, case: &Case<'_>, known: &Profiles) -> String {
    let mut text = String::new();
    told(&mut text, &case.facts);
    let each = case.each();
    let mut chains: Vec<Arc<Chain>> = Vec::new();
    let mut open = false;
    for (recipient, facts) in &each {
        text.push('\n');
        if let Some(recipient) = recipient {
            let _ = writeln!(text, "recipient {}", recipient.escape_ascii());
        }
        tried(&mut text, routes, facts);
        match routes.choose(facts) {
            Choice::Chain(chain) => {
                if !chains.iter().any(|one| Arc::ptr_eq(one, &chain)) {
                    chains.push(chain);
                }
            }
            Choice::NoRoute => {
                let what = recipient.map_or("message", |_| "recipient");
                let _ = writeln!(text, "No route matches: the {what} is refused for now.");
            }
            Choice::NotYet => {
                open = true;
                text += "It depends on what is not given here. Possible are:\n";
                for chain in routes.possible(facts) {
                    let _ = writeln!(text, "\n{}", chain.name);
                    describe(&mut text, chain, case, known);
                }
            }
        }
    }
    if let (Some(chain), false) = (route::merge(&chains), open) {
        text.push('\n');
        if chains.len() > 1 {
            let _ = writeln!(text, "One message, the filters of all its routes:");
        }
        describe(&mut text, &chain, case, known);
    }
    text
}

/// What is given.
fn told(text: &mut String, facts: &Facts<'_>) {
    let bytes = |fact: Fact<&[u8]>| match fact {
        Fact::NotYet => None,
        Fact::Known(b"") => Some("none".to_owned()),
        Fact::Known(bytes) => Some(bytes.escape_ascii().to_string()),
    };
    let number = |fact: Fact<u64>| match fact {
        Fact::NotYet => None,
        Fact::Known(number) => Some(number.to_string()),
    };
    let yes_or_no = |fact: Fact<bool>| match fact {
        Fact::NotYet => None,
        Fact::Known(true) => Some("yes".to_owned()),
        Fact::Known(false) => Some("no".to_owned()),
    };
    let client = match facts.client {
        Fact::NotYet => "not given (--client)".to_owned(),
        Fact::Known(Client::Ip(ip)) => ip.to_string(),
        Fact::Known(Client::NoIp) => "local".to_owned(),
    };
    let login = yes_or_no(facts.authenticated);
    let login = match bytes(facts.login).filter(|login| login != "none") {
        Some(name) => name,
        None => login.unwrap_or_else(|| "not given (--login, --auth or --no-auth)".to_owned()),
    };
    // Writing into a string cannot fail.
    let _ = writeln!(text, "listener  {}", facts.listen);
    let _ = writeln!(text, "client    {client}");
    let _ = writeln!(text, "login     {login}");
    for (name, value) in [
        ("host", bytes(facts.host)),
        ("helo", bytes(facts.helo)),
        ("tls", yes_or_no(facts.tls)),
        ("sender", bytes(facts.sender)),
        ("size", number(facts.size)),
        ("load", number(facts.load)),
        (
            "time",
            match facts.time {
                Fact::NotYet => None,
                Fact::Known(time) => Some(time.to_string()),
            },
        ),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<10}{value}");
        }
    }
}

/// Every route up to the one that matches, and what decided.
fn tried(text: &mut String, routes: &Routes, facts: &Facts<'_>) {
    for route in &routes.routes {
        let name = &route.chain.name;
        let why = grounds(&route.condition, facts);
        match route.condition.holds(facts) {
            Fact::Known(true) => {
                let _ = writeln!(text, "route {name}: matches{why}");
                break;
            }
            Fact::Known(false) => {
                let _ = writeln!(text, "route {name}: no{why}");
            }
            Fact::NotYet => {
                let _ = writeln!(text, "route {name}: perhaps{why}");
            }
        }
    }
}

/// The tests that decided, or that are open, behind a comma.
fn grounds(condition: &Condition, facts: &Facts<'_>) -> String {
    let tests = condition.grounds(facts);
    let words: Vec<String> = tests
        .iter()
        .map(|(test, outcome)| test.in_words(*outcome))
        .collect();
    match words.as_slice() {
        [] => String::new(),
        words => format!(", {}", words.join(", ")),
    }
}

fn describe(text: &mut String, chain: &Chain, case: &Case<'_>, known: &Profiles) {
    let chain = &left(text, chain, case);
    if chain.segments.is_empty() {
        *text += "The message passes unfiltered: the chain is empty.\n";
        return;
    }
    if chain.strict {
        *text += "Strict: every event goes to one filter at a time, as in the MTA itself.\n";
    }
    let members: Vec<&Arc<Member>> = chain.members().collect();
    let groups: Vec<Vec<Reach>> = chain
        .segments
        .iter()
        .map(|group| group.iter().map(|member| reach(member, known)).collect())
        .collect();
    let barriers = segments::barriers(&groups);
    let mut number = 0;
    for (group, barrier) in chain.segments.iter().zip(barriers) {
        let why = match (number, barrier) {
            (0, _) => Some("live, while the MTA is sending".to_owned()),
            (_, _) if chain.strict => Some("then, since the route is strict".to_owned()),
            (
                _,
                Some(Barrier {
                    changes,
                    reads,
                    part,
                }),
            ) => Some(format!(
                "then, since {} may change {part}, which {} reads",
                name(&members, changes),
                name(&members, reads),
            )),
            (_, None) => asks(group).map(|asked| format!("then, since {asked}")),
        };
        if let Some(why) = why {
            number += 1;
            let _ = writeln!(text, "{number}. {why}:");
        }
        for member in group {
            let _ = writeln!(text, "   - {}", filter(member));
            let _ = writeln!(text, "     {}", what(member, known));
        }
    }
}

fn name<'a>(members: &[&'a Arc<Member>], place: usize) -> &'a str {
    members.get(place).map_or("-", |member| &member.name)
}

fn reach(member: &Member, known: &Profiles) -> Reach {
    Reach::of(known.get(&member.name).copied(), member.shadow)
}

/// What a filter does with the content.
fn what(member: &Member, known: &Profiles) -> String {
    let assumed = if known.contains_key(&member.name) {
        ""
    } else {
        " (assumed: it has negotiated nothing yet)"
    };
    format!("{}{assumed}", reach(member, known))
}

fn filter(member: &Member) -> String {
    let shadow = if member.shadow {
        "; shadow: it changes and decides nothing"
    } else {
        ""
    };
    format!(
        "{} at {}; if it fails, {}{shadow}",
        member.name,
        member.address,
        consequence(member.on_failure)
    )
}

/// The chain without those filters whose own condition does not hold; each of them is named, and so
/// is each whose condition is open.
fn left(text: &mut String, chain: &Chain, case: &Case<'_>) -> Chain {
    let mut sees = |member: &Arc<Member>| {
        if member.condition.is_always() {
            return true;
        }
        let each = case.each();
        let outcomes = each.iter().map(|(_, facts)| facts);
        let holds = |wanted| {
            let mut outcomes = outcomes.clone();
            outcomes.find(|facts| member.condition.holds(facts) == wanted)
        };
        let name = &member.name;
        let (word, facts) = match (holds(Fact::Known(true)), holds(Fact::NotYet)) {
            (Some(facts), _) => ("sees it", facts),
            (None, Some(facts)) => ("perhaps sees it", facts),
            (None, None) => match each.first() {
                Some((_, facts)) => ("does not see it", facts),
                None => return true,
            },
        };
        let why = grounds(&member.condition, facts);
        let _ = writeln!(text, "filter {name}: {word}{why}");
        word != "does not see it"
    };
    let mut segments = Vec::new();
    for group in &chain.segments {
        let group: Vec<Arc<Member>> = group.iter().filter(|one| sees(one)).cloned().collect();
        if !group.is_empty() {
            segments.push(group);
        }
    }
    Chain {
        name: chain.name.clone(),
        segments,
        strict: chain.strict,
    }
}

/// Whose word a group waits for.
fn asks(group: &[Arc<Member>]) -> Option<String> {
    group.iter().find_map(|member| {
        let asked = member.condition.asks_for().next()?;
        Some(format!("{} asks what {asked} said", member.name))
    })
}

#[cfg(test)]
mod tests {
    use milter_proto::wire::{Actions, Steps};

    use crate::blueprint::{self, tests::settings};
    use crate::config::Names;

    use super::*;

    fn explained(listen: &str, client: Option<&str>, auth: Option<bool>) -> String {
        let blueprint = blueprint::draw(&settings()).unwrap();
        let facts = Facts {
            client: client.map_or(Fact::NotYet, |ip| {
                Fact::Known(Client::Ip(ip.parse().unwrap()))
            }),
            authenticated: auth.map_or(Fact::NotYet, Fact::Known),
            ..Facts::at(listen)
        };
        let case = Case {
            facts,
            recipients: &[],
        };
        let known = Profiles::from([
            ("dkim".to_owned(), negotiated(Actions::ADD_HEADERS)),
            ("spam".to_owned(), negotiated(Actions::empty())),
        ]);
        explain(&blueprint.routes, &case, &known)
    }

    fn negotiated(actions: Actions) -> Negotiated {
        Negotiated {
            actions: actions.bits(),
            steps: Steps::SKIP.bits(),
        }
    }

    #[test]
    fn the_route_its_reasons_and_the_filters_are_named() {
        let expected = "\
listener  inbound
client    192.0.2.1
login     no

route outbound: no, the listener is not submission
route inbound: matches, the listener is inbound

1. live, while the MTA is sending:
   - dkim at unix:/run/test/dkim.sock; if it fails, mail is refused for now
     reads header and body, may change the header
   - spam at unix:/run/test/spam.sock; if it fails, mail passes without it
     reads header and body, may change nothing
2. then, since dkim may change the header, which legacy reads:
   - legacy at inet:11332@127.0.0.1; if it fails, mail is refused for now
     reads header and body, may change header and body (assumed: it has negotiated nothing yet)
";
        assert_eq!(
            explained("inbound", Some("192.0.2.1"), Some(false)),
            expected
        );
    }

    #[test]
    fn a_strict_route_says_so() {
        let mut settings = settings();
        let names = ["dkim", "spam"].map(|name| Names(vec![name.to_owned()]));
        for route in &mut settings.route {
            route.strict = true;
            route.chain = Some(names.to_vec());
        }
        let blueprint = blueprint::draw(&settings).unwrap();
        let facts = Facts {
            authenticated: Fact::Known(false),
            ..Facts::at("inbound")
        };
        let case = Case {
            facts,
            recipients: &[],
        };
        let text = explain(&blueprint.routes, &case, &Profiles::new());
        assert!(
            text.contains("\nStrict: every event goes to one filter at a time"),
            "{text}"
        );
        assert!(
            text.contains("2. then, since the route is strict:\n   - spam"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_given_leaves_it_open() {
        let text = explained("submission", None, None);
        assert!(text.contains("route outbound: perhaps, it is open whether the client logged in"));
        assert!(text.contains("It depends on what is not given here"));
        let refused = explained("submission", None, Some(false));
        assert!(refused.contains("No route matches: the message is refused for now."));
    }
}
