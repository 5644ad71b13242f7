//! How long the established path takes. Printed, never asserted: the machine may be busy.

use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netd_common::abi::{Addr4, Control, FLOW_REPLY, Flow4, FlowKey4, SWEEP_RUN, Slot};
use netd_common::state::State;
use netd_common::timeout::DEFAULT_TIMEOUTS;

use crate::fixture::{Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab, load, now, take};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{ACK, ETH, TCP, tcp, udp};

/// Packets of one measurement: less than a TTL has hops.
const REPEAT: u32 = 200;
const MEASUREMENTS: usize = 501;

/// A test run gives a program the packet as its last round left it. So the flow translates to
/// what the packet has already: the same instructions, and the packet stays that flow's.
fn to_itself((key, mut flow): (FlowKey4, Flow4)) -> (FlowKey4, Flow4) {
    (flow.new_src, flow.new_dst) = (key.src, key.dst);
    (flow.new_sport, flow.new_dport) = (key.sport, key.dport);
    flow.addr_diff = 0;
    flow.next_hop.dmac = flow.in_dmac;
    (key, flow)
}

fn measure(lab: &mut Lab, name: &str, program: &str, device: &str, packet: &[u8], wanted: Verdict) {
    let flow = guest_to_server(packet[ETH + 9], 40000, 80).established();
    let mut times: Vec<u128> = Vec::with_capacity(MEASUREMENTS);
    while times.len() < MEASUREMENTS {
        let tick = now();
        for entry in flow.entries(lab) {
            lab.set_flow(to_itself(entry));
        }
        let device = lab.ifindex(device);
        let outcome = run(lab, program, device, device, 0, REPEAT, packet);
        if now() != tick {
            // The flow was looked at again on the way, and it is none that bears it.
            continue;
        }
        assert_eq!(outcome.verdict, wanted, "{name}");
        // Every round was a hop.
        let hops = if wanted == Verdict::Redirect {
            REPEAT
        } else {
            0
        };
        let ttl = outcome.packet[ETH + 8];
        assert_eq!(u32::from(packet[ETH + 8] - ttl), hops, "{name}");
        times.push(outcome.nanoseconds);
    }
    times.sort_unstable();
    println!(
        "{program}, {name}: {} ns (fastest {}, 9 of 10 below {})",
        times[MEASUREMENTS / 2],
        times[0],
        times[MEASUREMENTS * 9 / 10]
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_established_path() {
    let mut lab = lab();
    for device in ["nat1", "up0"] {
        lab.set_xdp_target(device, true);
    }
    let there = up(tcp(GUEST, 40000, SERVER, 80, ACK)).ttl(255).bytes();
    let back = down(tcp(SERVER, 80, UP0, 40000, ACK)).ttl(255).bytes();
    let datagram = up(udp(GUEST, 40000, SERVER, 80)).ttl(255).bytes();
    let answer = down(udp(SERVER, 80, UP0, 40000)).ttl(255).bytes();
    let own = down(udp(SERVER, 80, UP0, 22)).bytes();
    let sibling = udp(GUEST, 1, GUEST2, 2).macs(GUEST2_MAC, GUEST_MAC).bytes();
    // What a test run itself takes, as far as a program can show: it looks at one field.
    let mut arp = there.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    // What is left to TC: after a look at the headers, and after one into the table.
    let fragment = up(udp(GUEST, 40000, SERVER, 80)).fragment(5).bytes();
    let stranger = up(udp(GUEST, 40001, SERVER, 80)).bytes();
    for (name, program, device, packet, wanted) in [
        ("ARP", "port_ingress", "nat1", arp.clone(), Verdict::Pass),
        ("ARP", "port_xdp", "nat1", arp, Verdict::Pass),
        ("fragment", "port_xdp", "nat1", fragment, Verdict::Pass),
        ("no flow", "port_xdp", "nat1", stranger, Verdict::Pass),
        ("TCP out", "port_ingress", "nat1", there, Verdict::Redirect),
        ("TCP back", "uplink_ingress", "up0", back, Verdict::Redirect),
        (
            "UDP out",
            "port_ingress",
            "nat1",
            datagram.clone(),
            Verdict::Redirect,
        ),
        (
            "UDP back",
            "uplink_ingress",
            "up0",
            answer.clone(),
            Verdict::Redirect,
        ),
        ("UDP out", "port_xdp", "nat1", datagram, Verdict::Redirect),
        ("UDP back", "uplink_xdp", "up0", answer, Verdict::Redirect),
        ("to the host", "uplink_ingress", "up0", own, Verdict::Pass),
        (
            "to a sibling",
            "port_ingress",
            "nat1",
            sibling,
            Verdict::Pass,
        ),
    ] {
        measure(&mut lab, name, program, device, &packet, wanted);
    }
}

/// Flows of the table that is swept: far more than a processor's caches hold.
const SWEPT: u32 = 262_144;
/// The timer visits every slot once in so many runs, one each quarter of a second.
const RUNS: u32 = 256;

/// P60: what the sweep of a table full of living flows costs, by the program's own clock.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p60_the_sweep_of_living_flows() {
    let mut ebpf = load(SWEPT);
    let mut control: Array<MapData, Control> = take(&mut ebpf, "control");
    let mut flows: HashMap<MapData, FlowKey4, Flow4> = take(&mut ebpf, "flows4");
    let mut slots: Array<MapData, Slot<Addr4>> = take(&mut ebpf, "slots4");
    let settings = Control {
        slots: SWEPT,
        timeouts: DEFAULT_TIMEOUTS,
        ..Control::default()
    };
    control.set(0, settings, 0).expect("control");
    for slot in 0..SWEPT {
        let [_, a, b, c] = slot.to_be_bytes();
        let key = FlowKey4 {
            src: [10, a, b, c],
            dst: SERVER,
            proto: TCP,
            ..FlowKey4::default()
        };
        let there = Flow4 {
            new_src: key.src,
            new_dst: key.dst,
            state: State::Established as u8,
            last_seen: now(),
            slot,
            ..Flow4::default()
        };
        let back = Flow4 {
            new_src: key.dst,
            new_dst: key.src,
            flags: FLOW_REPLY,
            ..there
        };
        flows.insert(key, there, 0).expect("flows4");
        flows.insert(key.reversed(), back, 0).expect("flows4");
        let taken = Slot {
            key,
            used: 1,
            pad: 0,
        };
        slots.set(slot, taken, 0).expect("slots4");
    }
    let program: &SchedClassifier = ebpf
        .program("sweep")
        .expect("sweep")
        .try_into()
        .expect("a classifier");
    let packet = [0u8; 64];
    let mut nanoseconds = 0;
    for _ in 0..SWEPT / SWEEP_RUN {
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::default()
            })
            .expect("a run");
        assert_eq!(result.return_value, 0, "a living flow was removed");
        nanoseconds += result.duration.as_nanos();
    }
    // Both families are visited, of which IPv6's slots are free.
    let per_slot = nanoseconds / u128::from(SWEPT);
    let per_run = per_slot * u128::from(SWEPT / RUNS);
    println!(
        "sweep: {per_slot} ns for a flow; {SWEPT} flows take {} us every 250 ms: {:.3} % of a CPU",
        per_run / 1000,
        per_run as f64 / 2_500_000.0
    );
}
