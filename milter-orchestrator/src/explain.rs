//! `explain`: what would happen to a message, in words. Pure; nothing is connected or sent.

use std::fmt::Write;

use crate::member::{Chain, Member};
use crate::route::{Choice, Client, Fact, Facts, Routes};
use crate::supervisor::keeper::consequence;

/// Which route a message takes, why not the ones before it, and through which filters it goes.
#[must_use]
pub fn explain(routes: &Routes, facts: &Facts<'_>) -> String {
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
        Choice::Chain(chain) => describe(&mut text, &chain),
        Choice::NoRoute => text += "No route matches: the message is refused for now.\n",
        Choice::NotYet => {
            text += "It depends on what is not given here. Possible are:\n";
            for chain in routes.possible(facts) {
                let _ = writeln!(text, "\n{}", chain.name);
                describe(&mut text, chain);
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

fn describe(text: &mut String, chain: &Chain) {
    if chain.segments.is_empty() {
        *text += "The message passes unfiltered: the chain is empty.\n";
    }
    for (number, segment) in chain.segments.iter().enumerate() {
        let number = number + 1;
        match segment.as_slice() {
            [member] => {
                let _ = writeln!(text, "{number}. {}", filter(member));
            }
            members => {
                let _ = writeln!(text, "{number}. in parallel, on the same bytes:");
                for member in members {
                    let _ = writeln!(text, "   - {}", filter(member));
                }
            }
        }
    }
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
    use crate::blueprint::{self, tests::settings};

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
        explain(&blueprint.routes, &facts)
    }

    #[test]
    fn the_route_its_reasons_and_the_filters_are_named() {
        let expected = "\
listener  inbound
client    192.0.2.1
login     no

route outbound: no, it is for listener submission
route inbound: matches

1. in parallel, on the same bytes:
   - dkim at unix:/run/test/dkim.sock; if it fails, mail is refused for now
   - spam at unix:/run/test/spam.sock; if it fails, mail passes without it
2. legacy at inet:11332@127.0.0.1; if it fails, mail is refused for now
";
        assert_eq!(
            explained("inbound", Some("192.0.2.1"), Some(false)),
            expected
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
