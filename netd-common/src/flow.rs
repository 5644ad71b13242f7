//! States of a flow and how long each may be silent.

use crate::abi::ticks;
use crate::tcp;

/// Protocol numbers netd looks into (IANA).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340), whose ports and checksum lie where UDP has them.
    pub const DCCP: u8 = 33;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828), likewise.
    pub const UDP_LITE: u8 = 136;
}

/// Chunk types of SCTP (RFC 9260, section 3.2) that change a flow's state.
pub mod sctp {
    /// INIT.
    pub const INIT: u8 = 1;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// SHUTDOWN.
    pub const SHUTDOWN: u8 = 7;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 11;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// State of a flow; both entries carry the same.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer was seen.
    New = 0,
    /// An answer was seen, and its receiver has not shown that it got it: TCP after SYN and
    /// SYN-ACK, UDP after one exchange. A forged opener comes to here and no further.
    Answered = 1,
    /// Both sides have sent.
    Established = 2,
    /// TCP: one side has sent its FIN.
    FinWait = 3,
    /// TCP: it was acknowledged, and the other side may go on sending.
    CloseWait = 4,
    /// TCP: both sides have sent theirs.
    LastAck = 5,
    /// TCP: both were acknowledged.
    TimeWait = 6,
    /// Ended by a RST (TCP) or for good (SCTP).
    Close = 7,
}

impl State {
    /// The state a map's byte stands for.
    #[inline(always)]
    #[must_use]
    pub fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Answered,
            2 => Self::Established,
            3 => Self::FinWait,
            4 => Self::CloseWait,
            5 => Self::LastAck,
            6 => Self::TimeWait,
            7 => Self::Close,
            _ => Self::New,
        }
    }

    /// Has a flow of the protocol only seconds to live in this state, though the state does not say so?
    /// Then each of its packets is to be looked at.
    #[inline(always)]
    #[must_use]
    pub fn is_brief(self, protocol: u8) -> bool {
        protocol == proto::SCTP && self as u8 != Self::Established as u8
    }

    /// May a flow in this state go when room is needed? Never one that both sides use.
    #[inline(always)]
    #[must_use]
    pub fn may_go(self) -> bool {
        !matches!(
            self,
            Self::Established | Self::FinWait | Self::CloseWait | Self::LastAck
        )
    }

    /// Is each packet of this direction to be looked at? The next one changes the state, whatever it
    /// is, or the flow is over and lives for some seconds yet.
    #[inline(always)]
    #[must_use]
    pub fn is_moving(self, reply: bool) -> bool {
        match self {
            Self::New => reply,
            Self::Answered => !reply,
            Self::FinWait | Self::LastAck | Self::Close => true,
            Self::Established | Self::CloseWait | Self::TimeWait => false,
        }
    }
}

/// State after one more packet of a protocol. `reply` says that it goes in the answering
/// direction; `control` holds TCP's control bits or SCTP's first chunk type, `fins` is as for
/// [`tcp::after`].
#[inline(always)]
#[must_use]
pub fn after(state: State, protocol: u8, reply: bool, control: u8, fins: u8) -> State {
    match protocol {
        proto::TCP => tcp::after(state, reply, control, fins),
        proto::SCTP => match control {
            sctp::ABORT | sctp::SHUTDOWN_COMPLETE => State::Close,
            // Nobody has answered: whatever the opener says, its flow may go when room is needed.
            _ if state as u8 == State::New as u8 && !reply => state,
            sctp::SHUTDOWN | sctp::SHUTDOWN_ACK if state as u8 != State::Close as u8 => {
                State::FinWait
            }
            sctp::COOKIE_ACK if reply => State::Established,
            _ if state as u8 == State::New as u8 => State::Answered,
            _ => state,
        },
        _ => match state {
            State::New if reply => State::Answered,
            State::Answered if !reply => State::Established,
            state => state,
        },
    }
}

/// The settable timeouts: index into [`crate::abi::Control::timeouts`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// SYN sent.
    TcpSynSent = 0,
    /// SYN answered.
    TcpSynRecv = 1,
    /// Open.
    TcpEstablished = 2,
    /// One FIN seen.
    TcpFinWait = 3,
    /// It was acknowledged.
    TcpCloseWait = 4,
    /// Both FINs seen.
    TcpLastAck = 5,
    /// Both acknowledged.
    TcpTimeWait = 6,
    /// RST seen.
    TcpClose = 7,
    /// UDP, not answered or answered once.
    Udp = 8,
    /// UDP, both sides talking.
    UdpStream = 9,
    /// Echo.
    Icmp = 10,
    /// SCTP before it is open.
    SctpOpening = 11,
    /// SCTP, open.
    SctpEstablished = 12,
    /// SCTP, ending.
    SctpClosing = 13,
    /// Any other protocol.
    Generic = 14,
    /// First fragments, waiting for the others.
    Fragment = 15,
    /// GRE, not answered or answered once.
    Gre = 16,
    /// GRE, both sides talking.
    GreStream = 17,
}

/// Number of [`Timeout`]s.
pub const TIMEOUTS: usize = 18;

/// Netfilter's defaults (`nf_conntrack_*_timeout`, `ipfrag_time`) in [`crate::abi::tick`]s.
pub const DEFAULT_TIMEOUTS: [u32; TIMEOUTS] = [
    ticks(120),
    ticks(60),
    ticks(432_000),
    ticks(120),
    ticks(60),
    ticks(30),
    ticks(120),
    ticks(10),
    ticks(30),
    ticks(120),
    ticks(30),
    ticks(10),
    ticks(210),
    ticks(3),
    ticks(600),
    ticks(30),
    ticks(30),
    ticks(180),
];

impl Timeout {
    /// The timeout of a flow of a protocol in a state.
    #[inline(always)]
    #[must_use]
    pub fn of(protocol: u8, state: State) -> Self {
        match protocol {
            proto::TCP => match state {
                State::New => Self::TcpSynSent,
                State::Answered => Self::TcpSynRecv,
                State::Established => Self::TcpEstablished,
                State::FinWait => Self::TcpFinWait,
                State::CloseWait => Self::TcpCloseWait,
                State::LastAck => Self::TcpLastAck,
                State::TimeWait => Self::TcpTimeWait,
                State::Close => Self::TcpClose,
            },
            proto::UDP | proto::UDP_LITE | proto::DCCP => match state {
                State::New | State::Answered => Self::Udp,
                _ => Self::UdpStream,
            },
            proto::ICMP | proto::ICMPV6 => Self::Icmp,
            proto::SCTP => match state {
                State::New | State::Answered => Self::SctpOpening,
                State::Established => Self::SctpEstablished,
                _ => Self::SctpClosing,
            },
            proto::GRE => match state {
                State::New | State::Answered => Self::Gre,
                _ => Self::GreStream,
            },
            _ => Self::Generic,
        }
    }
}

/// The timeouts of flows whose packets are not all looked at ([`State::is_moving`],
/// [`State::is_brief`]).
const UNMOVED: [Timeout; 12] = [
    Timeout::TcpSynSent,
    Timeout::TcpSynRecv,
    Timeout::TcpEstablished,
    Timeout::TcpCloseWait,
    Timeout::TcpTimeWait,
    Timeout::Udp,
    Timeout::UdpStream,
    Timeout::Icmp,
    Timeout::SctpEstablished,
    Timeout::Generic,
    Timeout::Gre,
    Timeout::GreStream,
];

/// Who is silent for no longer than this, in the timeouts' unit, is alive, unless each of the flow's
/// packets is looked at anyway.
#[must_use]
pub fn surely_alive(timeouts: &[u32; TIMEOUTS]) -> u32 {
    let all = UNMOVED.map(|timeout| timeouts[timeout as usize]);
    all.into_iter().fold(u32::MAX, u32::min)
}

/// Ticks between `seen` and `now`. They wrap; a time in the future (a tick later, read on another
/// CPU) counts as now.
#[inline(always)]
#[must_use]
pub fn idle(seen: u32, now: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// Is a flow dead at `now` whose two directions were last seen at `a` and `b`? `timeout` is in
/// ticks.
#[inline(always)]
#[must_use]
pub fn expired(timeout: u32, a: u32, b: u32, now: u32) -> bool {
    let (a, b) = (idle(a, now), idle(b, now));
    (if a < b { a } else { b }) > timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_packets_do_not_move_have_the_timeouts_of_such() {
        for protocol in 0..=255 {
            let mut known = vec![State::New];
            let mut at = 0;
            while let Some(&state) = known.get(at) {
                at += 1;
                for reply in [false, true] {
                    let timeout = Timeout::of(protocol, state);
                    if !state.is_moving(reply) && !state.is_brief(protocol) {
                        assert!(
                            UNMOVED.contains(&timeout),
                            "{protocol} {state:?} {timeout:?}"
                        );
                    }
                    for (control, fins) in (0..=255).flat_map(|c| (0..4).map(move |f| (c, f))) {
                        let next = after(state, protocol, reply, control, fins);
                        if !known.contains(&next) {
                            known.push(next);
                        }
                    }
                }
            }
        }
        assert_eq!(surely_alive(&DEFAULT_TIMEOUTS), ticks(30));
    }

    #[test]
    fn udp_becomes_a_stream_when_its_answer_is_answered() {
        let s = after(State::New, proto::UDP, false, 0, 0);
        assert_eq!(s, State::New);
        let s = after(s, proto::UDP, true, 0, 0);
        assert_eq!(s, State::Answered);
        assert_eq!(after(s, proto::UDP, true, 0, 0), State::Answered);
        assert_eq!(Timeout::of(proto::UDP, s), Timeout::Udp);
        let s = after(s, proto::UDP, false, 0, 0);
        assert_eq!(Timeout::of(proto::UDP, s), Timeout::UdpStream);
    }

    #[test]
    fn sctp_opens_and_ends() {
        let mut s = State::New;
        for (reply, chunk, want) in [
            (false, sctp::INIT, State::New),
            (true, 2, State::Answered),
            (false, 10, State::Answered),
            (true, sctp::COOKIE_ACK, State::Established),
            (false, 0, State::Established),
            (true, sctp::SHUTDOWN, State::FinWait),
            (false, sctp::SHUTDOWN_ACK, State::FinWait),
            (true, sctp::SHUTDOWN_COMPLETE, State::Close),
        ] {
            s = after(s, proto::SCTP, reply, chunk, 0);
            assert_eq!(s, want, "chunk {chunk}");
        }
    }

    /// A flood must not consist of flows that may not go.
    #[test]
    fn p01_an_sctp_opener_alone_gets_nowhere() {
        for chunk in 0..=255 {
            let state = after(State::New, proto::SCTP, false, chunk, 0);
            assert!(state.may_go(), "chunk {chunk}: {state:?}");
        }
        let closed = after(State::Close, proto::SCTP, false, sctp::SHUTDOWN, 0);
        assert_eq!(closed, State::Close);
        let answered = State::Answered;
        assert_eq!(
            after(answered, proto::SCTP, false, sctp::COOKIE_ACK, 0),
            answered
        );
    }

    #[test]
    fn p12_timeouts_are_netfilters() {
        let of = |protocol, state| DEFAULT_TIMEOUTS[Timeout::of(protocol, state) as usize];
        assert_eq!(of(proto::TCP, State::Established), ticks(432_000));
        assert_eq!(of(proto::TCP, State::Answered), ticks(60));
        assert_eq!(of(proto::TCP, State::TimeWait), ticks(120));
        assert_eq!(of(proto::UDP, State::New), ticks(30));
        assert_eq!(of(proto::UDP, State::Established), ticks(120));
        assert_eq!(of(proto::SCTP, State::Established), ticks(210));
        assert_eq!(of(proto::GRE, State::New), ticks(30));
        assert_eq!(of(proto::GRE, State::Established), ticks(180));
        assert_eq!(of(50, State::New), ticks(600));
    }

    #[test]
    fn either_direction_keeps_a_flow_alive() {
        assert!(!expired(28, 0, 100, 128));
        assert!(expired(28, 0, 100, 129));
        assert!(expired(28, 100, 0, 129));
    }

    #[test]
    fn the_clock_may_wrap_and_run_ahead() {
        assert!(!expired(28, u32::MAX, u32::MAX, 3));
        assert!(!expired(28, 5, 5, 4));
    }

    #[test]
    fn what_both_sides_use_never_goes() {
        assert!(State::New.may_go());
        assert!(State::Answered.may_go());
        assert!(State::TimeWait.may_go());
        assert!(!State::Established.may_go());
        assert!(!State::CloseWait.may_go());
    }
}
