//! Bans: what comes from whom is dropped, and what is refused to guests.

use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, DEVICE_ETHERNET};
use rustix::time::{ClockId, clock_gettime};

use crate::fixture::Fixture;
use crate::flows::{guest_to_server, guest_to_server6};
use crate::forward::{to_guest, web};
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, ETH, SYN, TCP, UDP, echo, port_unreachable, tcp, time_exceeded, udp};

const FOR_EVER: Option<u32> = Some(u32::MAX);

/// A neighbour of the server's.
const OTHER: Addr4 = [192, 0, 2, 81];

/// So many seconds from now, by the clock of bans.
fn seconds(after: u32) -> Option<u32> {
    let now = clock_gettime(ClockId::Boottime);
    Some(now.tv_sec as u32 + after)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_ban_ends_what_runs_in_both_directions() {
    let mut lab = lab();
    let there = up(udp(GUEST, 40000, SERVER, 80));
    let back = down(udp(SERVER, 80, UP0, 40000));
    for (scope, len) in [("", 32), ("", 24), ("br-nat", 32)] {
        guest_to_server(UDP, 40000, 80).established().only(&mut lab);
        Fixture::new("before", "uplink_ingress", "up0", back.bytes())
            .redirect(home(back.clone(), 40000))
            .run(&mut lab);
        lab.ban(scope, SERVER, len, FOR_EVER);
        for _ in 0..2 {
            let name = format!("{scope}/{len}");
            Fixture::new(&name, "uplink_ingress", "up0", back.bytes())
                .drop(Reason::Banned)
                .run(&mut lab);
            Fixture::new(&name, "port_ingress", "nat1", there.bytes())
                .reject(Reason::Banned, port_unreachable(NAT_GW, &there).bytes())
                .run(&mut lab);
        }
        // The flow is still there when the ban is not.
        lab.ban(scope, SERVER, len, None);
        Fixture::new("after", "uplink_ingress", "up0", back.bytes())
            .redirect(home(back.clone(), 40000))
            .run(&mut lab);
    }
    // Of another network, and of another server.
    lab.ban("br-dev", SERVER, 24, FOR_EVER);
    lab.ban("", OTHER, 32, FOR_EVER);
    Fixture::new("others", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back.clone(), 40000))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_ban_ends_what_runs_by_ipv6() {
    let mut lab = lab();
    guest_to_server6(UDP, 40000, 80)
        .established()
        .only(&mut lab);
    lab.ban("", SERVER6, 64, FOR_EVER);
    let back = down(udp(SERVER6, 80, UP0_6, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .drop(Reason::Banned)
        .run(&mut lab);
    let there = up(udp(GUEST6, 40000, SERVER6, 80));
    Fixture::new("there", "port_ingress", "nat1", there.bytes())
        .reject(Reason::Banned, port_unreachable(NAT_GW6, &there).bytes())
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_is_banned_opens_nothing_to_what_is_published() {
    let mut lab = lab();
    lab.publish(web(TCP));
    let syn = down(tcp(SERVER, 5000, UP0, 8080, SYN));
    for scope in ["", "br-nat"] {
        lab.ban(scope, SERVER, 24, FOR_EVER);
        Fixture::new(scope, "uplink_ingress", "up0", syn.bytes())
            .drop(Reason::Banned)
            .run(&mut lab);
        lab.ban(scope, SERVER, 24, None);
    }
    lab.ban("br-dev", SERVER, 24, FOR_EVER);
    Fixture::new("of another network", "uplink_ingress", "up0", syn.bytes())
        .redirect(to_guest(syn.clone().dst(GUEST).dport(80)).bytes())
        .any_flows()
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_is_banned_reaches_neither_routed_guests_nor_the_host() {
    let mut lab = lab();
    let routed = down(udp(SERVER, 80, ROUTE_GUEST, 40000));
    let host = down(tcp(SERVER, 5000, UP0, 22, SYN));
    lab.ban("br-route", SERVER, 24, FOR_EVER);
    Fixture::new("the network", "uplink_ingress", "up0", routed.bytes())
        .drop(Reason::Banned)
        .run(&mut lab);
    Fixture::new("not the host", "uplink_ingress", "up0", host.bytes()).run(&mut lab);
    lab.ban("", SERVER, 24, FOR_EVER);
    Fixture::new("the host", "uplink_ingress", "up0", host.bytes())
        .drop(Reason::Banned)
        .run(&mut lab);
    // A flow is opened to nobody who is banned.
    let syn = up(tcp(GUEST, 40000, SERVER, 80, SYN));
    Fixture::new("a guest", "port_ingress", "nat1", syn.bytes())
        .reject(Reason::Banned, port_unreachable(NAT_GW, &syn).bytes())
        .run(&mut lab);
}

/// By the clock that goes on while the machine sleeps, which needs no agent.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_ban_ends_by_itself() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    lab.ban("", SERVER, 32, seconds(3600));
    Fixture::new("runs", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::Banned, port_unreachable(NAT_GW, &packet).bytes())
        .run(&mut lab);
    lab.ban("", SERVER, 32, seconds(0));
    Fixture::new("has ended", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet.clone(), 40000))
        .any_flows()
        .run(&mut lab);
}

/// An error comes from a router on the way; it belongs to the network that it is sent to.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_ban_of_a_network_holds_for_icmp_errors() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let sent = udp(GUEST, 40000, SERVER, 80).src(UP0);
    let error = down(time_exceeded(OTHER, UP0, sent.bytes()[ETH..].to_vec()));
    lab.ban("br-nat", OTHER, 32, FOR_EVER);
    Fixture::new("error", "uplink_ingress", "up0", error.bytes())
        .drop(Reason::Banned)
        .run(&mut lab);
    // Whatever else the banned send is known by its source.
    lab.ban("", OTHER, 32, FOR_EVER);
    let ping = down(echo(OTHER, UP0, 7));
    Fixture::new("ping", "uplink_ingress", "up0", ping.bytes())
        .drop(Reason::Banned)
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_fast_path_drops_what_is_banned() {
    let mut lab = lab();
    lab.set_device("up0", UP0, UP0_6, DEVICE_ETHERNET);
    lab.set_mac("up0", UP0_MAC);
    let frames = |source: Addr4, source6: Addr6| {
        [
            down(tcp(source, 5000, UP0, 8080, ACK)).bytes(),
            down(udp(source6, 5000, UP0_6, 53)).bytes(),
        ]
    };
    for frame in frames(SERVER, SERVER6) {
        Fixture::new("nobody is banned", "uplink_xdp", "up0", frame).run(&mut lab);
    }
    lab.ban("", SERVER, 32, FOR_EVER);
    lab.ban("", SERVER6, 128, FOR_EVER);
    for frame in frames(SERVER, SERVER6) {
        Fixture::new("banned", "uplink_xdp", "up0", frame.clone())
            .drop(Reason::Banned)
            .run(&mut lab);
        // For another machine: who knows why it is here.
        let mut foreign = frame.clone();
        foreign[5] ^= 1;
        Fixture::new("for others", "uplink_xdp", "up0", foreign).run(&mut lab);
        // Guests' frames are TC's to refuse, which answers them.
        Fixture::new("of a guest", "port_xdp", "nat1", frame).run(&mut lab);
    }
    for frame in frames(OTHER, UP0_6) {
        Fixture::new("not banned", "uplink_xdp", "up0", frame).run(&mut lab);
    }
}
