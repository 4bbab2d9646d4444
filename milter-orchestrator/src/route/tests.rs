//! Which chain, by what is known; and what several chains come to.

use super::*;
use crate::blueprint::{self, tests::settings};
use crate::config::{Match, Names, Route as Written, Settings};
use crate::member::Chain;

/// The routes of a configuration whose `[[route]]`s are given as TOML tables, named a, b, c….
pub(crate) fn routes(matches: &[&str]) -> Routes {
    let mut settings = settings();
    settings.route = matches
        .iter()
        .zip('a'..)
        .map(|(text, name)| Written {
            name: Some(name.to_string()),
            condition: parse(text),
            chain: Some(Vec::new()),
            strict: false,
        })
        .collect();
    drawn(&settings)
}

fn drawn(settings: &Settings) -> Routes {
    let blueprint = blueprint::draw(settings).unwrap();
    Arc::into_inner(blueprint.routes).unwrap()
}

fn parse(text: &str) -> Match {
    serde_json::from_str(text).unwrap()
}

/// What was chosen, and which chains are possible.
fn describe(routes: &Routes, facts: &Facts<'_>) -> String {
    let chosen = match routes.choose(facts) {
        Choice::Chain(chain) => chain.name.clone(),
        Choice::NotYet => "not yet".to_owned(),
        Choice::NoRoute => "none".to_owned(),
    };
    let possible: Vec<&str> = routes.possible(facts).map(|chain| &*chain.name).collect();
    format!("{chosen}; {}", possible.join(" "))
}

#[test]
fn the_first_route_that_matches_wins_and_unknown_facts_leave_it_open() {
    let routes = routes(&[
        r#"{"listen": "submission", "authenticated": true}"#,
        r#"{"client": "192.0.2.0/24"}"#,
        r#"{"listen": "inbound"}"#,
    ]);
    let ip = |text: &str| Fact::Known(Client::Ip(text.parse().unwrap()));
    let nobody = Fact::Known(Client::NoIp);
    let (yes, no) = (Fact::Known(true), Fact::Known(false));
    for (listen, client, authenticated, expected) in [
        ("inbound", Fact::NotYet, Fact::NotYet, "not yet; b c"),
        ("inbound", ip("192.0.2.7"), Fact::NotYet, "b; b"),
        ("inbound", ip("::ffff:192.0.2.7"), Fact::NotYet, "b; b"),
        ("inbound", ip("2001:db8::1"), Fact::NotYet, "c; c"),
        ("inbound", nobody, yes, "c; c"),
        ("submission", Fact::NotYet, Fact::NotYet, "not yet; a b"),
        ("submission", nobody, Fact::NotYet, "not yet; a"),
        ("submission", nobody, yes, "a; a"),
        ("submission", Fact::NotYet, yes, "a; a"),
        ("submission", nobody, no, "none; "),
        ("submission", ip("192.0.2.7"), no, "b; b"),
    ] {
        let facts = Facts {
            client,
            authenticated,
            ..Facts::at(listen)
        };
        assert_eq!(describe(&routes, &facts), expected, "{facts:?}");
    }
}

/// Everything is known.
fn known(lookup: &Given) -> Facts<'_> {
    Facts {
        client: Fact::Known(Client::Ip("192.0.2.7".parse().unwrap())),
        host: Fact::Known(b"mx1.example.com"),
        load: Fact::Known(150),
        time: Fact::Known("sat 23:00".parse().unwrap()),
        helo: Fact::Known(b"relay.example.net"),
        authenticated: Fact::Known(true),
        login: Fact::Known(b"alice"),
        tls: Fact::Known(true),
        sender: Fact::Known(b"<alice@example.com>"),
        size: Fact::Known(5 << 20),
        recipient: Fact::Known(b"<bob@sub.example.org>"),
        lookup,
        ..Facts::at("inbound")
    }
}

#[test]
fn every_fact_is_held_against_what_is_written() {
    let mut given = Given {
        complete: true,
        ..Given::default()
    };
    given
        .macros
        .insert("cipher_bits".to_owned(), b"256".to_vec());
    let known = known(&given);
    let unknown = Facts::at("inbound");
    for (text, holds) in [
        (r#"{}"#, true),
        (r#"{"listen": ["submission", "inbound"]}"#, true),
        (r#"{"client": ["10.0.0.0/8", "192.0.2.7"]}"#, true),
        (r#"{"client": "192.0.2.8"}"#, false),
        (r#"{"host": ".example.com"}"#, true),
        (r#"{"host": "example.com"}"#, false),
        (r#"{"helo": "*.example.net"}"#, true),
        (r#"{"authenticated": false}"#, false),
        (r#"{"login": ["bob", "Alice"]}"#, true),
        (
            r#"{"tls": true, "macro": {"{cipher_bits}": ">=128"}}"#,
            true,
        ),
        (r#"{"macro": {"cipher_bits": ["128", "<100"]}}"#, false),
        (r#"{"macro": {"absent": "*"}}"#, false),
        (r#"{"sender": "example.com"}"#, true),
        (r#"{"sender": "<>"}"#, false),
        (r#"{"recipient": ".example.org"}"#, true),
        (r#"{"size": ">=5MB"}"#, true),
        (r#"{"size": "<5MB"}"#, false),
        (r#"{"load": 100}"#, true),
        (r#"{"load": 200}"#, false),
        (r#"{"time": ["mon-fri 22:00-06:00", "sat,sun"]}"#, true),
        (r#"{"time": "mon-fri 22:00-06:00"}"#, false),
        (r#"{"any": [{"tls": false}, {"login": "alice"}]}"#, true),
        (r#"{"all": [{"tls": true}, {"login": "bob"}]}"#, false),
        (r#"{"not": {"tls": true, "login": "bob"}}"#, true),
        (
            r#"{"not": {"any": [{"tls": true}, {"login": "bob"}]}}"#,
            false,
        ),
    ] {
        let routes = routes(&[text]);
        let condition = &routes.routes[0].condition;
        assert_eq!(condition.holds(&known), Fact::Known(holds), "{text}");
        // What is not known decides nothing that depends on it.
        let sure = text == "{}" || text.contains("listen");
        assert_eq!(condition.holds(&unknown).is_known(), sure, "{text}");
    }
}

#[test]
fn the_grounds_are_what_decided() {
    let given = Given::default();
    let known = known(&given);
    for (text, expected) in [
        (
            r#"{"tls": true, "login": "bob", "sender": "<>"}"#,
            "the login is not bob",
        ),
        (
            r#"{"any": [{"login": "bob"}, {"tls": true}, {"load": 1}]}"#,
            "the connection is encrypted",
        ),
        (
            r#"{"any": [{"login": "bob"}, {"tls": false}]}"#,
            "the login is not bob; the connection is encrypted",
        ),
        (r#"{"not": {"login": "alice"}}"#, "the login is alice"),
        (
            r#"{"tls": true, "macro": {"x": "1"}}"#,
            "it is open whether {x} is 1",
        ),
        (
            r#"{"client": ["192.0.2.0/24"], "load": ">=100"}"#,
            "the client is in 192.0.2.0/24; the number of clients is 100 or more",
        ),
    ] {
        let routes = routes(&[text]);
        let grounds = routes.routes[0].condition.grounds(&known);
        let words: Vec<String> = grounds
            .iter()
            .map(|(test, outcome)| test.in_words(*outcome))
            .collect();
        assert_eq!(words.join("; "), expected, "{text}");
    }
}

#[test]
fn chains_of_several_recipients_become_one() {
    // One letter a filter, groups apart by spaces, chains by bars.
    for (chains, expected) in [
        ("a b c", "a b c"),
        ("a b|b c", "a b c"),
        ("a b|c b", "a c b"),
        ("a b|c d", "a b c d"),
        ("ab|bc", "abc"),
        ("a|ab c", "ab c"),
        ("a b|b a", "a b"),
        ("|a", "a"),
        ("a c|b|c d", "a c b d"),
        ("a!|bc", "a b c"),
    ] {
        let chains: Vec<Arc<Chain>> = chains_of(chains);
        let merged = merge(&chains).unwrap();
        let words: Vec<String> = merged
            .segments
            .iter()
            .map(|group| group.iter().map(|member| &*member.name).collect())
            .collect();
        assert_eq!(words.join(" "), expected);
        assert_eq!(merged.strict, expected == "a b c" && chains[0].strict);
    }
}

/// The chains of routes that are written so.
fn chains_of(text: &str) -> Vec<Arc<Chain>> {
    let mut settings = settings();
    for name in ["a", "b", "c", "d"] {
        let milter = settings.milter["dkim"].clone();
        settings.milter.insert(name.to_owned(), milter);
    }
    let chain = |text: &str| {
        let groups = text.trim_end_matches('!').split_whitespace();
        let names = |group: &str| Names(group.chars().map(String::from).collect());
        groups.map(names).collect()
    };
    let written = text.split('|').map(|text| Written {
        chain: Some(chain(text)),
        strict: text.ends_with('!'),
        ..Written::default()
    });
    settings.route = written.collect();
    let routes = drawn(&settings).routes.into_iter();
    routes.map(|route| route.chain).collect()
}
