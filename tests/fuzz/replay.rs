//! Replays the corpus of every fuzz target (`fuzz/corpus/TARGET/*`).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Fewer files than this are no corpus.
const LEAST: usize = 10;

#[test]
fn every_file_of_the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut failed = Vec::new();
    for (name, target) in targets::TARGETS {
        let directory = corpus.join(name);
        let mut count = 0;
        for entry in fs::read_dir(&directory).expect("every target has a corpus") {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
                failed.push(path);
            }
            count += 1;
        }
        assert!(count >= LEAST, "{} has {count} files", directory.display());
        println!("{name}: {count} files");
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// The corpus and the list of targets name the same.
#[test]
fn no_corpus_without_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for entry in fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            targets::TARGETS.iter().any(|(target, _)| **target == *name),
            "nothing replays {}",
            name.display()
        );
    }
}
