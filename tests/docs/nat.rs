//! `docs/nat.md` names the tests that show what it says: each of them exists.

use std::collections::BTreeSet;
use std::fs;

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

/// Is there such a test? In a `proptest!` the attribute stands in the same place.
fn exists(file: &str, test: &str) -> bool {
    let Some((short, folder)) = FOLDERS.iter().find(|(short, _)| file.starts_with(short)) else {
        return false;
    };
    let path = root()
        .join(folder)
        .join(format!("{}.rs", &file[short.len()..]));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split("#[test]").skip(1).any(|after| {
        let name = after.split("fn ").nth(1).unwrap_or_default();
        name.split('(').next() == Some(test)
    })
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
fn a_test_that_is_not_there_is_noticed() {
    assert!(exists("common/port", "p15_ranges_at_both_ends"));
    assert!(exists("common/port", "never_outside_the_range"));
    assert!(!exists("common/port", "p15_ranges"));
    assert!(!exists("common/port", "range"), "a helper is no test");
    assert!(!exists("common/nothing", "p15_ranges_at_both_ends"));
}
