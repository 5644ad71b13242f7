//! Masqueraded flows whose way out has another address than they are translated to.

use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, FlowKey};
use netd_common::state::State;

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::{BY_ROUTER, End, FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{Lab, ip, lab};
use crate::life::OnDrop;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP, Version, tcp, time_exceeded, udp};

/// The way by the second uplink.
const BY_PEER1: End = End {
    device: "up1",
    macs: (PEER1_MAC, UP1_MAC),
    ..BY_ROUTER
};

/// Sends what goes to the server by the second uplink, and back when dropped.
fn failover() -> OnDrop<impl Fn()> {
    ip("route replace 192.0.2.80 via 203.0.113.9\n\
        route replace 2001:db8:80::80 via 2001:db8:113::9\n");
    OnDrop(|| ip("route del 192.0.2.80\nroute del 2001:db8:80::80\n"))
}

/// What tells the sender of a segment that its connection is over.
pub fn reset<A: Version>(segment: &Packet<A>) -> Packet<A> {
    let mut answer = tcp(segment.dst, 80, segment.src, 40000, RST)
        .tcp(|tcp| {
            (tcp.seq, tcp.ack, tcp.window) = (0x0506_0708, 0, 0);
            tcp.data.clear();
        })
        .macs(segment.from, segment.to);
    answer.header = A::header_of_resets();
    answer
}

fn state<A: Address>(lab: &Lab, flow: &FromGuest<A>) -> [State; 2] {
    [flow.key(), flow.back_key()]
        .map(|key: FlowKey<A>| State::from_u8(lab.flow(&key).expect("an entry").state))
}

/// An error about a packet of a flow goes by the way that there is now, though the flow's own packets
/// have not come that far yet: nobody may be left where the old one led.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_errors_take_the_way_that_there_is() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let _back = failover();
    lab.set_epoch(2);
    let quoted = udp(SERVER, 80, GUEST, 40000);
    let error = up(time_exceeded(GUEST, SERVER, quoted.quote(8)));
    let shown = udp(SERVER, 80, UP0, 40000).quote(8);
    let after = time_exceeded(UP0, SERVER, shown)
        .ttl(63)
        .macs(PEER1_MAC, UP1_MAC);
    Fixture::new("from the guest", "port_ingress", "nat1", error.bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(&mut lab);
}

/// A flow to the server goes on by the second uplink with the address there.
fn goes_on<A: Address>(lab: &mut Lab, packet: Packet<A>, flow: FromGuest<A>, second: A) {
    let mut after = flow;
    (after.shown, after.far) = (Some((second, 40000)), BY_PEER1);
    after.state = State::New;
    let sent = packet.clone().src(second).ttl(63);
    let sent = sent.macs(PEER1_MAC, UP1_MAC).bytes();
    Fixture::new("at once", "port_ingress", "nat1", packet.bytes())
        .redirect(sent)
        .any_flows()
        .run(lab);
    assert!(lab.flow(&after.key()).is_some_and(|f| f.new_src == second));
    assert!(lab.flow(&after.back_key()).is_some(), "answers come there");
    assert!(lab.flow(&flow.back_key()).is_none(), "the old one is over");
}

/// W1: datagrams go on with the address of the way that they take now.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_datagrams_take_the_address_of_their_new_way() {
    let mut lab = lab();
    let (flow, flow6) = (
        guest_to_server(UDP, 40000, 80).established(),
        guest_to_server6(UDP, 40000, 80).established(),
    );
    flow.only(&mut lab);
    flow6.only(&mut lab);
    let _back = failover();
    lab.set_epoch(2);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    goes_on::<Addr4>(&mut lab, packet, flow, UP1);
    let packet = up(udp(GUEST6, 40000, SERVER6, 80));
    goes_on::<Addr6>(&mut lab, packet, flow6, UP1_6);
}

fn is_told<A: Address>(lab: &mut Lab, flow: FromGuest<A>, second: A) {
    flow.only(lab);
    lab.set_epoch(lab.epoch() + 1);
    let segment = |control| up(tcp(flow.guest.0, 40000, flow.peer.0, 80, control));
    // Data, then what was under way behind it, then a late end of the connection.
    for control in [ACK, ACK, FIN | ACK] {
        let packet = segment(control);
        Fixture::new("a segment", "port_ingress", "nat1", packet.bytes())
            .reject(Reason::SourceMoved, reset(&packet).bytes())
            .run(lab);
        assert_eq!(state(lab, &flow), [State::Close; 2]);
    }
    let packet = segment(RST | ACK);
    Fixture::new("its own RST", "port_ingress", "nat1", packet.bytes())
        .drop(Reason::SourceMoved)
        .run(lab);
    // What the server still sends meets a guest that refuses it.
    let late = down(tcp(flow.peer.0, 80, A::UP0, 40000, ACK));
    Fixture::new("from the server", "uplink_ingress", "up0", late.bytes())
        .redirect(home(late, 40000))
        .run(lab);
    goes_on(lab, segment(SYN), flow, second);
}

/// W1: who has a connection is told that it is over, and opens the next one by the new way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_connections_are_reset_towards_the_guest_alone() {
    let mut lab = lab();
    let _back = failover();
    is_told(&mut lab, guest_to_server(TCP, 40000, 80).established(), UP1);
    is_told(
        &mut lab,
        guest_to_server6(TCP, 40000, 80).established(),
        UP1_6,
    );
}

/// A segment that stands for several is answered like one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_a_large_segment_is_answered_by_a_short_one() {
    let mut lab = lab();
    let _back = failover();
    guest_to_server(TCP, 40000, 80).established().only(&mut lab);
    lab.set_epoch(2);
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK)).data(vec![7; 2000]);
    Fixture::new("GSO", "port_ingress", "nat1", packet.bytes())
        .gso(1000)
        .reject(Reason::SourceMoved, reset(&packet).bytes())
        .run(&mut lab);
}

/// Nobody had answered yet: the SYN is sent again with the new address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_a_connection_that_is_being_opened_is_opened_by_the_new_way() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80);
    flow.only(&mut lab);
    let _back = failover();
    lab.set_epoch(2);
    goes_on(&mut lab, up(tcp(GUEST, 40000, SERVER, 80, SYN)), flow, UP1);
}

/// The route names another address of the same device (IPv4), or the kernel has come to prefer one
/// (IPv6, as with temporary addresses): there the old one serves as long as the device has it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_another_address_of_the_device_counts_where_the_route_says_so() {
    let mut lab = lab();
    let (address, address6) = ([198, 51, 100, 3], {
        let mut address = UP0_6;
        address[15] = 3;
        address
    });
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    let flow6 = guest_to_server6(UDP, 40000, 80).established();
    flow6.only(&mut lab);
    ip("addr add 198.51.100.3/24 dev up0\n\
        addr add 2001:db8:100::3/64 dev up0 nodad\n");
    let _back = OnDrop(|| {
        ip("route change default via 198.51.100.1\n\
            route change default via 2001:db8:100::1\n\
            addr del 198.51.100.3/24 dev up0\n\
            addr del 2001:db8:100::3/64 dev up0\n");
    });
    lab.set_own(address, Some("up0"));
    lab.set_own(address6, Some("up0"));
    lab.set_epoch(2);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("one more address", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet.clone(), 40000))
        .run(&mut lab);
    ip("route change default via 198.51.100.1 src 198.51.100.3\n\
        route change default via 2001:db8:100::1 src 2001:db8:100::3\n");
    lab.set_epoch(3);
    let after = packet.clone().src(address).ttl(63);
    Fixture::new("the route names it", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    let packet = up(udp(GUEST6, 40000, SERVER6, 80));
    Fixture::new("both serve", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet.clone(), 40000))
        .run(&mut lab);
    lab.set_own(UP0_6, None);
    lab.set_epoch(4);
    let after = packet.clone().src(address6).ttl(63);
    Fixture::new("the old one goes", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    lab.set_own(UP0_6, Some("up0"));
}

/// The address itself moves to another device, and the route with it: the connection stays whole.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p52_an_address_that_moves_takes_its_connections_along() {
    let mut lab = lab();
    guest_to_server(TCP, 40000, 80).established().only(&mut lab);
    ip("route replace 192.0.2.80 via 203.0.113.9 src 198.51.100.2\n");
    let _back = OnDrop(|| ip("route del 192.0.2.80\n"));
    lab.set_own(UP0, Some("up1"));
    lab.set_epoch(2);
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK));
    let after = packet.clone().src(UP0).ttl(63);
    Fixture::new(
        "by the other device",
        "port_ingress",
        "nat1",
        packet.bytes(),
    )
    .redirect(after.macs(PEER1_MAC, UP1_MAC).bytes())
    .run(&mut lab);
    lab.set_own(UP0, Some("up0"));
}
