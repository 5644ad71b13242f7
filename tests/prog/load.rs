//! The kernel takes every program, and what that costs its verifier.

use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData};
use netd_common::abi::{Addr4, Control, FLOW_REPLY, Flow4, FlowKey4, SWEEP_RUN, Slot};
use netd_common::timeout::DEFAULT_TIMEOUTS;

use crate::lab::{FLOWS, call, load, now, take};

/// The verifier gives up at a million; this leaves room for other kernels, which count
/// differently, and notices a program that explodes.
const MOST_INSTRUCTIONS: u32 = 500_000;

/// With nobody at home, the timer alone takes out what is dead.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_timer_sweeps() {
    let mut ebpf = load(FLOWS);
    let mut control: Array<MapData, Control> = take(&mut ebpf, "control");
    let mut flows: HashMap<MapData, FlowKey4, Flow4> = take(&mut ebpf, "flows4");
    let mut slots: Array<MapData, Slot<Addr4>> = take(&mut ebpf, "slots4");
    control
        .set(
            0,
            Control {
                slots: FLOWS,
                timeouts: DEFAULT_TIMEOUTS,
                ..Control::default()
            },
            0,
        )
        .expect("control");
    let entry = |proto, last_seen| {
        let key = FlowKey4 {
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
            proto,
            ..FlowKey4::default()
        };
        let there = Flow4 {
            new_src: key.src,
            new_dst: key.dst,
            slot: FLOWS - u32::from(proto),
            last_seen,
            ..Flow4::default()
        };
        let back = Flow4 {
            new_src: key.dst,
            new_dst: key.src,
            flags: FLOW_REPLY,
            last_seen,
            ..Flow4::default()
        };
        [(key, there), (key.reversed(), back)]
    };
    let (dead, alive) = (entry(1, now().wrapping_sub(50_000)), entry(2, now()));
    for [(key, there), (back_key, back)] in [dead, alive] {
        flows.insert(key, there, 0).expect("flows4");
        flows.insert(back_key, back, 0).expect("flows4");
        let slot = Slot {
            key,
            used: 1,
            pad: 0,
        };
        slots.set(there.slot, slot, 0).expect("slots4");
    }
    assert_eq!(call(&ebpf, "sweep_start"), 0);
    // An agent that starts again sets it anew.
    assert_eq!(call(&ebpf, "sweep_start"), 0);
    // It goes round once in 64 s, and visits the last slots last: move it there.
    for _ in 0..FLOWS / SWEEP_RUN {
        call(&ebpf, "sweep");
    }
    assert!(flows.get(&dead[0].0, 0).is_err(), "a sweep of everything");
    for (key, flow) in dead {
        flows.insert(key, flow, 0).expect("flows4");
    }
    let slot = Slot {
        key: dead[0].0,
        used: 1,
        pad: 0,
    };
    // The slots that the timer visits next.
    for index in 0..200 {
        slots.set(index, slot, 0).expect("slots4");
    }
    let mut first = dead[0].1;
    first.slot = 40;
    flows.insert(dead[0].0, first, 0).expect("flows4");
    // Soon, but for a machine so busy meanwhile that the timer comes by in its next round.
    let deadline = Instant::now() + Duration::from_secs(180);
    while flows.get(&dead[0].0, 0).is_ok() {
        assert!(Instant::now() < deadline, "the timer does not run");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(flows.get(&dead[1].0, 0).is_err(), "both halves");
    for (key, _) in alive {
        assert!(flows.get(&key, 0).is_ok(), "in use");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_program_loads_within_reason() {
    let mut ebpf = load(FLOWS);
    let mut names = Vec::new();
    for (name, program) in ebpf.programs_mut() {
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
            "connect4",
            "connect6",
            "enter",
            "from_guest",
            "from_outside",
            "getpeername4",
            "getpeername6",
            "port_ingress",
            "port_xdp",
            "recvmsg4",
            "recvmsg6",
            "sendmsg4",
            "sendmsg6",
            "services_ingress",
            "shaper_ingress",
            "sweep",
            "sweep_start",
            "to_outside",
            "tunnel_egress",
            "tunnel_ingress",
            "uplink_egress",
            "uplink_ingress",
            "uplink_xdp",
        ]
    );
}
