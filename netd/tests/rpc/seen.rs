//! What the agent in memory has seen of guests.

use netd::api::{
    Carried, Direction, DropRecord, DropStatus, Drops, FlowHalf, FlowNames, FlowPiece,
    GuestAddress, GuestPort, HookStatus, KernelStatus, LackStatus, MapStatus, NetworkStatus,
    PortAddress, PortGuest, Problem, ProgramStatus, Status, WaitingNetwork,
};
use netd_common::state::State;
use uuid::Uuid;

/// Something of everything.
pub fn status(waiting: Vec<WaitingNetwork>) -> Status {
    Status {
        schema: 1,
        version: "9.9.9".into(),
        kernel: Some(KernelStatus {
            lacks: vec![LackStatus::default()],
            ..KernelStatus::default()
        }),
        networks: vec![NetworkStatus {
            name: "n1".into(),
            ports: vec!["vnet0".into()],
            ..NetworkStatus::default()
        }],
        waiting,
        hooks: vec![HookStatus {
            programs: vec![ProgramStatus::default()],
            ..HookStatus::default()
        }],
        maps: vec![MapStatus::default()],
        drops: vec![counter("spoofed")],
        ..Status::default()
    }
}

/// A network that cannot start.
pub fn waiting() -> WaitingNetwork {
    WaitingNetwork {
        name: "later".into(),
        uuid: Uuid::from_u128(11),
        reason: "its subnet is in use".into(),
    }
}

fn counter(reason: &str) -> DropStatus {
    DropStatus {
        reason: reason.into(),
        packets: 12,
        ..DropStatus::default()
    }
}

/// One drop behind number `since`.
pub fn drops(since: u64) -> Drops {
    Drops {
        schema: 1,
        isolated_networks: vec!["quiet".into()],
        counters: vec![counter("isolated")],
        records: vec![DropRecord {
            number: since + 1,
            reason: "isolated".into(),
            ..DropRecord::default()
        }],
    }
}

/// Something that is wrong with n1.
pub fn problem() -> Problem {
    Problem {
        check: "host-rules".into(),
        network: Some("n1".into()),
        problem: "a rule is passed by".into(),
        remedy: "remove it".into(),
    }
}

/// Two connections in three pieces.
pub fn flows(from: u64) -> FlowPiece {
    let half = |ends: [&str; 4], way_out, answers| FlowHalf {
        protocol: 6,
        state: State::Established,
        answers,
        idle: 3,
        timeout: 100,
        packets: Direction {
            source: ends[0].parse().unwrap(),
            destination: ends[1].parse().unwrap(),
            bridge: if answers { 0 } else { 77 },
            way_out,
            by_stack: way_out == 0,
            packets: 12,
            bytes: 1200,
        },
        new_source: ends[2].parse().unwrap(),
        new_destination: ends[3].parse().unwrap(),
        is_filtered: false,
    };
    let (guest, peer, host) = (
        "192.168.177.15:4000",
        "203.0.113.1:443",
        "198.51.100.2:1024",
    );
    let (guest6, peer6) = ("[fd00::15]:4001", "[2001:db8::1]:443");
    // One is whole with the second piece, the other with the third.
    let (halves, next) = match from {
        0 => (vec![half([peer, host, peer, guest], 78, true)], 1 << 33),
        0x2_0000_0000 => {
            let first = half([guest, peer, host, peer], 2, false);
            let second = half([guest6, peer6, guest6, peer6], 0, false);
            (vec![first, second], 3 << 32 | 7)
        }
        _ => (vec![half([peer6, guest6, peer6, guest6], 78, true)], 0),
    };
    FlowPiece { halves, next }
}

/// Names for what is a number in them.
pub fn names() -> FlowNames {
    let guest = |address: &str| GuestAddress {
        address: address.parse().unwrap(),
        bridge: 77,
        mac: Some("52:54:00:00:00:aa".to_owned()),
        hostname: Some("vm1".to_owned()),
        domain: None,
        lease: None,
        seen_at: Some(78),
        seen: Some(2),
    };
    let name = |index: u32, name: &str| (index, name.to_owned());
    FlowNames {
        networks: [name(77, "n1")].into(),
        devices: [name(2, "eth0"), name(77, "virbr77"), name(78, "vnet0")].into(),
        guests: vec![guest("192.168.177.15"), guest("fd00::15")],
    }
}

/// A port of a bridge.
pub fn port(network: Option<&str>) -> GuestPort {
    let carried = Carried {
        packets: 12,
        bytes: 1200,
        dropped: 1,
    };
    GuestPort {
        network: network.unwrap_or("n1").to_owned(),
        bridge: "virbr77".to_owned(),
        device: "vnet0".to_owned(),
        ifindex: 78,
        link: "forwarding".to_owned(),
        isolated: false,
        guests: vec![PortGuest {
            mac: "52:54:00:00:00:aa".to_owned(),
            domain: Some("vm-one".to_owned()),
            hostname: Some("vm1".to_owned()),
            addresses: vec![PortAddress {
                address: "192.168.177.15".parse().unwrap(),
                lease: Some(0x6b00_c36f),
                seen: Some(2),
            }],
        }],
        sent: carried,
        received: carried,
        recent_drops: 3,
    }
}
