//! How long the established path takes. Printed, never asserted: the machine may be busy.

use netd_common::abi::{Flow4, FlowKey4};

use crate::fixture::{Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab, now};
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
    (flow.addr_diff, flow.port_diff) = (0, 0);
    flow.out_dmac = NAT_MAC;
    (key, flow)
}

fn measure(lab: &mut Lab, name: &str, program: &str, device: &str, packet: &[u8], wanted: Verdict) {
    let flow = guest_to_server(TCP, 40000, 80).established();
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
        "{name}: {} ns (fastest {}, 9 of 10 below {})",
        times[MEASUREMENTS / 2],
        times[0],
        times[MEASUREMENTS * 9 / 10]
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_established_path() {
    let mut lab = lab();
    let there = up(tcp(GUEST, 40000, SERVER, 80, ACK)).ttl(255).bytes();
    let back = down(tcp(SERVER, 80, UP0, 40000, ACK)).ttl(255).bytes();
    let own = down(udp(SERVER, 80, UP0, 22)).bytes();
    let sibling = udp(GUEST, 1, GUEST2, 2).macs(GUEST2_MAC, GUEST_MAC).bytes();
    // What a test run itself takes, as far as a program can show: it looks at one field.
    let mut arp = there.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for (name, program, device, packet, wanted) in [
        ("ARP", "port_ingress", "nat1", arp, Verdict::Pass),
        ("TCP out", "port_ingress", "nat1", there, Verdict::Redirect),
        ("TCP back", "uplink_ingress", "up0", back, Verdict::Redirect),
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
