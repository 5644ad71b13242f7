//! States of a flow and how long each may be silent.

use crate::abi::ticks;

/// Protocol numbers netd looks into (IANA).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// TCP control bits (RFC 9293, section 3.1) as they stand in byte 13 of the header.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// State of a flow; both entries carry the same.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer was seen.
    New = 0,
    /// Both sides have sent.
    Established = 1,
    /// A FIN or RST was seen.
    Closing = 2,
    /// TCP: a SYN was answered by a SYN with ACK, and the opener has not confirmed it. A forged
    /// SYN comes to here and no further.
    Answered = 3,
}

impl State {
    /// The state a map's byte stands for.
    #[inline(always)]
    #[must_use]
    pub fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Established,
            2 => Self::Closing,
            3 => Self::Answered,
            _ => Self::New,
        }
    }

    /// State after one more packet. `reply` says that it goes in the answering direction,
    /// `control` holds its TCP control bits (0 for other protocols).
    #[inline(always)]
    #[must_use]
    pub fn after(self, reply: bool, control: u8) -> Self {
        if control & tcp::RST != 0 || control & tcp::FIN != 0 {
            return Self::Closing;
        }
        match self {
            // The same ports are used again (RFC 9293, 3.6.1 allows it out of TIME-WAIT).
            Self::Closing if control & (tcp::SYN | tcp::ACK) == tcp::SYN => Self::New,
            Self::New if reply && control & tcp::SYN != 0 => Self::Answered,
            Self::New if reply => Self::Established,
            Self::Answered if !reply && control & tcp::SYN == 0 => Self::Established,
            state => state,
        }
    }

    /// How long a flow in this state may be silent, in [`crate::abi::tick`]s: netfilter's
    /// defaults (`nf_conntrack_*_timeout`).
    #[inline(always)]
    #[must_use]
    pub fn timeout(self, protocol: u8) -> u32 {
        const TCP_SYN_SENT: u32 = ticks(120);
        const TCP_SYN_RECEIVED: u32 = ticks(60);
        const TCP_ESTABLISHED: u32 = ticks(432_000);
        const TCP_CLOSING: u32 = ticks(120);
        const UDP: u32 = ticks(30);
        const UDP_STREAM: u32 = ticks(120);
        const ICMP: u32 = ticks(30);
        match (protocol, self) {
            (proto::TCP, Self::New) => TCP_SYN_SENT,
            (proto::TCP, Self::Answered) => TCP_SYN_RECEIVED,
            (proto::TCP, Self::Established) => TCP_ESTABLISHED,
            (proto::TCP, Self::Closing) => TCP_CLOSING,
            (proto::UDP, Self::Established) => UDP_STREAM,
            (proto::UDP, _) => UDP,
            _ => ICMP,
        }
    }
}

/// Is a flow dead at `now`, whose two directions were last seen at `a` and `b`? Ticks wrap; a
/// time in the future (a tick later read on another CPU) counts as now.
#[inline(always)]
#[must_use]
pub fn expired(state: State, protocol: u8, a: u32, b: u32, now: u32) -> bool {
    let idle = |seen: u32| {
        let idle = now.wrapping_sub(seen);
        if idle > u32::MAX / 2 { 0 } else { idle }
    };
    let (a, b) = (idle(a), idle(b));
    (if a < b { a } else { b }) > state.timeout(protocol)
}

/// May a packet with these TCP control bits open a flow? Like netfilter with
/// `nf_conntrack_tcp_loose`: a SYN, or data of a connection that netd has not seen the start of;
/// never a RST, a FIN or the answer to a SYN.
#[inline(always)]
#[must_use]
pub fn may_open(control: u8) -> bool {
    if control & (tcp::RST | tcp::FIN) != 0 {
        return false;
    }
    match control & (tcp::SYN | tcp::ACK) {
        0 => false,
        both if both == tcp::SYN | tcp::ACK => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_becomes_a_stream_when_answered() {
        let s = State::New.after(false, 0);
        assert_eq!(s, State::New);
        let s = s.after(true, 0);
        assert_eq!(s, State::Established);
        assert!(s.timeout(proto::UDP) > State::New.timeout(proto::UDP));
    }

    #[test]
    fn tcp_is_established_by_its_third_packet() {
        let s = State::New.after(false, tcp::SYN);
        assert_eq!(s, State::New);
        let s = s.after(true, tcp::SYN | tcp::ACK);
        assert_eq!(s, State::Answered);
        assert_eq!(s.after(true, tcp::SYN | tcp::ACK), State::Answered);
        assert_eq!(s.after(false, tcp::SYN), State::Answered);
        assert_eq!(s.timeout(proto::TCP), ticks(60));
        assert_eq!(s.after(false, tcp::ACK), State::Established);
    }

    #[test]
    fn tcp_closes_on_fin_and_rst_and_opens_again_on_syn() {
        assert_eq!(
            State::Established.after(false, tcp::FIN | tcp::ACK),
            State::Closing
        );
        assert_eq!(State::New.after(true, tcp::RST | tcp::ACK), State::Closing);
        assert_eq!(State::Closing.after(true, tcp::ACK), State::Closing);
        assert_eq!(State::Closing.after(false, tcp::SYN), State::New);
    }

    #[test]
    fn either_direction_keeps_a_flow_alive() {
        let limit = State::New.timeout(proto::UDP);
        assert!(!expired(State::New, proto::UDP, 0, 100, 100 + limit));
        assert!(expired(State::New, proto::UDP, 0, 100, 101 + limit));
    }

    #[test]
    fn the_clock_may_wrap_and_run_ahead() {
        assert!(!expired(State::New, proto::UDP, u32::MAX, u32::MAX, 3));
        assert!(!expired(State::New, proto::UDP, 5, 5, 4));
    }

    #[test]
    fn only_openers_open() {
        assert!(may_open(tcp::SYN));
        assert!(may_open(tcp::ACK));
        assert!(!may_open(tcp::SYN | tcp::ACK));
        assert!(!may_open(tcp::RST));
        assert!(!may_open(tcp::RST | tcp::ACK));
        assert!(!may_open(tcp::FIN | tcp::ACK));
        assert!(!may_open(0));
    }
}
