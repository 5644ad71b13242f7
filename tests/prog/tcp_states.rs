//! States of TCP flows, and how long each is silent.

use netd_common::Reason;
use netd_common::abi::{FlowKey4, Mode};
use netd_common::clock::ticks;
use netd_common::state::State;
use netd_common::timeout::{DEFAULT_TIMEOUTS, Timeout};

use crate::fixture::Fixture;
use crate::flows::{FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{
    ACK, FIN, ICMP, Packet, RST, SCTP, SYN, TCP, UDP, echo_reply, port_unreachable, sctp, tcp, udp,
};

const GUEST_SENDS: bool = true;
const SERVER_SENDS: bool = false;

/// Send a packet of the flow of the guest's port 40000 to the server's port 80.
fn send(lab: &mut Lab, name: &str, from_guest: bool, change: impl Fn(Packet) -> Packet) {
    if from_guest {
        let packet = change(up(tcp(GUEST, 40000, SERVER, 80, 0)));
        Fixture::new(name, "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, 40000))
            .any_flows()
            .run(lab);
    } else {
        let packet = change(down(tcp(SERVER, 80, UP0, 40000, 0)));
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .redirect(home(packet, 40000))
            .any_flows()
            .run(lab);
    }
}

/// State of both entries.
fn state(lab: &Lab, flow: &FromGuest) -> State {
    let of = |key: &FlowKey4| lab.flow(key).expect("an entry").state;
    let states = [of(&flow.key()), of(&flow.back_key())];
    assert_eq!(states[0], states[1], "both entries have the same state");
    State::from_u8(states[0])
}

/// A connection that is opened, closed in several ways, and opened again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn states_follow_the_control_bits_on_both_entries() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80);
    let handshake = [
        (GUEST_SENDS, SYN, State::New),
        (GUEST_SENDS, SYN, State::New),
        (SERVER_SENDS, SYN | ACK, State::Answered),
        (SERVER_SENDS, SYN | ACK, State::Answered),
        (GUEST_SENDS, ACK, State::Established),
        (SERVER_SENDS, ACK, State::Established),
    ];
    let endings: [&[(bool, u8, State)]; 5] = [
        // The guest closes, the server goes on sending for a while.
        &[
            (GUEST_SENDS, FIN | ACK, State::FinWait),
            (GUEST_SENDS, FIN | ACK, State::FinWait),
            (SERVER_SENDS, ACK, State::CloseWait),
            (SERVER_SENDS, ACK, State::CloseWait),
            (GUEST_SENDS, ACK, State::CloseWait),
            (SERVER_SENDS, FIN | ACK, State::LastAck),
            (SERVER_SENDS, FIN | ACK, State::LastAck),
            (GUEST_SENDS, ACK, State::TimeWait),
            (SERVER_SENDS, FIN | ACK, State::TimeWait),
        ],
        // The server does.
        &[
            (SERVER_SENDS, FIN | ACK, State::FinWait),
            (GUEST_SENDS, ACK, State::CloseWait),
            (GUEST_SENDS, FIN | ACK, State::LastAck),
            (SERVER_SENDS, ACK, State::TimeWait),
        ],
        // Both at once.
        &[
            (GUEST_SENDS, FIN | ACK, State::FinWait),
            (SERVER_SENDS, FIN | ACK, State::LastAck),
            (GUEST_SENDS, ACK, State::TimeWait),
        ],
        &[(SERVER_SENDS, RST, State::Close)],
        &[(GUEST_SENDS, RST | ACK, State::Close)],
    ];
    for (round, ending) in endings.into_iter().enumerate() {
        for (i, (from_guest, control, after)) in handshake.iter().chain(ending).enumerate() {
            let name = format!("connection {round}, packet {i}, control {control:#x}");
            // What each side has sent so far is one byte, or three of data: all in the window.
            send(&mut lab, &name, *from_guest, |packet| {
                packet.tcp(|tcp| {
                    tcp.control = *control;
                    tcp.seq = if *from_guest { 1000 } else { 2000 };
                    tcp.ack = if *from_guest { 2000 } else { 1000 };
                })
            });
            assert_eq!(state(&lab, &flow), *after, "{name}");
        }
    }
}

/// A handshake with window scaling (7 for the guest's windows, 2 for the server's): the guest may
/// be sent 5001 to 5001 + 64000, the server 1001 to 1001 + 65000.
fn open(lab: &mut Lab) -> FromGuest {
    let flow = guest_to_server(TCP, 40000, 80);
    lab.clear_flows();
    let scale = |shift| vec![2, 4, 5, 0xb4, 1, 3, 3, shift];
    send(lab, "SYN", GUEST_SENDS, |packet| {
        packet.tcp(|tcp| {
            (tcp.control, tcp.seq, tcp.ack) = (SYN, 1000, 0);
            tcp.options = scale(7);
            tcp.data.clear();
        })
    });
    send(lab, "SYN-ACK", SERVER_SENDS, |packet| {
        packet.tcp(|tcp| {
            (tcp.control, tcp.seq, tcp.ack) = (SYN | ACK, 5000, 1001);
            tcp.window = 65000;
            tcp.options = scale(2);
            tcp.data.clear();
        })
    });
    send(lab, "ACK", GUEST_SENDS, |packet| {
        packet.tcp(|tcp| {
            (tcp.control, tcp.seq, tcp.ack) = (ACK, 1001, 5001);
            tcp.window = 500;
            tcp.data.clear();
        })
    });
    flow
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn windows_are_learned() {
    let mut lab = lab();
    let flow = open(&mut lab);
    let there = lab.flow(&flow.key()).expect("a flow");
    let back = lab.flow(&flow.back_key()).expect("a flow");
    assert_eq!(
        (there.ack, there.window_end, there.wscale),
        (5001, 69001, 7)
    );
    assert_eq!((back.ack, back.window_end, back.wscale), (1001, 66001, 2));
    // Data of the server's: its window is scaled now.
    send(&mut lab, "data", SERVER_SENDS, |packet| {
        packet.tcp(|tcp| {
            (tcp.control, tcp.seq, tcp.ack, tcp.window) = (ACK, 5001, 1001, 100);
        })
    });
    let back = lab.flow(&flow.back_key()).expect("a flow");
    assert_eq!((back.ack, back.window_end), (1001, 1001 + 400));
}

/// Who cannot see the connection cannot end it: a RST outside the window is passed on, since its
/// addressee knows better, and the flow stays open.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_blind_rst_does_not_close() {
    let mut lab = lab();
    for (from_guest, seq, after) in [
        (SERVER_SENDS, 5000, State::Established),
        (SERVER_SENDS, 0, State::Established),
        (SERVER_SENDS, 69002, State::Established),
        (
            SERVER_SENDS,
            5001u32.wrapping_sub(1 << 31),
            State::Established,
        ),
        (SERVER_SENDS, 5001, State::Close),
        (SERVER_SENDS, 69001, State::Close),
        (GUEST_SENDS, 1000, State::Established),
        (GUEST_SENDS, 66002, State::Established),
        (GUEST_SENDS, 1001, State::Close),
        (GUEST_SENDS, 66001, State::Close),
    ] {
        let flow = open(&mut lab);
        for control in [RST, RST | ACK] {
            let name = format!("guest {from_guest}, RST {seq}");
            send(&mut lab, &name, from_guest, |packet| {
                packet.tcp(|tcp| {
                    (tcp.control, tcp.seq) = (control, seq);
                    tcp.ack = if from_guest { 5001 } else { 1001 };
                    tcp.data.clear();
                })
            });
            assert_eq!(state(&lab, &flow), after, "{name}");
        }
    }
}

/// A receiver that has no room (window 0) is no easier to reset: only the next byte's number will
/// do.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_window_resets_at_its_edge_only() {
    let mut lab = lab();
    for (seq, after) in [
        (5000, State::Established),
        (5002, State::Established),
        (70000, State::Established),
        (5001, State::Close),
    ] {
        let flow = open(&mut lab);
        send(&mut lab, "no room", GUEST_SENDS, |packet| {
            packet.tcp(|tcp| {
                (tcp.control, tcp.seq, tcp.ack) = (ACK, 1001, 5001);
                tcp.window = 0;
            })
        });
        send(&mut lab, "RST", SERVER_SENDS, |packet| {
            packet.tcp(|tcp| (tcp.control, tcp.seq, tcp.ack) = (RST, seq, 0))
        });
        assert_eq!(state(&lab, &flow), after, "RST {seq}");
    }
}

/// A FIN counts where it stands, behind the data: data that was acknowledged already (the answer
/// was lost, and the sender joins what it sends again) does not make it an old one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_fin_stands_behind_its_data() {
    let mut lab = lab();
    for (seq, len, after) in [
        (5001, 0, State::FinWait),
        (5001, 100, State::FinWait),
        (4901, 100, State::FinWait),
        (4801, 250, State::FinWait),
        (4801, 100, State::Established),
        (69001, 0, State::FinWait),
        (69002, 0, State::Established),
        (5001u32.wrapping_sub(1 << 31), 3, State::Established),
    ] {
        let flow = open(&mut lab);
        send(&mut lab, "FIN", SERVER_SENDS, |packet| {
            packet.data(vec![7; len]).tcp(|tcp| {
                (tcp.control, tcp.seq, tcp.ack) = (FIN | ACK, seq, 1001);
            })
        });
        assert_eq!(state(&lab, &flow), after, "FIN {seq}, {len} bytes");
    }
}

/// A closed port: the SYN is answered by a RST that has nothing but an acknowledgement.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refused_connection_is_closed() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80);
    send(&mut lab, "SYN", GUEST_SENDS, |packet| {
        packet.tcp(|tcp| (tcp.control, tcp.seq, tcp.ack) = (SYN, 1000, 0))
    });
    send(&mut lab, "RST", SERVER_SENDS, |packet| {
        packet.tcp(|tcp| (tcp.control, tcp.seq, tcp.ack) = (RST | ACK, 0, 1001))
    });
    assert_eq!(state(&lab, &flow), State::Close);
}

/// The same ports again: a SYN on a connection that has ended is judged as any first packet.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p11_a_syn_on_a_closed_flow_is_judged_anew() {
    let mut lab = lab();
    for ended in [State::TimeWait, State::Close] {
        let flow = guest_to_server(TCP, 40000, 80).in_state(ended);
        flow.only(&mut lab);
        lab.set_mode("br-nat", Mode::Isolated);
        let packet = up(tcp(GUEST, 40000, SERVER, 80, SYN));
        Fixture::new(
            "not allowed any more",
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .reject(Reason::Isolated, port_unreachable(NAT_GW, &packet).bytes())
        .any_flows()
        .run(&mut lab);
        lab.set_mode("br-nat", Mode::Nat);
        flow.only(&mut lab);
        send(&mut lab, "allowed", GUEST_SENDS, |packet| {
            packet.tcp(|tcp| tcp.control = SYN)
        });
        assert_eq!(state(&lab, &flow), State::New);
        assert_eq!(lab.flows().len(), 2);
    }
    // One that is open is not opened anew, whoever sends the SYN (RFC 5961, section 4).
    let flow = guest_to_server(TCP, 40000, 80).established();
    flow.only(&mut lab);
    for from_guest in [GUEST_SENDS, SERVER_SENDS] {
        send(&mut lab, "SYN in the middle", from_guest, |packet| {
            packet.tcp(|tcp| tcp.control = SYN)
        });
        assert_eq!(state(&lab, &flow), State::Established);
    }
}

/// Every state of every protocol lives as long as netfilter's default says: a packet from outside
/// at the last moment finds the flow, one after it the host.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p12_flows_live_as_long_as_their_timeout() {
    let mut lab = lab();
    let tcp_states = [
        State::New,
        State::Answered,
        State::Established,
        State::FinWait,
        State::CloseWait,
        State::LastAck,
        State::TimeWait,
        State::Close,
    ];
    let cases = tcp_states.into_iter().map(|state| (TCP, state)).chain([
        (UDP, State::New),
        (UDP, State::Answered),
        (UDP, State::Established),
        (ICMP, State::New),
        (ICMP, State::Established),
        (SCTP, State::New),
        (SCTP, State::Established),
        (SCTP, State::Close),
    ]);
    for (proto, state) in cases {
        let timeout = DEFAULT_TIMEOUTS[Timeout::of(proto, state) as usize];
        let packet = down(match proto {
            TCP => tcp(SERVER, 80, UP0, 40000, ACK),
            UDP => udp(SERVER, 80, UP0, 40000),
            SCTP => sctp(SERVER, 80, UP0, 40000, 0),
            _ => echo_reply(SERVER, UP0, 40000),
        });
        for (age, alive) in [(timeout - 1, true), (timeout + 1, false)] {
            lab.start_of_tick();
            guest_to_server(proto, 40000, 80)
                .in_state(state)
                .only(&mut lab);
            lab.v4.age(age);
            let name = format!("protocol {proto}, {state:?}, {age} ticks old");
            let fixture = Fixture::new(name, "uplink_ingress", "up0", packet.bytes()).any_flows();
            if alive {
                fixture.redirect(home(packet.clone(), 40000)).run(&mut lab);
            } else {
                fixture.run(&mut lab);
            }
        }
    }
}

/// The administrator's timeouts are followed.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn timeouts_are_settable() {
    let mut lab = lab();
    lab.change_control(|control| control.timeouts[Timeout::UdpStream as usize] = ticks(1000));
    let packet = down(udp(SERVER, 80, UP0, 40000));
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    lab.v4.age(ticks(1000) - 1);
    Fixture::new("UDP", "uplink_ingress", "up0", packet.bytes())
        .redirect(home(packet, 40000))
        .any_flows()
        .run(&mut lab);
}

/// The same in IPv6, with the states on both entries.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn states_of_ipv6() {
    let mut lab = lab();
    let flow = guest_to_server6(TCP, 40000, 80);
    for (i, (from_guest, control, after)) in [
        (GUEST_SENDS, SYN, State::New),
        (SERVER_SENDS, SYN | ACK, State::Answered),
        (GUEST_SENDS, ACK, State::Established),
        (GUEST_SENDS, FIN | ACK, State::FinWait),
        (SERVER_SENDS, FIN | ACK, State::LastAck),
        (GUEST_SENDS, ACK, State::TimeWait),
        (GUEST_SENDS, SYN, State::New),
        (SERVER_SENDS, RST | ACK, State::Close),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("packet {i}");
        if from_guest {
            let packet = up(tcp(GUEST6, 40000, SERVER6, 80, control));
            let syn = u32::from(control & SYN != 0);
            let packet = packet.tcp(|tcp| (tcp.seq, tcp.ack) = (1001 - syn, 2001));
            Fixture::new(&name, "port_ingress", "nat1", packet.bytes())
                .redirect(out(packet, 40000))
                .any_flows()
                .run(&mut lab);
        } else {
            let packet = down(tcp(SERVER6, 80, UP0_6, 40000, control));
            let packet = packet.tcp(|tcp| (tcp.seq, tcp.ack) = (2001 - u32::from(i == 1), 1001));
            Fixture::new(&name, "uplink_ingress", "up0", packet.bytes())
                .redirect(home(packet, 40000))
                .any_flows()
                .run(&mut lab);
        }
        for key in [flow.key(), flow.back_key()] {
            let state = State::from_u8(lab.flow(&key).expect("an entry").state);
            assert_eq!(state, after, "{name}");
        }
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
    let mut flows = guest_to_server(TCP, 40000, 80).after_first(&lab, packet.bytes().len());
    for (_, flow) in &mut flows {
        // How windows are scaled was agreed before: the largest scale there is.
        flow.wscale = netd_common::tcp::MAX_WSCALE;
    }
    Fixture::new("ACK", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .flows(flows)
        .run(&mut lab);
}

/// To the host, a packet of no flow is the host's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p45_packets_to_the_host_are_left_to_it() {
    let mut lab = lab();
    for control in [SYN, SYN | ACK, ACK, RST, FIN] {
        let packet = down(tcp(SERVER, 80, UP0, 40000, control));
        Fixture::new("to the host", "uplink_ingress", "up0", packet.bytes())
            .flows([])
            .run(&mut lab);
    }
}
