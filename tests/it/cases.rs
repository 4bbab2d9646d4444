//! The numbered cases of the protocol, 1 to 200: each is a test or a script that carries its
//! number, or stands below with the reason why not. What a test leaves out of its case stands below
//! as well.
//!
//! 1 to 37 are the codec, 38 to 93 a filter before an MTA, 94 to 143 an MTA before a filter, 144 to
//! 200 the proxy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use milter_tests::scripts;

/// Cases that no test carries, and why: none at present.
const REASONS: &[(u32, &str)] = &[];

/// Cases whose test proves less than the case says, and what is missing.
const IN_PART: &[(u32, &str)] = &[
    (
        170,
        "the number of fields that Sendmail's list begins with is never unknown here: it is taken \
         from its stock configuration (ARCHITECTURE.md, deviations), so nothing falls back to the \
         top of the header",
    ),
    (
        192,
        "there is no key that turns a refused recipient into a refused message where Postfix \
         itself sends mail: the refusal is passed on, as from the filter itself",
    ),
];

/// Collects the numbers of tests in a source; that a comment names one is not enough.
fn numbers(text: &str, found: &mut BTreeSet<u32>) {
    let functions = text.split("fn ").skip(1);
    for piece in functions.filter_map(|function| {
        let name = function.split('(').next().unwrap_or_default();
        name.split_once("case_").map(|(_, number)| number)
    }) {
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
        numbers(&format!("fn {name}()"), &mut found);
    }
    let excused = |number: &u32| REASONS.iter().any(|(excused, _)| excused == number);
    let missing: Vec<u32> = (1..=200)
        .filter(|number| !found.contains(number) && !excused(number))
        .collect();
    assert!(
        missing.is_empty(),
        "cases without a test and without a reason: {missing:?}"
    );
    let needless: Vec<u32> = found.iter().copied().filter(excused).collect();
    assert!(
        needless.is_empty(),
        "cases with a test and with a reason why not: {needless:?}"
    );
    let untested = IN_PART.iter().filter(|(number, _)| !found.contains(number));
    let untested: Vec<_> = untested.collect();
    assert!(
        untested.is_empty(),
        "proved in part by no test: {untested:?}"
    );
}

#[test]
fn numbers_are_found() {
    let mut found = BTreeSet::new();
    let text = "fn case_007_a() {}\nfn b_case_142() {}\n// case_008\nfn c() { case_009(); }";
    numbers(text, &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [7, 142]);
}
