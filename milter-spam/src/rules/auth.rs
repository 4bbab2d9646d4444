//! Checks on SPF, DKIM, DMARC and ARC, from what a trusted host before us wrote (RFC 8601). Nothing
//! is looked up here.

use super::{Group, Hit, Rule};
use crate::authentication::Finding;
use crate::facts::Facts;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::client(
        "R_SPF_ALLOW",
        "SPF allows the client",
        Group::Policies,
        -0.2,
        |facts| spf(facts, "pass"),
    ),
    Rule::client(
        "R_SPF_FAIL",
        "SPF does not allow the client",
        Group::Policies,
        1.0,
        |facts| spf(facts, "fail"),
    ),
    Rule::client(
        "R_SPF_SOFTFAIL",
        "SPF probably does not allow the client",
        Group::Policies,
        0.0,
        |facts| spf(facts, "softfail"),
    ),
    Rule::client(
        "R_SPF_NEUTRAL",
        "SPF says nothing about the client",
        Group::Policies,
        0.0,
        |facts| spf(facts, "neutral"),
    ),
    Rule::client(
        "R_SPF_NA",
        "Sender's domain has no SPF record",
        Group::Policies,
        0.0,
        |facts| spf(facts, "none"),
    ),
    Rule::client(
        "R_SPF_DNSFAIL",
        "SPF could not be looked up",
        Group::Policies,
        0.0,
        |facts| spf(facts, "temperror"),
    ),
    Rule::client(
        "R_SPF_PERMFAIL",
        "SPF record is malformed",
        Group::Policies,
        0.0,
        |facts| spf(facts, "permerror"),
    ),
    Rule::client(
        "R_DKIM_ALLOW",
        "A DKIM signature is valid",
        Group::Policies,
        -0.2,
        dkim_allow,
    ),
    Rule::client(
        "R_DKIM_REJECT",
        "A DKIM signature is not valid, and none is",
        Group::Policies,
        1.0,
        |facts| dkim_without_pass(facts, "fail"),
    ),
    Rule::client(
        "R_DKIM_TEMPFAIL",
        "A DKIM signature could not be checked",
        Group::Policies,
        0.0,
        |facts| dkim_without_pass(facts, "temperror"),
    ),
    Rule::client(
        "R_DKIM_PERMFAIL",
        "A DKIM signature or its key is malformed",
        Group::Policies,
        0.0,
        |facts| dkim_without_pass(facts, "permerror"),
    ),
    Rule::client(
        "R_DKIM_NA",
        "There is no DKIM signature",
        Group::Policies,
        0.0,
        |facts| of(facts, "dkim", "none"),
    ),
    Rule::client(
        "DMARC_POLICY_ALLOW",
        "DMARC passes",
        Group::Policies,
        -0.5,
        |facts| of(facts, "dmarc", "pass"),
    ),
    Rule::client(
        "DMARC_POLICY_REJECT",
        "DMARC fails, and the author's domain asks to reject",
        Group::Policies,
        2.0,
        |facts| dmarc(facts, "reject"),
    ),
    Rule::client(
        "DMARC_POLICY_QUARANTINE",
        "DMARC fails, and the author's domain asks to quarantine",
        Group::Policies,
        1.5,
        |facts| dmarc(facts, "quarantine"),
    ),
    Rule::client(
        "DMARC_POLICY_SOFTFAIL",
        "DMARC fails, and the author's domain asks for nothing",
        Group::Policies,
        0.1,
        |facts| dmarc(facts, "none"),
    ),
    Rule::client(
        "DMARC_NA",
        "Author's domain has no DMARC record",
        Group::Policies,
        0.0,
        |facts| of(facts, "dmarc", "none"),
    ),
    Rule::client(
        "ARC_ALLOW",
        "The ARC chain is valid",
        Group::Policies,
        -1.0,
        |facts| of(facts, "arc", "pass"),
    ),
    Rule::client(
        "ARC_REJECT",
        "The ARC chain is not valid",
        Group::Policies,
        1.0,
        |facts| of(facts, "arc", "fail"),
    ),
    Rule::client(
        "ARC_NA",
        "There is no ARC chain",
        Group::Policies,
        0.0,
        |facts| of(facts, "arc", "none"),
    ),
];

fn of(facts: &Facts, method: &str, result: &str) -> Option<Hit> {
    facts
        .authentication
        .with(method, result)
        .map(|_| Hit::new())
}

fn spf(facts: &Facts, result: &str) -> Option<Hit> {
    let finding = facts.authentication.of("spf").next()?;
    let domain = ["smtp.mailfrom", "smtp.helo"]
        .iter()
        .find_map(|name| finding.property(name));
    let hit = domain.map_or_else(Hit::new, |domain| Hit::new().with(domain));
    (finding.result == result).then_some(hit)
}

/// The signing domain, as DKIM_TRACE of rspamd tells it.
fn signer(finding: &Finding) -> Option<&str> {
    let domain = finding.property("header.d");
    domain.or_else(|| finding.property("header.i")?.rsplit('@').next())
}

fn named(hit: Hit, finding: &Finding) -> Hit {
    match signer(finding) {
        Some(domain) => hit.with(domain),
        None => hit,
    }
}

fn dkim_allow(facts: &Facts) -> Option<Hit> {
    let passed = facts
        .authentication
        .of("dkim")
        .filter(|finding| finding.result == "pass");
    passed.fold(None, |hit: Option<Hit>, finding| {
        Some(named(hit.unwrap_or_default(), finding))
    })
}

/// A broken signature beside a valid one is what lists leave behind.
fn dkim_without_pass(facts: &Facts, result: &str) -> Option<Hit> {
    let finding = facts.authentication.with("dkim", result)?;
    facts
        .authentication
        .with("dkim", "pass")
        .is_none()
        .then(|| named(Hit::new(), finding))
}

/// The policy is a property (`policy.p`, `policy.published-domain-policy`) or stands in a comment
/// (`p=reject`).
fn dmarc(facts: &Facts, policy: &str) -> Option<Hit> {
    let finding = facts.authentication.with("dmarc", "fail")?;
    let asked = [
        "policy.p",
        "policy.published-domain-policy",
        "p",
        "policy.dmarc",
    ]
    .iter()
    .find_map(|name| finding.property(name))
    .unwrap_or("none");
    let domain = finding.property("header.from").unwrap_or_default();
    asked
        .eq_ignore_ascii_case(policy)
        .then(|| Hit::new().with(domain))
}
