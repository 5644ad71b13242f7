//! A flow's state after each of its packets.

use crate::proto::{self, sctp};
use crate::state::State;
use crate::tcp;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ticks;
    use crate::timeout::{DEFAULT_TIMEOUTS, Timeout, UNMOVED, surely_alive};

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
            assert!(state.is_evictable(), "chunk {chunk}: {state:?}");
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
    fn flows_that_packets_do_not_move_have_the_timeouts_of_such() {
        for protocol in 0..=255 {
            let mut known = vec![State::New];
            let mut at = 0;
            while let Some(&state) = known.get(at) {
                at += 1;
                for reply in [false, true] {
                    let timeout = Timeout::of(protocol, state);
                    if !state.needs_tracking(reply) && !state.is_short_lived(protocol) {
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
}
