//! The benchmark still runs: its smallest case, end to end. No speed is asserted.

mod bench;

use std::sync::Arc;

use bench::{Choice, Effort, Phase};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_smallest_benchmark_delivers_every_packet() {
    let choice = Choice {
        effort: Effort::smallest(),
        phases: vec![Phase::Flows],
        interrupted: Arc::default(),
    };
    let report = bench::run(&choice).unwrap_or_else(|error| panic!("{error:?}"));
    for (peer, delivered) in report.delivered() {
        assert!(delivered > 0.99, "{peer}: {delivered} of the packets");
    }
    for peer in ["netd", "plain", "limit", "limit-tc", "nft"] {
        assert!(
            report.delivered().any(|(measured, _)| measured == peer),
            "{peer} was not measured:\n{}",
            report.text()
        );
    }
    let json: serde_json::Value = report
        .json()
        .and_then(|text| Ok(serde_json::from_str(&text)?))
        .expect("the samples as JSON");
    assert!(
        json["samples"]
            .as_array()
            .is_some_and(|list| list.len() > 10)
    );
    assert!(bench::plot(&report).contains("<svg"));
}
