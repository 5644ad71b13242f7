//! How long a flow may be silent.

use crate::clock::ticks;
use crate::proto;
use crate::state::State;

/// The table of timeouts: hands all of it to a macro, as lines of
/// `Variant = setting, seconds, "What it is for.";`. Defaults are netfilter's
/// (`nf_conntrack_*_timeout`, `ipfrag_time`).
#[macro_export]
macro_rules! timeouts {
    ($macro:ident) => {
        $macro! {
            TcpSynSent = tcp_syn_sent, 120, "A SYN was sent.";
            TcpSynRecv = tcp_syn_recv, 60, "It was answered.";
            TcpEstablished = tcp_established, 432_000, "The handshake is complete.";
            TcpFinWait = tcp_fin_wait, 120, "One side has sent a FIN.";
            TcpCloseWait = tcp_close_wait, 60, "That FIN was acknowledged.";
            TcpLastAck = tcp_last_ack, 30, "Both sides have sent a FIN.";
            TcpTimeWait = tcp_time_wait, 120, "Both FINs were acknowledged.";
            TcpClose = tcp_close, 10, "A RST was sent.";
            Udp = udp, 30, "UDP, DCCP and UDP-Lite without an answer, or with one alone.";
            UdpStream = udp_stream, 120, "The same in both directions.";
            Icmp = icmp, 30, "Echo requests and other queries, of both families.";
            SctpOpening = sctp_opening, 10, "SCTP before both sides have agreed.";
            SctpEstablished = sctp_established, 210, "SCTP after that.";
            SctpClosing = sctp_closing, 3, "SCTP that is shutting down.";
            Generic = generic, 600, "Any other protocol.";
            Fragment = fragment, 30, "What is known of a packet's later fragments.";
            Gre = gre, 30, "GRE without an answer, or with one alone.";
            GreStream = gre_stream, 180, "GRE in both directions.";
        }
    };
}

macro_rules! declare {
    ($($variant:ident = $setting:ident, $seconds:literal, $doc:literal;)*) => {
        /// Index into [`crate::abi::Control::timeouts`].
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Timeout {
            $(#[doc = $doc] $variant,)*
        }

        /// Number of [`Timeout`]s.
        pub const TIMEOUTS: usize = [$(Timeout::$variant),*].len();

        /// The defaults in [`crate::clock::tick`]s.
        pub const DEFAULT_TIMEOUTS: [u32; TIMEOUTS] = [$(ticks($seconds)),*];
    };
}
timeouts!(declare);

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

/// The timeouts of flows whose packets are not all looked at ([`State::needs_tracking`],
/// [`State::is_short_lived`]).
pub(crate) const UNMOVED: [Timeout; 12] = [
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
}
