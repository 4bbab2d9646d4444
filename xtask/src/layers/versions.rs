//! One version of every crate, but for the exceptions of `deny.toml`, each with its reason there.

use crate::finding::Finding;
use crate::workspace::Package;

/// The exceptions in `deny.toml`: `[bans] skip`, as name and the version's beginning.
pub(super) fn skipped(deny: &toml::Table) -> Vec<(String, String)> {
    let list = deny
        .get("bans")
        .and_then(|bans| bans.get("skip"))
        .and_then(toml::Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|entry| entry.get("crate")?.as_str()?.split_once('@'))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// Crates that are built in two versions without an exception, and exceptions without use.
pub(super) fn check(packages: &[Package], skipped: &[(String, String)]) -> Vec<Finding> {
    let excepted = |package: &Package, (name, version): &(String, String)| {
        let rest = package.version.strip_prefix(version.as_str());
        package.name == *name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut kept: Vec<&Package> = packages
        .iter()
        .filter(|package| !skipped.iter().any(|skip| excepted(package, skip)))
        .collect();
    kept.sort_by_key(|package| &package.name);
    let mut findings: Vec<Finding> = kept
        .windows(2)
        .filter(|pair| pair[0].name == pair[1].name)
        .map(|pair| {
            let what = format!(
                "comes in versions {} and {}",
                pair[0].version, pair[1].version
            );
            Finding::new(&pair[0].name, what)
        })
        .collect();
    findings.extend(
        skipped
            .iter()
            .filter(|skip| !packages.iter().any(|package| excepted(package, skip)))
            .map(|(name, version)| {
                let place = format!("deny.toml: {name}@{version}");
                Finding::new(place, "is an exception that nothing needs")
            }),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: None,
            folder: std::path::PathBuf::new(),
            dependencies: Vec::new(),
            member: false,
        }
    }

    #[test]
    fn a_second_version_and_a_stale_exception_are_found() {
        let packages = [
            package("syn", "2.0.1"),
            package("rand", "0.9.5"),
            package("syn", "3.0.0"),
            package("rand", "0.10.1"),
        ];
        let deny = "[bans]\nskip = [{ crate = 'syn@2', reason = '' }, { crate = 'rand@0.1' }]";
        let skipped = skipped(&deny.parse().unwrap());
        assert_eq!(
            said(&check(&packages, &skipped)),
            "rand: comes in versions 0.9.5 and 0.10.1\n\
             deny.toml: rand@0.1: is an exception that nothing needs"
        );
    }
}
