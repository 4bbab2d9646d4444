//! Which crate may depend on which.

use crate::finding::Finding;
use crate::workspace::{Kind, Package};

/// Every member and the members it may depend on. `tests` may depend on all, nobody on `tests`.
const ARROWS: &[(&str, &[&str])] = &[
    ("xtask", &[]),
    ("milter-proto", &[]),
    ("milter-clamav", &["milter-proto"]),
    ("milter-dkim", &["milter-proto"]),
    ("milter-spam", &["milter-proto", "milter-dkim"]),
    ("milter-orchestrator", &["milter-proto"]),
    (
        "milter-tests",
        &[
            "milter-proto",
            "milter-clamav",
            "milter-dkim",
            "milter-spam",
            "milter-orchestrator",
        ],
    ),
];

/// Members that the table does not know, and dependencies between members that it does not allow,
/// those of tests included.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let members: Vec<&Package> = packages.iter().filter(|package| package.member).collect();
    let mut findings = Vec::new();
    for package in &members {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            let what = "is a member that the table of arrows does not know";
            findings.push(Finding::new(&package.name, what));
            continue;
        };
        for (on, kind) in &package.dependencies {
            let ours = members.iter().any(|member| member.name == *on);
            if !ours || allowed.contains(&on.as_str()) {
                continue;
            }
            let how = match kind {
                Kind::Normal => "depends on",
                Kind::Dev => "depends (for its tests) on",
            };
            findings.push(Finding::new(&package.name, format!("{how} {on}")));
        }
    }
    findings
}

/// The protocol without features must stay free of tokio; `tree` is what cargo lists for it.
pub(super) fn no_tokio(tree: &str) -> Option<Finding> {
    let tokio = tree.lines().find(|line| line.starts_with("tokio"))?;
    let what = format!("pulls in {tokio} without any feature");
    Some(Finding::new("milter-proto", what))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::said;
    use super::*;

    fn member(name: &str, on: &[(&str, Kind)]) -> Package {
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            folder: PathBuf::new(),
            dependencies: on
                .iter()
                .map(|(on, kind)| ((*on).to_owned(), *kind))
                .collect(),
            member: true,
        }
    }

    #[test]
    fn a_forbidden_arrow_is_found() {
        let (normal, dev) = (Kind::Normal, Kind::Dev);
        let good = [
            member("milter-proto", &[("tokio", normal)]),
            member("milter-dkim", &[("milter-proto", normal)]),
            member(
                "milter-spam",
                &[("milter-dkim", normal), ("milter-proto", normal)],
            ),
        ];
        assert_eq!(check(&good), []);

        let bad = [
            member("milter-proto", &[]),
            member("milter-dkim", &[]),
            member("milter-orchestrator", &[("milter-dkim", normal)]),
            member("milter-clamav", &[("milter-tests", dev)]),
            member("milter-tests", &[]),
            member("milter-extra", &[]),
        ];
        assert_eq!(
            said(&check(&bad)),
            "milter-orchestrator: depends on milter-dkim\n\
             milter-clamav: depends (for its tests) on milter-tests\n\
             milter-extra: is a member that the table of arrows does not know"
        );
    }

    #[test]
    fn tokio_below_the_protocol_is_found() {
        assert_eq!(no_tokio("milter-proto v0.1.0\nbytes v1.0.0\n"), None);
        assert!(no_tokio("milter-proto v0.1.0\ntokio v1.50.0\n").is_some());
    }
}
