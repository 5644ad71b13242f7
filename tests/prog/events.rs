//! What the programs tell of a drop.

use netd_common::Reason;
use netd_common::abi::{Addr4, DropEvent};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::fixture::run;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::up;
use crate::packet::{SYN, TCP, UDP, echo, tcp, udp};

fn four(address: Addr4) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

fn refused(lab: &Lab, device: &str, frame: &[u8]) {
    let ifindex = lab.ifindex(device);
    run(lab, "port_ingress", ifindex, ifindex, 0, 1, frame);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_drop_is_told_with_who_and_why() {
    let mut lab = lab();
    lab.allow_events();
    lab.events();
    let isolated =
        |packet: crate::packet::Packet| packet.macs(ISOLATED_MAC, ISOLATED_GUEST_MAC).bytes();
    let frames = [
        isolated(tcp(ISOLATED_GUEST, 4000, SERVER, 80, SYN)),
        isolated(echo(ISOLATED_GUEST, SERVER, 7)),
        udp(ISOLATED_GUEST6, 4000, SERVER6, 53)
            .macs(ISOLATED_MAC, ISOLATED_GUEST_MAC)
            .bytes(),
    ];
    for frame in &frames {
        refused(&lab, "isolated1", frame);
    }
    let device = lab.ifindex("isolated1");
    let common = |frame: &[u8], kind: u16, proto| DropEvent {
        reason: Reason::Isolated as u32,
        ifindex: device,
        len: frame.len() as u32,
        ether_type: kind.to_be_bytes(),
        proto,
        ..DropEvent::default()
    };
    let wanted = [
        DropEvent {
            sport: 4000u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            src: four(ISOLATED_GUEST),
            dst: four(SERVER),
            ..common(&frames[0], 0x0800, TCP)
        },
        DropEvent {
            src: four(ISOLATED_GUEST),
            dst: four(SERVER),
            ..common(&frames[1], 0x0800, 1)
        },
        DropEvent {
            sport: 4000u16.to_be_bytes(),
            dport: 53u16.to_be_bytes(),
            src: ISOLATED_GUEST6,
            dst: SERVER6,
            ..common(&frames[2], 0x86dd, UDP)
        },
    ];
    let told: Vec<DropEvent> = lab.events();
    let told: Vec<DropEvent> = told
        .into_iter()
        .map(|event| {
            assert_ne!(event.time, 0);
            // Tests before this one may have dropped more than is told of.
            DropEvent {
                time: 0,
                suppressed: 0,
                ..event
            }
        })
        .collect();
    assert_eq!(told, wanted);
}

/// A flood is counted, and told of no faster than anybody reads.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_of_drops_is_no_flood_of_records() {
    let mut lab = lab();
    // What is not told is counted by processor.
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    let all = sched_getaffinity(None).expect("this thread's processors");
    sched_setaffinity(None, &one).expect("one of them");
    lab.allow_events();
    lab.events();
    let before = lab.drops()["foreign_source"];
    let packet = up(tcp([10, 9, 9, 9], 4000, SERVER, 80, SYN)).bytes();
    for _ in 0..1000 {
        refused(&lab, "nat1", &packet);
    }
    assert_eq!(lab.drops()["foreign_source"] - before, 1000);
    let first = lab.events();
    // Its bucket, filled again meanwhile where that took long.
    assert!((50..=600).contains(&first.len()), "{}", first.len());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut told = first.len() as u32;
    for _ in 0..50 {
        refused(&lab, "nat1", &packet);
    }
    let second = lab.events();
    told += second.len() as u32;
    let suppressed: u32 = first.iter().chain(&second).map(|e| e.suppressed).sum();
    assert!(suppressed > 0, "nothing was said of what was not told");
    assert!(told + suppressed <= 1050, "{told} and {suppressed}");
    sched_setaffinity(None, &all).expect("as before");
}
