//! States of TCP flows.

use netd_common::Reason;
use netd_common::flow::State;

use crate::fixture::Fixture;
use crate::flows::guest_to_server;
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, FIN, RST, SYN, TCP, tcp};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn states_follow_the_control_bits_on_both_entries() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80);
    let key = flow.key();
    // (from the guest?, control bits, state afterwards)
    for (i, (from_guest, control, after)) in [
        (true, SYN, State::New),
        (true, SYN, State::New),
        (false, SYN | ACK, State::Answered),
        (false, SYN | ACK, State::Answered),
        (true, ACK, State::Established),
        (false, ACK, State::Established),
        (true, FIN | ACK, State::Closing),
        (false, FIN | ACK, State::Closing),
        (true, ACK, State::Closing),
        (true, SYN, State::New),
        (false, ACK, State::Established),
        (false, RST, State::Closing),
        (true, SYN, State::New),
        (false, RST | ACK, State::Closing),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("packet {i}, control {control:#x}");
        if from_guest {
            let packet = up(tcp(GUEST, 40000, SERVER, 80, control));
            Fixture::new(name, "port_ingress", "nat1", packet.bytes())
                .redirect(out(packet, 40000))
                .any_flows()
                .run(&mut lab);
        } else {
            let packet = down(tcp(SERVER, 80, UP0, 40000, control));
            Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
                .redirect(home(packet, 40000))
                .any_flows()
                .run(&mut lab);
        }
        let states: Vec<_> = [key, flow.back_key()]
            .iter()
            .map(|key| State::from_u8(lab.flow(key).expect("an entry").state))
            .collect();
        assert_eq!(states, [after, after], "packet {i}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_that_cannot_open_a_flow_are_dropped() {
    let mut lab = lab();
    for control in [RST, RST | ACK, FIN, FIN | ACK, SYN | ACK, 0] {
        let packet = up(tcp(GUEST, 40000, SERVER, 80, control));
        Fixture::new(
            format!("control {control:#x}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .drop(Reason::NoFlow)
        .flows([])
        .run(&mut lab);
    }
}

/// A connection that netd has not seen the start of goes on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn data_in_the_middle_opens_a_flow() {
    let mut lab = lab();
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK));
    let flows = guest_to_server(TCP, 40000, 80).after_first(&lab, packet.bytes().len());
    Fixture::new("ACK", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .flows(flows)
        .run(&mut lab);
}

/// To the host, a packet of no flow is the host's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_to_the_host_are_left_to_it() {
    let mut lab = lab();
    for control in [SYN, SYN | ACK, ACK, RST, FIN] {
        let packet = down(tcp(SERVER, 80, UP0, 40000, control));
        Fixture::new("to the host", "uplink_ingress", "up0", packet.bytes())
            .flows([])
            .run(&mut lab);
    }
}
