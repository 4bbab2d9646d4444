//! `explain`: what would happen to a message, in words. Pure; nothing is connected or sent, and
//! what filters negotiated is given.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::member::{Chain, Member, Negotiated};
use crate::proxy::segments::{self, Barrier, Reach};
use crate::route::{Choice, Client, Fact, Facts, Routes};
use crate::supervisor::keeper::consequence;

/// What filters have negotiated, by their names.
pub type Profiles = BTreeMap<String, Negotiated>;

/// Which route a message takes, why not the ones before it, and through which filters it goes, who
/// of them waits for whom and why. A filter that is not among `known` is taken to read everything
/// and to change everything.
#[must_use]
pub fn explain(routes: &Routes, facts: &Facts<'_>, known: &Profiles) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(text, "listener  {}", facts.listen);
    let _ = writeln!(text, "client    {}", client(facts));
    let _ = writeln!(text, "login     {}", login(facts));
    text.push('\n');
    for route in &routes.routes {
        let name = &route.chain.name;
        match route.condition.holds(facts) {
            Fact::Known(true) => {
                let _ = writeln!(text, "route {name}: matches");
                break;
            }
            Fact::Known(false) => {
                let why = route.condition.obstacle(facts);
                let _ = writeln!(text, "route {name}: no, {why}");
            }
            Fact::NotYet => {
                let why = route.condition.obstacle(facts);
                let _ = writeln!(text, "route {name}: perhaps, {why}");
            }
        }
    }
    text.push('\n');
    match routes.choose(facts) {
        Choice::Chain(chain) => describe(&mut text, &chain, known),
        Choice::NoRoute => text += "No route matches: the message is refused for now.\n",
        Choice::NotYet => {
            text += "It depends on what is not given here. Possible are:\n";
            for chain in routes.possible(facts) {
                let _ = writeln!(text, "\n{}", chain.name);
                describe(&mut text, chain, known);
            }
        }
    }
    text
}

fn client(facts: &Facts<'_>) -> String {
    match facts.client {
        Fact::NotYet => "not given (--client)".to_owned(),
        Fact::Known(Client::Ip(ip)) => ip.to_string(),
        Fact::Known(Client::NoIp) => "local".to_owned(),
    }
}

fn login(facts: &Facts<'_>) -> &'static str {
    match facts.authenticated {
        Fact::NotYet => "not given (--auth or --no-auth)",
        Fact::Known(true) => "yes",
        Fact::Known(false) => "no",
    }
}

fn describe(text: &mut String, chain: &Chain, known: &Profiles) {
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
            (_, None) => None,
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

#[cfg(test)]
mod tests {
    use milter_proto::wire::{Actions, Steps};

    use crate::blueprint::{self, tests::settings};
    use crate::config::Names;

    use super::*;

    fn explained(listen: &str, client: Option<&str>, auth: Option<bool>) -> String {
        let blueprint = blueprint::draw(&settings()).unwrap();
        let facts = Facts {
            listen,
            client: client.map_or(Fact::NotYet, |ip| {
                Fact::Known(Client::Ip(ip.parse().unwrap()))
            }),
            authenticated: auth.map_or(Fact::NotYet, Fact::Known),
        };
        let known = Profiles::from([
            ("dkim".to_owned(), negotiated(Actions::ADD_HEADERS)),
            ("spam".to_owned(), negotiated(Actions::empty())),
        ]);
        explain(&blueprint.routes, &facts, &known)
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

route outbound: no, it is for listener submission
route inbound: matches

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
            listen: "inbound",
            client: Fact::NotYet,
            authenticated: Fact::Known(false),
        };
        let text = explain(&blueprint.routes, &facts, &Profiles::new());
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
        assert!(text.contains("route outbound: perhaps, it is for clients that logged in"));
        assert!(text.contains("It depends on what is not given here"));
        let refused = explained("submission", None, Some(false));
        assert!(refused.contains("No route matches: the message is refused for now."));
    }
}
