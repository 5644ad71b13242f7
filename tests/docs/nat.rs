//! `docs/nat.md` names the tests that show what it says: each of them exists, and each that carries a
//! number of the document's stands where that number is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::root;

/// The folders that the document abbreviates.
const FOLDERS: [(&str, &str); 4] = [
    ("common/", "netd-common/src/"),
    ("netd/", "netd/src/"),
    ("prog/", "tests/prog/"),
    ("netns/", "tests/netns/"),
];

/// Everything of the form `folder/file::test`.
fn named(text: &str) -> BTreeSet<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|name| name.split_once("::"))
        .filter(|(file, _)| FOLDERS.iter().any(|(short, _)| file.starts_with(short)))
        .collect()
}

/// The names of a file's tests. In a `proptest!` the attribute stands in the same place.
fn tests_in(text: &str) -> Vec<String> {
    text.split("#[test]")
        .skip(1)
        .filter_map(|after| after.split("fn ").nth(1)?.split('(').next())
        .map(str::to_owned)
        .collect()
}

/// Is there such a test?
fn exists(file: &str, test: &str) -> bool {
    let Some((short, folder)) = FOLDERS.iter().find(|(short, _)| file.starts_with(short)) else {
        return false;
    };
    let path = root()
        .join(folder)
        .join(format!("{}.rs", &file[short.len()..]));
    let text = fs::read_to_string(path).unwrap_or_default();
    tests_in(&text).iter().any(|name| name == test)
}

/// Every test of a folder and those below, as the document names them.
fn all_in(short: &str, folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of tests") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            all.extend(all_in(&format!("{short}{name}/"), &path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a file of tests");
            let tests = tests_in(&text).into_iter();
            all.extend(tests.map(|test| (format!("{short}{name}"), test)));
        }
    }
    all
}

/// The numbers that a name begins with: 1 and 2 of `p01_p02_a_flood`.
fn numbers(name: &str) -> Vec<u32> {
    let parts = name.split('_').map_while(|part| {
        let digits = part.strip_prefix('p')?;
        (digits.len() == 2).then(|| digits.parse().ok())?
    });
    parts.collect()
}

/// The numbers of a row of faults: "P30, P31" or "P19–P22".
fn numbers_of_row(line: &str) -> Vec<u32> {
    let cell = line
        .strip_prefix("| P")
        .and_then(|rest| rest.split('|').next());
    let words = cell.unwrap_or_default().replace('P', " ");
    let single: Vec<u32> = words
        .split(|char: char| !char.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    match single.as_slice() {
        [first, last] if words.contains('–') => (*first..=*last).collect(),
        _ => single,
    }
}

#[test]
fn every_test_that_the_document_names_exists() {
    let text = fs::read_to_string(root().join("docs/nat.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, test)| *test != "test" && !exists(file, test))
        .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

#[test]
fn every_test_with_a_number_stands_in_that_numbers_row() {
    let text = fs::read_to_string(root().join("docs/nat.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        rows.extend(
            numbers_of_row(line)
                .into_iter()
                .map(|number| (number, line)),
        );
    }
    let all: Vec<_> = FOLDERS
        .iter()
        .flat_map(|(short, folder)| all_in(short, &root().join(folder)))
        .collect();
    let mut missing = Vec::new();
    for (file, test) in &all {
        let name = format!("{file}::{test}");
        let quoted = format!("`{name}`");
        for number in numbers(test) {
            if !rows.get(&number).is_some_and(|row| row.contains(&quoted)) {
                missing.push(format!("P{number:02}: {name}"));
            }
        }
        let is_required = test.starts_with("rfc") && test.contains("_req");
        if is_required && !text.contains(&quoted) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "not in docs/nat.md: {missing:#?}");
    let counted = all.iter().filter(|(_, test)| !numbers(test).is_empty());
    assert!(counted.count() > 100, "the tests were not found");
}

#[test]
fn numbers_are_read_as_they_are_written() {
    assert_eq!(numbers("p01_p02_a_flood_of_p03"), [1, 2]);
    assert_eq!(numbers("pools_are_no_numbers"), [0_u32; 0]);
    assert_eq!(numbers_of_row("| P30, P31 | offloads | `x` |"), [30, 31]);
    assert_eq!(numbers_of_row("| P19–P22 | quotes |"), [19, 20, 21, 22]);
    assert_eq!(numbers_of_row("| 19 | no row of a fault |"), [0_u32; 0]);
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    assert!(exists("common/port", "p15_ranges_at_both_ends"));
    assert!(exists("common/port", "never_outside_the_range"));
    assert!(!exists("common/port", "p15_ranges"));
    assert!(!exists("common/port", "range"), "a helper is no test");
    assert!(!exists("common/nothing", "p15_ranges_at_both_ends"));
}
