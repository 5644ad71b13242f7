//! The kernel takes every program, and what that costs its verifier.

use aya::programs::SchedClassifier;

use crate::lab::load;

/// The verifier gives up at a million; this leaves room for other kernels, which count
/// differently, and notices a program that explodes.
const MOST_INSTRUCTIONS: u32 = 200_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_program_loads_within_reason() {
    let mut ebpf = load();
    let mut names = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let program: &mut SchedClassifier = program.try_into().expect("a classifier");
        let info = program.info().expect("a loaded program");
        let verified = info.verified_instruction_count().expect("Linux 5.16");
        println!(
            "{name}: {verified} instructions verified, {} bytes translated",
            info.size_translated().unwrap_or(0)
        );
        assert!(verified < MOST_INSTRUCTIONS, "{name}: {verified}");
        names.push(name.to_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "bridge_egress",
            "bridge_ingress",
            "port_ingress",
            "tunnel_egress",
            "tunnel_ingress",
            "uplink_egress",
            "uplink_ingress",
        ]
    );
}
