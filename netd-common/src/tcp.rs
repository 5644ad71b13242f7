//! TCP as a translator sees it (RFC 9293): control bits, states, and whether a RST can be genuine.

use crate::state::State;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// Largest shift count of a window (RFC 7323, section 2.3).
pub const MAX_WSCALE: u8 = 14;

/// State after a segment. `reply` says that it goes in the answering direction; `fins` which
/// directions have sent their FIN, this segment's included: bit 0 the sender's, bit 1 the other's.
///
/// The states and what leads from one to the next are netfilter's (`nf_conntrack_proto_tcp.c`),
/// but for one thing: which side's FIN was seen is remembered, so that one side repeating its FIN
/// does not count as the other side closing. A RST that may be forged must not come here
/// ([`Peer::may_reset`]), nor a SYN that opens anew ([`reopens`]).
#[inline(always)]
#[must_use]
pub fn after(state: State, reply: bool, control: u8, fins: u8) -> State {
    if control & RST != 0 {
        return State::Close;
    }
    match state {
        State::New if reply && control & (SYN | ACK) == SYN | ACK => State::Answered,
        State::New if reply && control & SYN == 0 => closing(State::Established, control, fins),
        State::Answered if !reply && control & SYN == 0 => {
            closing(State::Established, control, fins)
        }
        // The answer was lost or came by another way, and the answering side goes on to send.
        State::New | State::Answered | State::Close => state,
        _ => closing(state, control, fins),
    }
}

/// The way from an open connection to a closed one.
#[inline(always)]
fn closing(state: State, control: u8, fins: u8) -> State {
    match (state, fins) {
        (State::TimeWait, _) => State::TimeWait,
        (State::LastAck, _) if control & (FIN | ACK) == ACK => State::TimeWait,
        (_, 3) => State::LastAck,
        (State::Established, 1 | 2) => State::FinWait,
        // The other side acknowledges the FIN, or goes on sending.
        (State::FinWait, 2) if control & ACK != 0 => State::CloseWait,
        (state, _) => state,
    }
}

/// Does a SYN on a flow in this state begin a new connection, to be judged like any (RFC 9293,
/// section 3.6.1, for TIME-WAIT)?
#[inline(always)]
#[must_use]
pub fn reopens(state: State, control: u8) -> bool {
    control & (SYN | ACK | RST) == SYN && matches!(state, State::TimeWait | State::Close)
}

/// May a segment with these control bits open a flow? Like netfilter with
/// `nf_conntrack_tcp_loose`: a SYN, or data of a connection that netd has not seen the start of;
/// never a RST, a FIN or the answer to a SYN.
#[inline(always)]
#[must_use]
pub fn may_open(control: u8) -> bool {
    if control & (RST | FIN) != 0 {
        return false;
    }
    match control & (SYN | ACK) {
        0 => false,
        both if both == SYN | ACK => false,
        _ => true,
    }
}

/// What one side has told the other it will accept.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its last acknowledgement number.
    pub ack: u32,
    /// End of the window it offered with it.
    pub window_end: u32,
}

impl Peer {
    /// Can a RST with sequence number `seq`, sent to this side, be genuine (RFC 9293, section
    /// 3.10.7.4: in the window)? Whoever forges one has to hit the window, as with any TCP; the
    /// segment is forwarded either way, since its addressee knows better (RFC 5961, section 3).
    #[inline(always)]
    #[must_use]
    pub fn may_reset(self, seq: u32) -> bool {
        seq.wrapping_sub(self.ack) <= self.window_end.wrapping_sub(self.ack)
    }
}

/// End of the window that a segment offers. The window of a SYN is never scaled (RFC 7323,
/// section 2.2).
#[inline(always)]
#[must_use]
pub fn window_end(ack: u32, window: u16, wscale: u8, control: u8) -> u32 {
    let shift = if control & SYN != 0 || wscale > MAX_WSCALE {
        0
    } else {
        wscale
    };
    ack.wrapping_add(u32::from(window) << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both sides of one connection.
    struct Connection {
        state: State,
        fins: [bool; 2],
    }

    impl Connection {
        fn new() -> Self {
            Self {
                state: State::New,
                fins: [false; 2],
            }
        }

        fn send(&mut self, reply: bool, control: u8) -> State {
            let (own, other) = (usize::from(reply), usize::from(!reply));
            self.fins[own] |= control & FIN != 0;
            let fins = u8::from(self.fins[own]) | u8::from(self.fins[other]) << 1;
            self.state = after(self.state, reply, control, fins);
            self.state
        }

        fn open() -> Self {
            let mut c = Self::new();
            assert_eq!(c.send(false, SYN), State::New);
            assert_eq!(c.send(true, SYN | ACK), State::Answered);
            assert_eq!(c.send(false, ACK), State::Established);
            c
        }
    }

    #[test]
    fn three_segments_open() {
        let mut c = Connection::new();
        assert_eq!(c.send(false, SYN), State::New);
        assert_eq!(c.send(false, SYN), State::New);
        assert_eq!(c.send(true, SYN | ACK), State::Answered);
        assert_eq!(c.send(true, SYN | ACK), State::Answered);
        assert_eq!(c.send(false, SYN), State::Answered);
        assert_eq!(c.send(false, ACK), State::Established);
    }

    #[test]
    fn simultaneous_open() {
        let mut c = Connection::new();
        c.send(false, SYN);
        assert_eq!(c.send(true, SYN), State::New);
        assert_eq!(c.send(false, SYN | ACK), State::New);
        assert_eq!(c.send(true, SYN | ACK), State::Answered);
        assert_eq!(c.send(false, ACK), State::Established);
    }

    #[test]
    fn the_opener_closes_first() {
        let mut c = Connection::open();
        assert_eq!(c.send(false, FIN | ACK), State::FinWait);
        assert_eq!(c.send(false, FIN | ACK), State::FinWait, "repeated");
        assert_eq!(c.send(true, ACK), State::CloseWait);
        assert_eq!(c.send(true, ACK), State::CloseWait, "half closed, sending");
        assert_eq!(c.send(false, ACK), State::CloseWait);
        assert_eq!(c.send(true, FIN | ACK), State::LastAck);
        assert_eq!(c.send(true, FIN | ACK), State::LastAck, "repeated");
        assert_eq!(c.send(false, ACK), State::TimeWait);
        assert_eq!(c.send(true, FIN | ACK), State::TimeWait);
    }

    #[test]
    fn the_answerer_closes_first_and_both_at_once() {
        let mut c = Connection::open();
        assert_eq!(c.send(true, FIN | ACK), State::FinWait);
        assert_eq!(c.send(false, FIN | ACK), State::LastAck);
        assert_eq!(c.send(true, ACK), State::TimeWait);
    }

    #[test]
    fn reset_closes_and_only_a_new_syn_reopens() {
        let mut c = Connection::open();
        assert_eq!(c.send(true, RST), State::Close);
        assert_eq!(c.send(false, ACK), State::Close);
        assert!(reopens(State::Close, SYN));
        assert!(reopens(State::TimeWait, SYN));
        assert!(!reopens(State::Established, SYN));
        assert!(!reopens(State::Close, SYN | ACK));
    }

    #[test]
    fn only_openers_open() {
        assert!(may_open(SYN));
        assert!(may_open(ACK));
        for control in [SYN | ACK, RST, RST | ACK, FIN | ACK, 0] {
            assert!(!may_open(control), "{control:#x}");
        }
    }

    #[test]
    fn windows_are_scaled_but_in_a_syn() {
        assert_eq!(window_end(1000, 10, 7, ACK), 1000 + (10 << 7));
        assert_eq!(window_end(1000, 10, 7, SYN | ACK), 1010);
        assert_eq!(window_end(u32::MAX, 2, 0, ACK), 1);
        assert_eq!(window_end(0, 1, 255, ACK), 1, "no such shift count");
    }

    proptest! {
        /// A RST outside the window is never taken for genuine, one inside always.
        #[test]
        fn only_the_window_resets(ack: u32, size in 0u32..1 << 30, seq: u32) {
            let peer = Peer { ack, window_end: ack.wrapping_add(size) };
            prop_assert_eq!(peer.may_reset(seq), seq.wrapping_sub(ack) <= size);
        }

        /// Whatever is sent: no state but Close after a RST, and no way back from there.
        #[test]
        fn close_is_final(segments in proptest::collection::vec((any::<bool>(), 0u8..32), 0..40)) {
            let mut c = Connection::new();
            let mut reset = false;
            for (reply, control) in segments {
                let state = c.send(reply, control);
                reset |= control & RST != 0;
                prop_assert_eq!(state == State::Close, reset);
            }
        }
    }
}
