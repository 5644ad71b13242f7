//! `docs/reference` names every drop reason, map and setting, and nothing else.

use std::fs;

use netd_common::{Reason, abi};

use crate::{files, root};

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

/// What is quoted in the first cell of each row, with the text of the second cell.
fn rows(path: &str) -> Vec<(String, String)> {
    let text = text(path);
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split(" | ");
        let names = cells.next().unwrap_or_default();
        let second = cells.next().unwrap_or_default();
        let names = names.split('`').skip(1).step_by(2);
        rows.extend(names.map(|name| (name.to_owned(), second.trim().to_owned())));
    }
    rows
}

fn names(path: &str) -> Vec<String> {
    rows(path).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn every_drop_reason_has_its_row_in_the_order_of_the_map() {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names("docs/reference/drop-reasons.md"), reasons);
}

/// The maps of the programs, by the attribute that names them.
fn maps() -> Vec<String> {
    let mut names = Vec::new();
    for path in files(&root().join("netd-ebpf/src"), ".rs") {
        if path.components().any(|part| part.as_os_str() == "bench") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        let attributes = text.split("#[btf_map(name = \"").skip(1);
        names.extend(attributes.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    names.sort();
    // One map may be several objects'.
    names.dedup();
    names
}

#[test]
fn every_map_has_its_row() {
    let maps = maps();
    assert!(maps.len() > 20, "only {} maps were found", maps.len());
    let mut documented = names("docs/reference/maps.md");
    documented.sort();
    assert_eq!(documented, maps);
}

#[test]
fn every_setting_has_its_row_with_its_default() {
    // That the example names every setting with its default is a test of netd's own.
    let example = text("dist/netd.toml");
    let mut settings = Vec::new();
    for line in example.lines() {
        if line.starts_with('[') {
            settings.push((line.to_owned(), String::new()));
        } else if let Some((name, value)) = line.strip_prefix('#').and_then(|l| l.split_once(" = "))
            && !name.starts_with(' ')
        {
            settings.push((name.to_owned(), value.to_owned()));
        }
    }
    assert!(settings.len() > 20, "{settings:?}");
    let mut rows = rows("docs/reference/settings.md");
    for (name, default) in &mut rows {
        if name.starts_with('[') {
            default.clear();
        }
    }
    assert_eq!(rows, settings);
}

/// What the documents look at with bpftool lies where this layout's maps are pinned.
#[test]
fn documents_name_the_pins_of_this_layout() {
    let dir = format!("netd/v{}/", abi::VERSION);
    let mut pins = 0;
    for path in files(&root(), ".md") {
        let text = fs::read_to_string(&path).expect("a document");
        for (at, _) in text.match_indices("/sys/fs/bpf/netd/v") {
            let pin = &text[at + "/sys/fs/bpf/".len()..];
            assert!(pin.starts_with(&dir), "{}: not in {dir}", path.display());
            pins += 1;
        }
    }
    assert!(pins > 0, "no pin is shown any more");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for path in files(&root(), ".md") {
        let text = fs::read_to_string(&path).expect("a document");
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets {
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            let there = path.parent().expect("a directory").join(file);
            assert!(there.exists(), "{}: {target}", path.display());
            links += 1;
        }
    }
    assert!(links > 30, "only {links} links");
}

#[test]
fn every_meant_difference_from_libvirt_has_its_row() {
    let document = text("docs/reference/libvirt.md");
    for row in netd_tests::documents::known::rows() {
        assert!(document.contains(&format!("\n| {row} |")), "no row: {row}");
    }
}
