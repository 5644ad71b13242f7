//! States of a flow.

use crate::proto;

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
    pub fn is_short_lived(self, protocol: u8) -> bool {
        protocol == proto::SCTP && self as u8 != Self::Established as u8
    }

    /// May a flow in this state go when room is needed? Never one that both sides use.
    #[inline(always)]
    #[must_use]
    pub fn is_evictable(self) -> bool {
        !matches!(
            self,
            Self::Established | Self::FinWait | Self::CloseWait | Self::LastAck
        )
    }

    /// Is each packet of this direction to be looked at? The next one changes the state, whatever it
    /// is, or the flow is over and lives for some seconds yet.
    #[inline(always)]
    #[must_use]
    pub fn needs_tracking(self, reply: bool) -> bool {
        match self {
            Self::New => reply,
            Self::Answered => !reply,
            Self::FinWait | Self::LastAck | Self::Close => true,
            Self::Established | Self::CloseWait | Self::TimeWait => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_sides_use_never_goes() {
        assert!(State::New.is_evictable());
        assert!(State::Answered.is_evictable());
        assert!(State::TimeWait.is_evictable());
        assert!(!State::Established.is_evictable());
        assert!(!State::CloseWait.is_evictable());
    }
}
