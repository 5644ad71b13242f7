//! What guests send to their network's services, and what those send.

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netd_common::abi::{
    Addr4, Addr6, MacAddr, NETWORK_DHCP, NETWORK_DNS, NETWORK_HOST_NONE, NETWORK_TFTP,
    PORT_SERVICES,
};
use nix::sys::socket::{LinkAddr, recvfrom};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, eth, socket_with};

use crate::fixture::{Fixture, Verdict, run};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::up;
use crate::packet::{Packet, SYN, echo, echo_reply, icmp, tcp, udp};

const BROADCAST: Addr4 = [255; 4];
const ALL_ROUTERS: Addr6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TO_ALL: MacAddr = [0xff; 6];
const TO_ROUTERS: MacAddr = [0x33, 0x33, 0, 0, 0, 2];

/// The device that leads to the services of `br-nat` here.
const LINK: &str = "up1";

/// No namespace of the lab's has this number.
const NO_NETNS: u32 = 4711;

fn serve(lab: &mut Lab, flags: u32) {
    let ifindex = lab.ifindex(LINK);
    lab.change_network("br-nat", |network| {
        network.flags = flags;
        network.services_ifindex = ifindex;
        network.services_netns = NO_NETNS;
    });
}

/// A view of what devices send: the link's counter has what the kernel itself says as well.
struct Wiretap(OwnedFd);

impl Wiretap {
    fn new() -> Self {
        let protocol: NonZeroU32 = eth::ALL.as_raw();
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(Protocol::from_raw(protocol)),
        );
        Self(socket.expect("a packet socket"))
    }

    /// Frames like this one that the link has sent since somebody last asked for any.
    fn sent(&self, lab: &Lab, frame: &[u8]) -> u64 {
        /// `PACKET_OUTGOING`.
        const OUTGOING: u8 = 4;
        let mut buffer = [0; 2048];
        let mut count = 0;
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
            let from = from.expect("where it was seen");
            let by_link = from.ifindex() == lab.ifindex(LINK) as usize;
            let is_it = from.pkttype() == OUTGOING && buffer[..length] == *frame;
            count += u64::from(by_link && is_it);
        }
        count
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn questions_to_the_gateway_go_to_the_services() {
    let mut lab = lab();
    serve(&mut lab, NETWORK_DNS | NETWORK_DHCP | NETWORK_TFTP);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    for (name, frame) in [
        ("DNS", up(udp(GUEST, 40000, NAT_GW, 53)).bytes()),
        ("DNS by TCP", up(tcp(GUEST, 40000, NAT_GW, 53, SYN)).bytes()),
        ("a lease renewed", up(udp(GUEST, 68, NAT_GW, 67)).bytes()),
        ("TFTP", up(udp(GUEST, 40000, NAT_GW, 69)).bytes()),
        ("DNS by IPv6", up(udp(GUEST6, 40000, NAT_GW6, 53)).bytes()),
    ] {
        // A port without a program leaves it to the bridge's.
        for (program, device) in [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")] {
            Fixture::new(name, program, device, frame.clone())
                .redirect(frame.clone())
                .run(&mut lab);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_host_keeps_what_is_its_own() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    let all = NETWORK_DNS | NETWORK_DHCP | NETWORK_TFTP;
    let dns = up(udp(GUEST, 40000, NAT_GW, 53)).bytes();
    for (name, flags, program, device, frame) in [
        ("no DNS", NETWORK_DHCP, "port_ingress", "nat1", dns.clone()),
        (
            "no DNS there",
            NETWORK_DHCP,
            "bridge_ingress",
            "br-nat",
            dns,
        ),
        (
            "another port",
            all,
            "port_ingress",
            "nat1",
            up(udp(GUEST, 40000, NAT_GW, 123)).bytes(),
        ),
        (
            "another protocol",
            all,
            "port_ingress",
            "nat1",
            up(tcp(GUEST, 40000, NAT_GW, 69, SYN)).bytes(),
        ),
        (
            "another network's gateway",
            all,
            "port_ingress",
            "nat1",
            up(udp(GUEST, 40000, ROUTE_GW, 53)).bytes(),
        ),
        (
            "a sender elsewhere",
            all,
            "port_ingress",
            "nat1",
            up(udp(SERVER, 40000, NAT_GW, 53)).bytes(),
        ),
        (
            "a sender elsewhere, IPv6",
            all,
            "port_ingress",
            "nat1",
            up(udp(SERVER6, 40000, NAT_GW6, 53)).bytes(),
        ),
        (
            "a ping",
            all,
            "port_ingress",
            "nat1",
            up(echo(GUEST, NAT_GW, 5)).bytes(),
        ),
    ] {
        serve(&mut lab, flags);
        let wiretap = Wiretap::new();
        Fixture::new(name, program, device, frame.clone())
            .any_flows()
            .run(&mut lab);
        assert_eq!(wiretap.sent(&lab, &frame), 0, "{name}: a copy");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_both_need_is_copied_once() {
    let mut lab = lab();
    serve(&mut lab, NETWORK_DNS | NETWORK_DHCP);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    let arp = |operation, to: MacAddr, sender: Addr4, target: Addr4| {
        let mut frame = to.to_vec();
        frame.extend(GUEST_MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(GUEST_MAC);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    let solicitation = |target: Addr6| {
        let packet = icmp(GUEST6, ALL_ROUTERS, 135, 0, [0; 4], target.to_vec());
        packet.macs(TO_ROUTERS, GUEST_MAC).bytes()
    };
    let bytes = |packet: Packet<Addr4>, to| packet.macs(to, GUEST_MAC).bytes();
    let copied = [
        ("DHCP", bytes(udp([0; 4], 68, BROADCAST, 67), TO_ALL)),
        (
            "DHCPv6",
            udp(GUEST6, 546, ALL_ROUTERS, 547)
                .macs(TO_ROUTERS, GUEST_MAC)
                .bytes(),
        ),
        (
            "who is a router",
            icmp(GUEST6, ALL_ROUTERS, 133, 0, [0; 4], Vec::new())
                .macs(TO_ROUTERS, GUEST_MAC)
                .bytes(),
        ),
        (
            "an answer to a ping",
            bytes(echo_reply(GUEST, NAT_GW, 5), NAT_MAC),
        ),
        ("who is the gateway", arp(1, TO_ALL, GUEST, NAT_GW)),
        ("here I am", arp(1, TO_ALL, GUEST, GUEST)),
        ("an answer", arp(2, NAT_MAC, GUEST, NAT_GW)),
        ("who is the gateway, IPv6", solicitation(NAT_GW6)),
    ];
    let others = [
        (
            "mDNS",
            bytes(udp(GUEST, 5353, [224, 0, 0, 251], 5353), TO_ALL),
        ),
        ("who is a neighbour", arp(1, TO_ALL, GUEST, GUEST2)),
        (
            "an answer to a neighbour",
            arp(2, GUEST2_MAC, GUEST, GUEST2),
        ),
        ("who is a neighbour, IPv6", solicitation(GUEST2_6)),
        (
            "DHCP of a client",
            bytes(udp(GUEST, 67, BROADCAST, 68), TO_ALL),
        ),
    ];
    let copied = copied.into_iter().map(|(name, frame)| (name, frame, 1));
    let others = others.into_iter().map(|(name, frame)| (name, frame, 0));
    for (name, frame, copies) in copied.chain(others) {
        let wiretap = Wiretap::new();
        Fixture::new(name, "port_ingress", "nat1", frame.clone())
            .any_flows()
            .run(&mut lab);
        assert_eq!(wiretap.sent(&lab, &frame), copies, "{name}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn guests_of_a_closed_host_reach_no_services() {
    let mut lab = lab();
    serve(&mut lab, NETWORK_DNS | NETWORK_DHCP | NETWORK_HOST_NONE);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    let wiretap = Wiretap::new();
    let question = up(udp(GUEST, 40000, NAT_GW, 53)).bytes();
    let index = lab.ifindex("nat1");
    lab.allow_answers();
    // It is refused with an answer, which goes back by its port.
    let refused = run(&lab, "port_ingress", index, 0, 0, 1, &question);
    assert_ne!(refused.packet, question);
    assert_eq!(wiretap.sent(&lab, &question), 0, "a copy");
    let discover = udp([0; 4], 68, BROADCAST, 67).macs(TO_ALL, GUEST_MAC);
    let discover = discover.bytes();
    run(&lab, "port_ingress", index, 0, 0, 1, &discover);
    assert_eq!(wiretap.sent(&lab, &discover), 0, "a copy");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_services_send_goes_to_the_bridge_but_for_second_answers() {
    let mut lab = lab();
    lab.guard_port("nat2", PORT_SERVICES, [0; 6]);
    let answer = udp(NAT_GW, 53, GUEST, 40000)
        .macs(GUEST_MAC, NAT_MAC)
        .bytes();
    Fixture::new("an answer", "services_ingress", "nat2", answer.clone())
        .redirect(answer)
        .run(&mut lab);
    let mut arp = GUEST_MAC.to_vec();
    arp.extend(NAT_MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(NAT_MAC);
    arp.extend(NAT_GW);
    arp.extend(GUEST_MAC);
    arp.extend(GUEST);
    let index = lab.ifindex("nat2");
    let before = lab.drops();
    let verdict = run(&lab, "services_ingress", index, 0, 0, 1, &arp).verdict;
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(lab.drops(), before, "nobody misses it");
    arp[21] = 1;
    let verdict = run(&lab, "services_ingress", index, 0, 0, 1, &arp).verdict;
    assert_eq!(verdict, Verdict::Redirect);
}
