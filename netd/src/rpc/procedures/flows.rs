//! What calls about connections carry.

use netd_common::state::State;

use crate::api::{Direction, FlowHalf, MAX_GUEST_ADDRESSES};
use crate::rpc::xdr::{Decode, Decoder, Encode, Encoder, List, Result, xdr_struct};

/// Most entries in a piece.
pub const FLOWS_MAX: usize = 65_536;

xdr_struct! {
    /// Arguments of FLOW_LIST.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct FlowListArgs {
        /// A [`crate::api::FlowFilter`] as JSON.
        pub filter: String,
        /// Where to go on; 0 is the beginning.
        pub from: u64,
    }
}

xdr_struct! {
    /// Result of FLOW_LIST.
    #[derive(Clone, Debug, PartialEq)]
    pub struct FlowListReply {
        /// Entries of connections.
        pub halves: List<FlowHalf, FLOWS_MAX>,
        /// Where to go on; 0 behind the last ones.
        pub next: u64,
    }
}

xdr_struct! {
    /// Result of FLOW_NAMES.
    #[derive(Clone, Debug, PartialEq)]
    pub struct FlowNamesReply {
        /// A [`crate::api::FlowNames`] without guests, as JSON.
        pub names: String,
        /// Its guests, a [`crate::api::GuestAddress`] each as JSON.
        pub guests: List<String, MAX_GUEST_ADDRESSES>,
    }
}

/// Bits beside protocol and state in the first word of a half.
const ANSWERS: u32 = 1 << 16;
const BY_STACK: u32 = 1 << 17;
const IS_FILTERED: u32 = 1 << 18;

/// Packed, since there may be millions: a word with protocol, state and bits, the four ends, and numbers.
impl Encode for FlowHalf {
    fn encode(&self, out: &mut Encoder) {
        let Self {
            protocol,
            state,
            answers,
            idle,
            timeout,
            packets:
                Direction {
                    source,
                    destination,
                    bridge,
                    way_out,
                    by_stack,
                    packets,
                    bytes,
                },
            new_source,
            new_destination,
            is_filtered,
        } = self;
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        let head = u32::from(*protocol)
            | (*state as u32) << 8
            | bit(*answers, ANSWERS)
            | bit(*by_stack, BY_STACK)
            | bit(*is_filtered, IS_FILTERED);
        head.encode(out);
        for end in [source, destination, new_source, new_destination] {
            end.encode(out);
        }
        for number in [idle, timeout, bridge, way_out] {
            number.encode(out);
        }
        packets.encode(out);
        bytes.encode(out);
    }
}

impl Decode for FlowHalf {
    fn decode(from: &mut Decoder) -> Result<Self> {
        let head = u32::decode(from)?;
        let [protocol, state, ..] = head.to_le_bytes();
        let [source, destination, new_source, new_destination] = four(from)?;
        let [idle, timeout, bridge, way_out] = four(from)?;
        Ok(Self {
            protocol,
            state: State::from_u8(state),
            answers: head & ANSWERS != 0,
            idle,
            timeout,
            packets: Direction {
                source,
                destination,
                bridge,
                way_out,
                by_stack: head & BY_STACK != 0,
                packets: u64::decode(from)?,
                bytes: u64::decode(from)?,
            },
            new_source,
            new_destination,
            is_filtered: head & IS_FILTERED != 0,
        })
    }
}

fn four<T: Decode>(from: &mut Decoder) -> Result<[T; 4]> {
    Ok([
        T::decode(from)?,
        T::decode(from)?,
        T::decode(from)?,
        T::decode(from)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::message::MESSAGE_MAX;
    use crate::rpc::xdr::{from_bytes, to_bytes};

    #[test]
    fn an_entry_comes_back_and_a_piece_fits_in_a_message() {
        let half = |answers, by_stack, is_filtered| FlowHalf {
            protocol: 255,
            state: State::TimeWait,
            answers,
            idle: 1,
            timeout: 2,
            packets: Direction {
                source: "[fd00::2]:5000".parse().unwrap(),
                destination: "[2001:db8::1]:443".parse().unwrap(),
                bridge: 5,
                way_out: 7,
                by_stack,
                packets: u64::MAX,
                bytes: 1,
            },
            new_source: "[2001:db8::2]:1024".parse().unwrap(),
            new_destination: "[2001:db8::1]:444".parse().unwrap(),
            is_filtered,
        };
        for bits in 0..8 {
            let half = half(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let encoded = to_bytes(&half).unwrap();
            assert!(encoded.len() * FLOWS_MAX < MESSAGE_MAX, "{}", encoded.len());
            assert_eq!(from_bytes(encoded), Ok(half));
        }
    }
}
