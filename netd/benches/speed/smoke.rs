//! The benchmark still runs: its smallest case, end to end. No speed is asserted.

mod bench;

use std::fs;

use anyhow::Result;
use serde_json::Value;

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_smallest_benchmark_gets_through() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (json, svg) = (directory.path().join("json"), directory.path().join("svg"));
    let words = ["bench", "--smallest", "--only", "latency,flows", "--json"];
    let words = words.map(Into::into).into_iter();
    let files = [json.clone().into(), "--svg".into(), svg.clone().into()];
    bench::perform(words.chain(files))?;

    let result: Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    let samples = result["samples"].as_array().expect("a list of samples");
    for peer in ["empty", "limit", "limit-tc", "plain", "nft", "netd"] {
        let delivered: Vec<_> = samples
            .iter()
            .filter(|sample| sample["peer"] == peer && sample["unit"] == "share delivered")
            .filter_map(|sample| sample["value"].as_f64())
            .collect();
        // There and back.
        assert_eq!(delivered.len(), 2, "{peer}");
        assert!(
            delivered.iter().all(|share| (0.99..1.01).contains(share)),
            "{peer}: {delivered:?} of the packets"
        );
    }
    for peer in ["limit-tc", "plain", "nft", "netd"] {
        let (at_taps, others): (Vec<_>, Vec<_>) = samples
            .iter()
            .filter(|sample| sample["peer"] == peer && sample["unit"] == "µs")
            .partition(|sample| {
                sample["case"]
                    .as_str()
                    .is_some_and(|case| case.contains("tap"))
            });
        // By TCP and UDP, median and 99th percentile.
        assert_eq!((at_taps.len(), others.len()), (4, 4), "{peer}");
    }
    assert!(fs::read_to_string(&svg)?.contains("<polyline"));
    Ok(())
}
