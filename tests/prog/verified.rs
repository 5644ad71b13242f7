//! How many instructions the kernel's verifier walks for each program, held to a record.
//!
//! `verified.json` has the numbers by kernel series (`6.1`, `6.18`) and program. A program may cost a
//! tenth more than its record, not because kernels and compilers differ by as much, but so that a
//! small change needs no new record; whoever means more runs `cargo xtask verifier --write`.

use std::collections::BTreeMap;
use std::time::Instant;

use aya::EbpfLoader;
use netd::datapath::Kernel;

use crate::lab::{FLOWS, load};

const RECORD: &str = include_str!("verified.json");

/// How much a program may exceed its record, in percent.
const MARGIN: u64 = 10;

/// Instructions by program.
type Counts = BTreeMap<String, u32>;

/// `6.18` of `6.18.44-cloud-amd64`.
fn series(release: &str) -> String {
    let mut numbers = release.split(['.', '-']);
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    format!("{major}.{minor}")
}

fn record() -> BTreeMap<String, Counts> {
    serde_json::from_str(RECORD).expect("verified.json: kernel series, program, number")
}

/// What is wrong with the counts, beside their record.
fn faults(counts: &Counts, recorded: &Counts) -> Vec<String> {
    let mut faults = Vec::new();
    for (program, &count) in counts {
        match recorded.get(program) {
            None => faults.push(format!("{program}: {count} instructions, not recorded")),
            Some(&was) if u64::from(count) * 100 > u64::from(was) * (100 + MARGIN) => {
                faults.push(format!(
                    "{program}: {count} instructions, recorded are {was}"
                ));
            }
            Some(_) => {}
        }
    }
    for program in recorded.keys().filter(|name| !counts.contains_key(*name)) {
        faults.push(format!("{program}: recorded, but there is no such program"));
    }
    faults
}

/// `cargo xtask verifier` and `cargo xtask vm` read the lines that begin with `verified `.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_program_costs_the_verifier_more_than_recorded() {
    let release = rustix::system::uname();
    let series = series(&release.release().to_string_lossy());
    let kernel =
        Kernel::probe(None, &mut EbpfLoader::new()).expect("the kernel has what netd needs");
    println!("\nfeature: programs at devices by {}", kernel.tc);
    for feature in &kernel.lacks {
        println!("feature: without {feature}");
    }
    let start = Instant::now();
    let mut ebpf = load(FLOWS);
    println!("loaded in {} ms", start.elapsed().as_millis());
    let mut counts = Counts::new();
    for (name, program) in ebpf.programs_mut() {
        let info = program.info().expect("a loaded program");
        let count = info.verified_instruction_count().expect("Linux 5.16");
        println!("verified {series} {name} {count}");
        counts.insert(name.to_owned(), count);
    }
    if std::env::var_os("NETD_VERIFIED_PRINT").is_some() {
        return;
    }
    let Some(recorded) = record().remove(&series) else {
        eprintln!(
            "SKIPPED: Linux {series} has no record in tests/prog/verified.json; \
             its numbers: {counts:?}"
        );
        return;
    };
    let faults = faults(&counts, &recorded);
    assert!(
        faults.is_empty(),
        "the verifier's work changed (cargo xtask verifier --write records it anew):\n{}",
        faults.join("\n")
    );
}

#[test]
fn a_tenth_more_is_the_limit() {
    let recorded = Counts::from([("a".into(), 1000), ("b".into(), 1000), ("gone".into(), 5)]);
    let counts = Counts::from([("a".into(), 1100), ("b".into(), 1101), ("new".into(), 7)]);
    assert_eq!(
        faults(&counts, &recorded),
        [
            "b: 1101 instructions, recorded are 1000",
            "new: 7 instructions, not recorded",
            "gone: recorded, but there is no such program",
        ]
    );
    assert_eq!(faults(&recorded, &recorded), [""; 0]);
}

#[test]
fn a_series_is_two_numbers() {
    assert_eq!(series("6.18.44-fc-v657"), "6.18");
    assert_eq!(series("6.1.0-50-cloud-amd64"), "6.1");
    assert_eq!(series("7.2-amd64"), "7.2");
    assert!(record().keys().all(|name| series(name) == *name));
}
