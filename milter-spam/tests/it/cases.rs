//! Every check has a message that it hits and one that it does not.

use std::collections::HashSet;

use milter_spam::rules;

use crate::case::{Case, parse};

/// All case files.
fn cases() -> Vec<Case> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no case files in {folder}");
    files
        .iter()
        .flat_map(|file| parse(&std::fs::read_to_string(file).unwrap()))
        .collect()
}

#[test]
fn every_case_is_as_expected() {
    let mistakes: Vec<String> = cases().iter().flat_map(Case::mistakes).collect();
    assert!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
}

#[test]
fn every_check_has_cases() {
    let cases = cases();
    let all = |list: fn(&Case) -> &Vec<String>| -> HashSet<&str> {
        cases.iter().flat_map(list).map(|name| &name[..]).collect()
    };
    let (hit, missed) = (all(|case| &case.expected), all(|case| &case.unexpected));
    let exact: Vec<&Case> = cases.iter().filter(|case| case.exact).collect();
    let mut lacking = Vec::new();
    for rule in rules::all() {
        if !hit.contains(rule.name) {
            lacking.push(format!("{} has no case that it hits", rule.name));
        }
        let left_out = exact
            .iter()
            .any(|case| !case.expected.iter().any(|name| name == rule.name));
        if !missed.contains(rule.name) && !left_out {
            lacking.push(format!("{} has no case that it does not hit", rule.name));
        }
    }
    assert!(lacking.is_empty(), "\n{}", lacking.join("\n"));
    let known: HashSet<&str> = rules::all().map(|rule| rule.name).collect();
    let unknown: Vec<&&str> = hit
        .union(&missed)
        .filter(|name| !known.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "no such checks: {unknown:?}");
}

#[test]
fn the_table_is_well_formed() {
    let mut names = HashSet::new();
    for rule in rules::all() {
        let name = rule.name;
        assert!(names.insert(name), "{name} is there twice");
        let form = name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        assert!(form, "{name}");
        assert!(
            !rule.about.is_empty() && !rule.about.ends_with('.'),
            "{name}"
        );
        assert!(
            rule.weight.is_finite() && rule.weight.abs() <= 15.0,
            "{name}"
        );
    }
    assert!(names.len() >= 45, "{}", names.len());
}
