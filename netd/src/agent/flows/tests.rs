use netd_common::abi::{FLOW_NAT, FLOW_REPLY, Flow4, FlowKey4, NextHop};
use netd_common::clock::ticks;
use netd_common::timeout::DEFAULT_TIMEOUTS;

use super::*;
use crate::api::{Flow, FlowJoin};

const BRIDGE: u32 = 5;
const UPLINK: u32 = 2;
const PORT: u32 = 9;

fn look(filter: FlowFilter) -> FlowLook {
    FlowLook {
        dir: PathBuf::new(),
        timeouts: DEFAULT_TIMEOUTS,
        respecting: BTreeSet::new(),
        filtered: BTreeSet::new(),
        bridge: None,
        guests: filter.guests.iter().copied().collect(),
        filter,
    }
}

fn hop(ifindex: u32) -> NextHop {
    NextHop {
        ifindex,
        ..NextHop::default()
    }
}

/// A guest's connection that is masqueraded: its key and both entries.
fn masqueraded() -> (FlowKey4, Flow4, Flow4) {
    let key = FlowKey4 {
        src: [10, 0, 0, 2],
        dst: [192, 0, 2, 1],
        sport: 5000u16.to_be_bytes(),
        dport: 443u16.to_be_bytes(),
        proto: proto::TCP,
        ..FlowKey4::default()
    };
    let opener = Flow4 {
        new_src: [198, 51, 100, 2],
        new_dst: key.dst,
        new_sport: 1024u16.to_be_bytes(),
        new_dport: key.dport,
        flags: FLOW_NAT,
        state: State::Established as u8,
        in_bridge: BRIDGE,
        next_hop: hop(UPLINK),
        last_seen: 100,
        packets: 3,
        bytes: 300,
        ..Flow4::default()
    };
    let answering = Flow4 {
        new_src: key.dst,
        new_dst: key.src,
        new_sport: key.dport,
        new_dport: key.sport,
        flags: FLOW_NAT | FLOW_REPLY,
        state: State::Established as u8,
        out_bridge: BRIDGE,
        next_hop: hop(PORT),
        last_seen: 110,
        packets: 2,
        bytes: 2000,
        ..Flow4::default()
    };
    (key, opener, answering)
}

/// The flow as clients put it together.
fn told(
    look: &FlowLook,
    key: &FlowKey4,
    opener: &Flow4,
    answering: &Flow4,
    now: u32,
) -> Option<Flow> {
    let mut join = FlowJoin::default();
    assert_eq!(join.add(look.half(key, opener, now)), None);
    join.add(look.half(&opener.partner(key.proto), answering, now))
}

#[test]
fn a_flow_is_told_with_both_sides_of_its_translation() {
    let (key, opener, answering) = masqueraded();
    let look = look(FlowFilter::default());
    let flow = told(&look, &key, &opener, &answering, 120).unwrap();
    assert_eq!(flow.sent.source, "10.0.0.2:5000".parse().unwrap());
    assert_eq!(flow.sent.destination, "192.0.2.1:443".parse().unwrap());
    assert_eq!(
        flow.translated_source(),
        Some("198.51.100.2:1024".parse().unwrap())
    );
    assert_eq!(flow.translated_destination(), None);
    assert_eq!(flow.state_name(), "established");
    assert_eq!((flow.sent.bridge, flow.received.bridge), (BRIDGE, 0));
    assert_eq!((flow.sent.way_out, flow.received.way_out), (UPLINK, PORT));
    assert!(!flow.sent.by_stack && !flow.received.by_stack);
    assert_eq!((flow.sent.packets, flow.received.bytes), (3, 2000));
    // The later of the two, ten ticks ago; the timeout is rounded up to a tick.
    assert_eq!((flow.idle, flow.expires), (10, 432_000 - 10));
}

#[test]
fn of_a_published_port_the_destination_is_told() {
    let key = FlowKey4 {
        src: [192, 0, 2, 1],
        dst: [198, 51, 100, 2],
        sport: 4000u16.to_be_bytes(),
        dport: 8080u16.to_be_bytes(),
        proto: proto::UDP,
        ..FlowKey4::default()
    };
    let opener = Flow4 {
        new_src: key.src,
        new_dst: [10, 0, 0, 2],
        new_sport: key.sport,
        new_dport: 80u16.to_be_bytes(),
        out_bridge: BRIDGE,
        ..Flow4::default()
    };
    let answering = Flow4 {
        new_src: key.dst,
        new_dst: key.src,
        new_sport: key.dport,
        new_dport: key.sport,
        flags: FLOW_REPLY,
        in_bridge: BRIDGE,
        ..Flow4::default()
    };
    let all = look(FlowFilter::default());
    let flow = told(&all, &key, &opener, &answering, 0).unwrap();
    assert_eq!(flow.translated_source(), None);
    assert_eq!(
        flow.translated_destination(),
        Some("10.0.0.2:80".parse().unwrap())
    );
    assert_eq!((flow.sent.bridge, flow.received.bridge), (0, BRIDGE));
    assert_eq!(flow.state_name(), "new");
    let of_guest = look(FlowFilter {
        guests: vec!["10.0.0.2".parse().unwrap()],
        ..FlowFilter::default()
    });
    assert!(of_guest.means(&key, &opener));
    assert!(of_guest.means(&opener.partner(key.proto), &answering));
}

#[test]
fn a_flow_that_was_silent_for_too_long_is_over() {
    let (key, mut opener, mut answering) = masqueraded();
    for entry in [&mut opener, &mut answering] {
        entry.state = State::TimeWait as u8;
    }
    let look = look(FlowFilter::default());
    let end = 110 + ticks(120);
    assert!(look.lives(proto::TCP, &opener, &answering, end));
    assert!(!look.lives(proto::TCP, &opener, &answering, end + 1));
    let flow = told(&look, &key, &opener, &answering, end).unwrap();
    assert_eq!(flow.expires, 0);
    assert_eq!(told(&look, &key, &opener, &answering, end + 1), None);
}

#[test]
fn what_the_stack_carries_is_told() {
    let (key, opener, answering) = masqueraded();
    let stack = |look: &FlowLook, opener: &Flow4, answering: &Flow4| {
        let flow = told(look, &key, opener, answering, 120).unwrap();
        (flow.sent.by_stack, flow.received.by_stack)
    };
    let plain = look(FlowFilter::default());
    let routed = Flow4 {
        next_hop: hop(0),
        ..opener
    };
    assert_eq!(stack(&plain, &routed, &answering), (true, false));
    let given = Flow4 {
        flags: opener.flags | FLOW_IN_STACK,
        ..opener
    };
    assert_eq!(stack(&plain, &given, &answering), (true, false));
    let filtered = FlowLook {
        filtered: BTreeSet::from([UPLINK]),
        ..look(FlowFilter::default())
    };
    assert_eq!(stack(&filtered, &opener, &answering), (false, true));
    let respecting = FlowLook {
        respecting: BTreeSet::from([BRIDGE]),
        ..look(FlowFilter::default())
    };
    let proven = Flow4 {
        flags: opener.flags | FLOW_PROVEN,
        ..opener
    };
    assert_eq!(stack(&respecting, &opener, &answering), (true, true));
    assert_eq!(stack(&respecting, &proven, &answering), (false, true));
}

#[test]
fn a_filter_means_what_is_all_of_it() {
    let (key, opener, answering) = masqueraded();
    let guest = |address: &str| FlowFilter {
        guests: vec![address.parse().unwrap()],
        ..FlowFilter::default()
    };
    let port = |port| FlowFilter {
        port: Some(port),
        ..FlowFilter::default()
    };
    let protocol = |protocol| FlowFilter {
        protocol: Some(protocol),
        ..FlowFilter::default()
    };
    let address = |prefix: &str| FlowFilter {
        address: Some(prefix.parse().unwrap()),
        ..FlowFilter::default()
    };
    let cases = [
        (FlowFilter::default(), true),
        (guest("10.0.0.2"), true),
        // It is the peer's address, and no guest's.
        (guest("192.0.2.1"), false),
        (guest("10.0.0.3"), false),
        (port(443), true),
        (port(5000), true),
        (port(1024), true),
        (port(0), false),
        (protocol(6), true),
        (protocol(17), false),
        (address("192.0.2.0/24"), true),
        (address("198.51.100.2"), true),
        (address("203.0.113.0/24"), false),
        (address("::/0"), false),
        (
            FlowFilter {
                port: Some(443),
                ..protocol(17)
            },
            false,
        ),
    ];
    for (filter, wanted) in cases {
        let look = look(filter.clone());
        assert_eq!(look.means(&key, &opener), wanted, "{filter:?}");
        let means = look.means(&opener.partner(key.proto), &answering);
        assert_eq!(means, wanted, "by its other entry: {filter:?}");
    }
    for (bridge, wanted) in [(BRIDGE, true), (6, false)] {
        let network = FlowLook {
            bridge: Some(bridge),
            ..look(FlowFilter::default())
        };
        assert_eq!(network.means(&key, &opener), wanted);
    }
}

#[test]
fn places_come_back_and_others_are_refused() {
    for ipv6 in [false, true] {
        for bucket in [None, Some(0), Some(7), Some(u32::MAX)] {
            let place = Place { ipv6, bucket };
            assert_eq!(Place::from_number(place.number()), Some(place));
        }
    }
    assert_eq!(Place::from_number(0), Some(Place::default()));
    for number in [1, 1 << 34, u64::MAX, 2 << 32 | 5] {
        assert_eq!(Place::from_number(number), None, "{number}");
    }
}
