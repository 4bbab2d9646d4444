//! Routes: which chain a message goes through, as a pure function of what is known so far.
//!
//! The first route that matches wins. A fact that is not known yet makes a route undecided, and
//! with it every route after it, so a decision once taken never changes while more becomes known.
//! No route at all is a decision too: the proxy must refuse for now, since nothing may pass by
//! accident.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::member::{Chain, Member};

/// All routes, in configuration order.
#[derive(Debug, Default)]
pub struct Routes {
    /// Routes in the order in which they are tried.
    pub routes: Vec<Route>,
}

/// One `[[route]]`.
#[derive(Debug)]
pub struct Route {
    /// What must hold.
    pub condition: Condition,
    /// Where the message goes then. Its name is the route's.
    pub chain: Arc<Chain>,
}

/// What must hold for a route: every part that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Names of listeners; empty for any.
    pub listen: Vec<String>,
    /// Whether the client logged in.
    pub authenticated: Option<bool>,
    /// Networks of the client; empty for any.
    pub client: Vec<IpNet>,
}

/// What is known about a message so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Name of the listener it came in by.
    pub listen: &'a str,
    /// The client; known from CONNECT on.
    pub client: Fact<Client>,
    /// Whether the client logged in; known from MAIL on, by `{auth_type}` or `{auth_authen}`.
    pub authenticated: Fact<bool>,
}

/// Something that becomes known in the course of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact<T> {
    /// The MTA has not told it yet.
    NotYet,
    /// Told.
    Known(T),
}

/// The client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// Local, or unknown: it is in no network.
    NoIp,
}

/// What the routes say.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This chain, whatever else becomes known.
    Chain(Arc<Chain>),
    /// It depends on facts that are not known yet.
    NotYet,
    /// No route matches and none will: the message must be refused for now.
    NoRoute,
}

impl Routes {
    /// The chain for a message of which so much is known.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> Choice {
        for route in &self.routes {
            match route.condition.holds(facts) {
                Fact::Known(true) => return Choice::Chain(Arc::clone(&route.chain)),
                Fact::Known(false) => {}
                Fact::NotYet => return Choice::NotYet,
            }
        }
        Choice::NoRoute
    }

    /// Every chain that is still possible with these facts, in configuration order.
    pub fn possible<'a>(&'a self, facts: &'a Facts<'a>) -> impl Iterator<Item = &'a Arc<Chain>> {
        let mut decided = false;
        self.routes
            .iter()
            .map(|route| (route.condition.holds(facts), &route.chain))
            .take_while(move |(holds, _)| {
                let before = decided;
                decided |= *holds == Fact::Known(true);
                !before
            })
            .filter(|(holds, _)| *holds != Fact::Known(false))
            .map(|(_, chain)| chain)
    }

    /// The member of that name in any chain.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        let members = self.routes.iter().flat_map(|route| route.chain.members());
        members
            .into_iter()
            .find(|member| member.name == name)
            .cloned()
    }

    /// Every member of every chain that is still possible, each once, in configuration order: what
    /// a negotiation must cover.
    #[must_use]
    pub fn members(&self, facts: &Facts<'_>) -> Vec<Arc<Member>> {
        let mut members: Vec<Arc<Member>> = Vec::new();
        for member in self.possible(facts).flat_map(|chain| chain.members()) {
            if !members.iter().any(|known| Arc::ptr_eq(known, member)) {
                members.push(Arc::clone(member));
            }
        }
        members
    }
}

impl Condition {
    /// Whether it holds, as far as known: a part that fails decides, whatever the others become.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>) -> Fact<bool> {
        let listen = self.listen.is_empty() || self.listen.iter().any(|name| name == facts.listen);
        let parts = [
            Fact::Known(listen),
            self.client_holds(facts),
            self.login_holds(facts),
        ];
        if parts.contains(&Fact::Known(false)) {
            Fact::Known(false)
        } else if parts.contains(&Fact::NotYet) {
            Fact::NotYet
        } else {
            Fact::Known(true)
        }
    }

    /// What keeps it from holding, or what would have to be known, as the middle of a sentence.
    #[must_use]
    pub fn obstacle(&self, facts: &Facts<'_>) -> String {
        let listen = self.listen.is_empty() || self.listen.iter().any(|name| name == facts.listen);
        let missing = |holds: Fact<bool>| holds != Fact::Known(true);
        if !listen {
            format!("it is for listener {}", self.listen.join(", "))
        } else if missing(self.client_holds(facts)) {
            let networks: Vec<String> = self.client.iter().map(IpNet::to_string).collect();
            format!("it is for clients in {}", networks.join(", "))
        } else if missing(self.login_holds(facts)) && self.authenticated == Some(true) {
            "it is for clients that logged in".to_owned()
        } else if missing(self.login_holds(facts)) {
            "it is for clients that did not log in".to_owned()
        } else {
            "nothing is in its way".to_owned()
        }
    }

    fn client_holds(&self, facts: &Facts<'_>) -> Fact<bool> {
        if self.client.is_empty() {
            return Fact::Known(true);
        }
        match facts.client {
            Fact::NotYet => Fact::NotYet,
            Fact::Known(Client::NoIp) => Fact::Known(false),
            Fact::Known(Client::Ip(ip)) => {
                // A client of an IPv4 network may be told as ::ffff:192.0.2.1.
                let ip = ip.to_canonical();
                Fact::Known(self.client.iter().any(|network| network.contains(&ip)))
            }
        }
    }

    fn login_holds(&self, facts: &Facts<'_>) -> Fact<bool> {
        match (self.authenticated, facts.authenticated) {
            (None, _) => Fact::Known(true),
            (Some(_), Fact::NotYet) => Fact::NotYet,
            (Some(wanted), Fact::Known(is)) => Fact::Known(wanted == is),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The routes of the table below, tried in this order.
    fn routes() -> Routes {
        let route = |name: &str, condition: Condition| Route {
            condition,
            chain: Arc::new(Chain {
                name: name.to_owned(),
                segments: Vec::new(),
                strict: false,
            }),
        };
        let network = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        Routes {
            routes: vec![
                route(
                    "outbound",
                    Condition {
                        listen: vec!["submission".to_owned()],
                        authenticated: Some(true),
                        ..Condition::default()
                    },
                ),
                route(
                    "relay",
                    Condition {
                        client: network("192.0.2.0/24"),
                        ..Condition::default()
                    },
                ),
                route(
                    "inbound",
                    Condition {
                        listen: vec!["inbound".to_owned()],
                        ..Condition::default()
                    },
                ),
            ],
        }
    }

    /// What was chosen, and which chains are possible.
    fn describe(facts: &Facts<'_>) -> String {
        let routes = routes();
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
        let ip = |text: &str| Fact::Known(Client::Ip(text.parse().unwrap()));
        let nobody = Fact::Known(Client::NoIp);
        let table = [
            (
                "inbound",
                Fact::NotYet,
                Fact::NotYet,
                "not yet; relay inbound",
            ),
            ("inbound", ip("192.0.2.7"), Fact::NotYet, "relay; relay"),
            (
                "inbound",
                ip("::ffff:192.0.2.7"),
                Fact::NotYet,
                "relay; relay",
            ),
            (
                "inbound",
                ip("2001:db8::1"),
                Fact::NotYet,
                "inbound; inbound",
            ),
            ("inbound", nobody, Fact::Known(true), "inbound; inbound"),
            (
                "submission",
                Fact::NotYet,
                Fact::NotYet,
                "not yet; outbound relay",
            ),
            ("submission", nobody, Fact::NotYet, "not yet; outbound"),
            (
                "submission",
                nobody,
                Fact::Known(true),
                "outbound; outbound",
            ),
            (
                "submission",
                Fact::NotYet,
                Fact::Known(true),
                "outbound; outbound",
            ),
            ("submission", nobody, Fact::Known(false), "none; "),
            (
                "submission",
                ip("192.0.2.7"),
                Fact::Known(false),
                "relay; relay",
            ),
        ];
        for (listen, client, authenticated, expected) in table {
            let facts = Facts {
                listen,
                client,
                authenticated,
            };
            assert_eq!(describe(&facts), expected, "{facts:?}");
        }
    }
}
