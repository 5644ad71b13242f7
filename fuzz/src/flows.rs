//! The logic of flows: ports and states.

use netd_common::clock::ticks;
use netd_common::flow::after;
use netd_common::port::Range;
use netd_common::proto;
use netd_common::proto::sctp;
use netd_common::state::State;
use netd_common::tcp::{self, Peer};
use netd_common::timeout::{DEFAULT_TIMEOUTS, Timeout, expired};

use super::input::Input;

/// Ranges of up to so many ports are walked to their end.
const WALKED: u32 = 2048;

/// Input: first and last port, the guest's own, a random number, a try.
pub fn port_range(data: &[u8]) {
    let mut input = Input(data);
    let values = (|| {
        let (first, last, own) = (input.u16()?, input.u16()?, input.u16()?);
        Some((first, last, own, input.u32()?, input.u32()?))
    })();
    let Some((first, last, own, random, attempt)) = values else {
        return;
    };
    let range = Range::new(first, last);
    assert!(range.first <= range.last, "{range:?}");
    assert!(first == 0 || last == 0 || first > last || (range.first, range.last) == (first, last));
    assert!(range.contains(own) || own < range.first || range.last < own);
    let at = |attempt| range.candidate(own, attempt, random);
    assert!(range.contains(at(attempt % range.tries())));
    assert!(!range.contains(own) || at(0) == own, "the own one first");
    if range.len() > WALKED {
        return;
    }
    let mut tried = vec![false; range.len() as usize];
    for attempt in 0..range.tries() {
        let port = at(attempt);
        assert!(range.contains(port), "{port} of {range:?}");
        tried[usize::from(port - range.first)] = true;
    }
    assert!(tried.iter().all(|tried| *tried), "{range:?}, {random:#x}");
}

/// Both directions of a flow, as the programs keep them.
#[derive(Default)]
struct FamilyConfig {
    fin: bool,
    ack: u32,
    window_end: u32,
}

/// Input: a protocol, then packets of six bytes each: direction and window scale, control bits or
/// chunk type, sequence number and acknowledgement (in short).
pub fn tcp_states(data: &[u8]) {
    let mut input = Input(data);
    let Some([protocol]) = input.take() else {
        return;
    };
    let protocol = [
        proto::TCP,
        proto::TCP,
        proto::SCTP,
        proto::UDP,
        proto::ICMP,
        47,
    ][usize::from(protocol % 6)];
    let mut state = State::New;
    let mut sides = [FamilyConfig::default(), FamilyConfig::default()];
    let mut sent = [false; 2];
    while let Some([direction, control, seq, ack, high, low]) = input.take() {
        let reply = direction & 1 != 0;
        let (own, other) = (usize::from(reply), usize::from(!reply));
        sent[own] = true;
        let seq = u32::from(seq) << 24 | u32::from(high);
        let ack = u32::from(ack) << 24 | u32::from(low);
        let scale = direction >> 1;
        if protocol == proto::TCP {
            let peer = Peer {
                ack: sides[other].ack,
                window_end: sides[other].window_end,
            };
            if control & tcp::RST != 0 && !peer.may_reset(seq) {
                let window = peer.window_end.wrapping_sub(peer.ack);
                assert!(seq.wrapping_sub(peer.ack) > window, "{peer:?} {seq}");
                continue;
            }
            if tcp::reopens(state, control) {
                assert_eq!(control & (tcp::SYN | tcp::ACK), tcp::SYN);
                assert!(tcp::may_open(control & !tcp::FIN));
                (state, sent) = (State::New, [!reply, reply]);
                sides = [FamilyConfig::default(), FamilyConfig::default()];
                continue;
            }
            sides[own].fin |= control & tcp::FIN != 0;
            if control & (tcp::ACK | tcp::RST) == tcp::ACK {
                sides[own].ack = ack;
                sides[own].window_end = tcp::window_end(ack, u16::from(high) << 8, scale, control);
                let window = sides[own].window_end.wrapping_sub(ack);
                assert!(window <= 0xffff << tcp::MAX_WSCALE, "{window}");
            }
        }
        let fins = u8::from(sides[own].fin) | u8::from(sides[other].fin) << 1;
        let next = after(state, protocol, reply, control, fins);
        check(protocol, state, next, reply, control);
        assert!(
            next == State::New || next == State::Close || sent[1],
            "{next:?} without an answer"
        );
        state = next;
    }
}

/// What holds for each step.
fn check(protocol: u8, state: State, next: State, reply: bool, control: u8) {
    let step = format!("protocol {protocol}: {state:?} to {next:?} by {control:#x}");
    assert_eq!(State::from_u8(next as u8), next, "{step}");
    // The fast path looks at a packet only when it is notable or the state is moving: no other
    // packet may change anything.
    let notable = match protocol {
        proto::TCP => control & (tcp::SYN | tcp::FIN | tcp::RST) != 0,
        proto::SCTP => matches!(
            control,
            sctp::INIT
                | sctp::ABORT
                | sctp::SHUTDOWN
                | sctp::SHUTDOWN_ACK
                | sctp::COOKIE_ACK
                | sctp::SHUTDOWN_COMPLETE
        ),
        _ => false,
    };
    assert!(
        notable || state.needs_tracking(reply) || next == state,
        "unseen: {step}"
    );
    if protocol == proto::TCP {
        assert!(
            state != State::Close || next == State::Close,
            "back to life: {step}"
        );
        assert_eq!(
            next == State::Close,
            state == State::Close || control & tcp::RST != 0,
            "{step}"
        );
        // No end of a connection without a FIN of each side.
        assert!(
            next != State::TimeWait || matches!(state, State::LastAck | State::TimeWait),
            "{step}"
        );
    }
    let timeout = DEFAULT_TIMEOUTS[Timeout::of(protocol, next) as usize];
    assert!(timeout >= ticks(1) && !expired(timeout, 0, 0, timeout));
    assert!(expired(timeout, 0, 0, timeout + 1));
}
