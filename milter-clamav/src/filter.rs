//! The milter: what it asks of the MTA, and what it does at each stage.
//!
//! No stage is answered before the end of the message, so that the MTA never waits for clamd
//! while it sends; when clamd is slower, its socket fills and the MTA's with it. Every message
//! that comes to its end gives one line in the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use milter_proto::daemon::escaped;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::message::{Address, Connection, Header};
use milter_proto::verdict::{BodyVerdict, Outcome, Verdict};
use milter_proto::wire::options::{Actions, Steps};
use tracing::{info, warn};

use crate::config::{Exempt, Headers, Meaning};
use crate::outcome::{self, Action, Marking, OnError, OnFound, OnTooLarge, Policy};
use crate::scan::{Exemption, Finding, Report, Scan};

/// The filter; one for all connections.
#[derive(Debug)]
pub struct Clamav {
    meaning: Arc<Meaning>,
}

/// One message.
pub struct Message {
    meaning: Arc<Meaning>,
    scan: Result<Scan, Exemption>,
    marking: Marking,
    started: Instant,
}

impl Clamav {
    /// A filter that does what the configuration means.
    #[must_use]
    pub fn new(meaning: Meaning) -> Self {
        Self {
            meaning: Arc::new(meaning),
        }
    }

    /// What the configuration means.
    #[must_use]
    pub fn meaning(&self) -> &Meaning {
        &self.meaning
    }
}

impl Filter for Clamav {
    type Transaction = Message;

    fn needs(&self) -> Needs {
        Needs {
            actions: actions(&self.meaning.policy, &self.meaning.headers),
            steps: Steps::NO_HELO
                | Steps::NO_RCPT
                | Steps::NO_DATA
                | Steps::NO_UNKNOWN
                | Steps::NR_CONNECT
                | Steps::NR_MAIL
                | Steps::NR_HEADER
                | Steps::NR_EOH
                | Steps::NR_BODY
                | Steps::LEADING_SPACE,
            macros: Vec::new(),
        }
    }

    fn begin(&self, cx: Context<'_>) -> Message {
        let authenticated = cx.macro_value("auth_authen").is_some_and(|a| !a.is_empty());
        let scan = match self
            .meaning
            .exempt
            .exemption(cx.connection(), authenticated)
        {
            Some(exemption) => Err(exemption),
            None => Ok(Scan::new(
                Arc::clone(&self.meaning.servers),
                Arc::clone(&self.meaning.limits),
            )),
        };
        Message {
            scan,
            marking: Marking {
                add: self.meaning.headers.add,
                leading_space: cx.leading_space(),
                ..Marking::default()
            },
            meaning: Arc::clone(&self.meaning),
            started: Instant::now(),
        }
    }
}

impl Transaction for Message {
    async fn header(&mut self, cx: Context<'_>, header: Header) -> Verdict {
        if self.meaning.headers.remove_forged {
            self.marking.forged_scanned += u32::from(header.is(outcome::SCANNED));
            self.marking.forged_status += u32::from(header.is(outcome::STATUS));
        }
        if let Ok(scan) = &mut self.scan {
            scan.header(&header, cx.leading_space()).await;
        }
        Verdict::Continue
    }

    async fn end_of_headers(&mut self, _cx: Context<'_>) -> Verdict {
        if let Ok(scan) = &mut self.scan {
            scan.end_of_headers().await;
        }
        Verdict::Continue
    }

    async fn body(&mut self, _cx: Context<'_>, chunk: Bytes) -> BodyVerdict {
        if let Ok(scan) = &mut self.scan {
            scan.body(chunk).await;
        }
        BodyVerdict::default()
    }

    async fn finish(self, cx: Context<'_>) -> Outcome {
        let asked = Instant::now();
        let forged = self.marking.forged_scanned.max(self.marking.forged_status);
        let report = match self.scan {
            _ if forged > outcome::FORGED_MAX => Report {
                finding: Finding::Forged,
                server: None,
                size: 0,
            },
            Ok(scan) => scan.finish().await,
            Err(exemption) => Report {
                finding: Finding::Exempt(exemption),
                server: None,
                size: 0,
            },
        };
        let ruling = outcome::rule(&report.finding, &self.meaning.policy);
        log(cx.queue_id(), &report, ruling.action, (self.started, asked));
        let host = cx.macro_value("j").map(|name| host(name));
        let marking = Marking {
            host: host.unwrap_or_default(),
            ..self.marking
        };
        ruling.outcome(&marking)
    }
}

/// The line for a message. A message that no clamd scanned is a warning: an operator has to act.
fn log(queue_id: &[u8], report: &Report, action: Action, (started, asked): (Instant, Instant)) {
    let queue_id = escaped(queue_id);
    let (result, detail): (&str, &str) = match &report.finding {
        Finding::Clean => ("clean", ""),
        Finding::Infected(name) => ("infected", name.as_str()),
        Finding::Encrypted(name) => ("encrypted", name.as_str()),
        Finding::Forged => ("forged", ""),
        Finding::TooLarge => ("too large", ""),
        Finding::Exempt(Exemption::Network) => ("exempt", "network"),
        Finding::Exempt(Exemption::Authenticated) => ("exempt", "authenticated"),
        Finding::Unscanned(reason) => ("not scanned", reason),
    };
    let clamd = report
        .server
        .as_ref()
        .map(|server| server.address.to_string());
    let clamd = clamd.unwrap_or_default();
    let (size, waited) = (report.size, asked.elapsed().as_millis());
    let total = started.elapsed().as_millis();
    if matches!(report.finding, Finding::Unscanned(_)) {
        warn!(%queue_id, %action, result, detail, clamd, size, waited, total, "message");
    } else {
        info!(%queue_id, %action, result, detail, clamd, size, waited, total, "message");
    }
}

/// What the policy and the header fields need to have negotiated.
fn actions(policy: &Policy, headers: &Headers) -> Actions {
    let quarantines = policy.infected == OnFound::Quarantine
        || policy.encrypted == OnFound::Quarantine
        || policy.too_large == OnTooLarge::Quarantine
        || policy.error == OnError::Quarantine;
    let mut actions = Actions::empty();
    actions.set(Actions::QUARANTINE, quarantines);
    actions.set(Actions::ADD_HEADERS, headers.add);
    actions.set(Actions::CHANGE_HEADERS, headers.remove_forged);
    actions
}

/// A host name that can be written into a header field: what is no part of one is left out.
fn host(name: &[u8]) -> String {
    const HOST_MAX: usize = 255;
    let of_name = |byte: &&u8| matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    name.iter()
        .filter(|byte| byte.is_ascii_alphanumeric() || of_name(byte))
        .take(HOST_MAX)
        .map(|&byte| char::from(byte))
        .collect()
}

impl Exempt {
    /// Why mail of this client is not scanned, if so. A client of whom nothing is known is never
    /// exempt.
    #[must_use]
    pub fn exemption(
        &self,
        connection: Option<&Connection>,
        authenticated: bool,
    ) -> Option<Exemption> {
        if self.authenticated && authenticated {
            return Some(Exemption::Authenticated);
        }
        let client = connection.and_then(|connection| client(&connection.address))?;
        let inside = self
            .networks
            .iter()
            .any(|network| network.contains(&client));
        inside.then_some(Exemption::Network)
    }
}

/// The client's address; an IPv4 address that is written as IPv6 is IPv4.
fn client(address: &Address) -> Option<IpAddr> {
    address.ip().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(address: Address) -> Connection {
        Connection {
            hostname: Bytes::from_static(b"client.example.org"),
            address,
        }
    }

    fn inet(text: &str) -> Connection {
        connection(Address::Inet(text.parse().unwrap()))
    }

    #[test]
    fn nobody_is_exempt_by_default() {
        let exempt = Exempt::default();
        for client in ["127.0.0.1:25", "[::1]:25", "10.0.0.1:0"] {
            assert_eq!(exempt.exemption(Some(&inet(client)), true), None);
        }
    }

    #[test]
    fn exempt_by_network_or_by_authentication() {
        let exempt = Exempt {
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            authenticated: true,
        };
        let check = |client: &Connection, authenticated, expected| {
            let got = exempt.exemption(Some(client), authenticated);
            assert_eq!(got, expected, "{client:?}");
        };
        let network = Some(Exemption::Network);
        check(&inet("192.0.2.9:1"), false, network);
        check(&inet("[::ffff:192.0.2.9]:1"), false, network);
        check(&inet("198.51.100.1:1"), false, None);
        check(
            &inet("198.51.100.1:1"),
            true,
            Some(Exemption::Authenticated),
        );
        check(&connection(Address::Unknown), false, None);
        let path = Bytes::from_static(b"/192.0.2.9");
        check(&connection(Address::Unix(path)), false, None);
        let garbage = Address::Unparsable {
            family: b'4',
            port: 1,
            text: Bytes::from_static(b"192.0.2.9x"),
        };
        check(&connection(garbage), false, None);
        assert_eq!(exempt.exemption(None, false), None);
    }

    #[test]
    fn only_what_is_used_is_negotiated() {
        let none = Headers {
            add: false,
            remove_forged: false,
        };
        let policy = Policy::default();
        assert_eq!(actions(&policy, &none), Actions::empty());
        let both = Actions::ADD_HEADERS | Actions::CHANGE_HEADERS;
        assert_eq!(actions(&policy, &Headers::default()), both);
        let policy = Policy {
            error: OnError::Quarantine,
            ..policy
        };
        assert_eq!(actions(&policy, &none), Actions::QUARANTINE);
    }

    #[test]
    fn a_host_name_brings_nothing_else_with_it() {
        assert_eq!(host(b"mx-1.example.org"), "mx-1.example.org");
        assert_eq!(host(b"a\r\nX-Evil: b c"), "aX-Evil:bc");
        assert_eq!(host(&[b'x'; 999]).len(), 255);
    }
}
