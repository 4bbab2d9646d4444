//! The numbered cases of the protocol, 1 to 200: each is a test or a script that carries its
//! number, or stands below with the reason why not.
//!
//! 1 to 37 are the codec, 38 to 93 a filter before an MTA, 94 to 143 an MTA before a filter, 144 to
//! 200 the proxy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use milter_tests::scripts;

/// Cases that no test carries, and why: none at present.
const REASONS: &[(u32, &str)] = &[];

/// Collects the numbers behind `case_` in a text.
fn numbers(text: &str, found: &mut BTreeSet<u32>) {
    for piece in text.split("case_").skip(1) {
        let digits = piece.get(..3).unwrap_or_default();
        found.extend(digits.parse::<u32>().ok());
    }
}

/// Collects the numbers in all sources below a folder, this file aside.
fn search(directory: &Path, found: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with(file!())
        {
            numbers(&fs::read_to_string(&path).unwrap(), found);
        }
    }
}

#[test]
fn every_case_is_a_test_or_has_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for package in ["milter-proto", "milter-orchestrator", "tests"] {
        for folder in ["src", "tests", "it", "examples"] {
            let directory = root.join(package).join(folder);
            if directory.is_dir() {
                search(&directory, &mut found);
            }
        }
    }
    for name in scripts::names().unwrap() {
        numbers(&name, &mut found);
    }
    let excused = |number: &u32| REASONS.iter().any(|(excused, _)| excused == number);
    let missing: Vec<u32> = (1..=200)
        .filter(|number| !found.contains(number) && !excused(number))
        .collect();
    assert!(
        missing.is_empty(),
        "cases without a test and without a reason: {missing:?}"
    );
}

#[test]
fn numbers_are_found() {
    let mut found = BTreeSet::new();
    numbers("fn case_007_a() {}\nmod case_142;\ncase_x", &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [7, 142]);
}
