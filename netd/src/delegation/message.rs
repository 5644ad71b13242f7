//! Messages of DHCPv6 (RFC 8415), as far as they are about one delegated prefix.
//!
//! What comes in is anybody's on the link: it is read within its length, and what contradicts itself is
//! none. Of a message only what the client asked for is kept.

use std::net::Ipv6Addr;

/// Kinds of messages (section 7.3).
pub mod kind {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
}

/// Options (section 21).
mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const ASKED_FOR: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const ELAPSED: u16 = 8;
    pub const STATUS: u16 = 13;
    pub const IA_PD: u16 = 25;
    pub const IA_PREFIX: u16 = 26;
    pub const SOLICIT_MAX_RT: u16 = 82;
}

/// Status codes (section 21.13).
pub const SUCCESS: u16 = 0;
/// The server knows nothing of the prefixes.
pub const NO_BINDING: u16 = 3;

/// The longest identifier (section 11.1).
const MAX_DUID: usize = 130;
/// Prefixes that are read of one message.
const MAX_PREFIXES: usize = 16;
/// Length of an IA_PD before its options, and of an IAPREFIX.
const IA_PD: usize = 12;
const IA_PREFIX: usize = 25;

/// What a client says.
pub struct Request<'a> {
    /// [`kind`].
    pub kind: u8,
    /// Transaction.
    pub transaction: [u8; 3],
    /// Who asks (DUID).
    pub client: &'a [u8],
    /// Which server is meant.
    pub server: Option<&'a [u8]>,
    /// Hundredths of a second since the exchange began.
    pub elapsed: u16,
    /// For which of the client's networks.
    pub network: [u8; 4],
    /// Prefixes that it has, or would like (unspecified: any of that length).
    pub prefixes: &'a [(Ipv6Addr, u8)],
}

impl Request<'_> {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let [a, b, c] = self.transaction;
        let mut out = vec![self.kind, a, b, c];
        put(&mut out, option::CLIENT_ID, self.client);
        if let Some(server) = self.server {
            put(&mut out, option::SERVER_ID, server);
        }
        put(&mut out, option::ELAPSED, &self.elapsed.to_be_bytes());
        // Section 18.2: what a client that solicits has to ask for.
        let asked = option::SOLICIT_MAX_RT.to_be_bytes();
        put(&mut out, option::ASKED_FOR, &asked);
        // T1 and T2 are the server's to say.
        let mut association = self.network.to_vec();
        association.extend([0; 8]);
        for (prefix, len) in self.prefixes {
            let mut one = vec![0; 8];
            one.push(*len);
            one.extend(prefix.octets());
            put(&mut association, option::IA_PREFIX, &one);
        }
        put(&mut out, option::IA_PD, &association);
        out
    }
}

fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Nothing here is longer than a few prefixes.
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(&value[..usize::from(len)]);
}

/// What a server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// [`kind`].
    pub kind: u8,
    /// Transaction.
    pub transaction: [u8; 3],
    /// Whom it answers.
    pub client: Vec<u8>,
    /// Which server it is.
    pub server: Vec<u8>,
    /// How much it wants to be chosen.
    pub preference: u8,
    /// Status of the whole, or of the association where that is worse.
    pub status: u16,
    /// The longest time between solicitations, in seconds.
    pub solicit_max_rt: Option<u32>,
    /// When to ask this server again, and then any, in seconds; 0 leaves it to the client.
    pub times: (u32, u32),
    /// The prefixes.
    pub prefixes: Vec<Granted>,
}

/// A prefix with its lifetimes, in seconds; all ones is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The prefix.
    pub prefix: (Ipv6Addr, u8),
    /// For so long it is good for new connections.
    pub preferred: u32,
    /// For so long it is good at all.
    pub valid: u32,
}

impl Answer {
    /// Reads a message about that network of the client's; `None` for what is none of a server's.
    pub fn read(bytes: &[u8], network: [u8; 4]) -> Option<Self> {
        let ([kind, a, b, c], options) = bytes.split_first_chunk()?;
        if !matches!(*kind, kind::ADVERTISE | kind::REPLY) {
            return None;
        }
        let mut answer = Self {
            kind: *kind,
            transaction: [*a, *b, *c],
            ..Self::default()
        };
        for option in Options(options) {
            let (code, value) = option?;
            match code {
                option::CLIENT_ID => answer.client = value.to_vec(),
                option::SERVER_ID if value.len() <= MAX_DUID => answer.server = value.to_vec(),
                option::PREFERENCE => answer.preference = *value.first()?,
                option::STATUS => answer.note_status(value)?,
                option::SOLICIT_MAX_RT => {
                    // Section 21.24: other values are ignored.
                    let seconds = u32::from_be_bytes(*value.first_chunk()?);
                    answer.solicit_max_rt = (60..=86400).contains(&seconds).then_some(seconds);
                }
                option::IA_PD => answer.read_association(value, network)?,
                _ => {}
            }
        }
        (!answer.server.is_empty() && !answer.client.is_empty()).then_some(answer)
    }

    fn note_status(&mut self, value: &[u8]) -> Option<()> {
        let status = u16::from_be_bytes(*value.first_chunk()?);
        if status != SUCCESS {
            self.status = status;
        }
        Some(())
    }

    fn read_association(&mut self, value: &[u8], network: [u8; 4]) -> Option<()> {
        let (head, options) = value.split_first_chunk::<IA_PD>()?;
        let [number, t1, t2] =
            [0, 4, 8].map(|at| [head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (t1, t2) = (u32::from_be_bytes(t1), u32::from_be_bytes(t2));
        // Section 21.21: such an association is to be discarded.
        if number != network || (t1 > t2 && t2 > 0) {
            return Some(());
        }
        self.times = (t1, t2);
        for option in Options(options) {
            match option? {
                (option::STATUS, value) => self.note_status(value)?,
                (option::IA_PREFIX, value) if self.prefixes.len() < MAX_PREFIXES => {
                    self.prefixes.extend(granted(value)?);
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// The prefix of an option; the inner `None` for one that nobody can use.
fn granted(value: &[u8]) -> Option<Option<Granted>> {
    let (head, _) = value.split_first_chunk::<IA_PREFIX>()?;
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (preferred, valid, len) = (number(0), number(4), head[8]);
    let address: [u8; 16] = *head[9..].first_chunk()?;
    if preferred > valid || !(8..=64).contains(&len) {
        return Some(None);
    }
    let mask = u128::MAX << (128 - u32::from(len));
    let address = Ipv6Addr::from(u128::from_be_bytes(address) & mask);
    // Of these no guest can have one.
    let reserved =
        address.is_multicast() || address.is_unicast_link_local() || address.segments()[0] == 0;
    Some((!reserved).then_some(Granted {
        prefix: (address, len),
        preferred,
        valid,
    }))
}

/// The options of a message or option; `None` is the last one where they are cut off.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let one = || {
            let (head, rest) = rest.split_first_chunk::<4>()?;
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (value, rest) = rest.split_at_checked(len)?;
            Some((u16::from_be_bytes([head[0], head[1]]), value, rest))
        };
        Some(one().map(|(code, value, rest)| {
            self.0 = rest;
            (code, value)
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETWORK: [u8; 4] = [1, 2, 3, 4];

    fn association(times: (u32, u32), prefixes: &[Granted]) -> Vec<u8> {
        let mut out = NETWORK.to_vec();
        out.extend(times.0.to_be_bytes());
        out.extend(times.1.to_be_bytes());
        for granted in prefixes {
            let mut one = granted.preferred.to_be_bytes().to_vec();
            one.extend(granted.valid.to_be_bytes());
            one.push(granted.prefix.1);
            one.extend(granted.prefix.0.octets());
            put(&mut out, option::IA_PREFIX, &one);
        }
        out
    }

    fn reply(options: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut out = vec![kind::REPLY, 7, 8, 9];
        put(&mut out, option::CLIENT_ID, b"client");
        put(&mut out, option::SERVER_ID, b"server");
        for (code, value) in options {
            put(&mut out, *code, value);
        }
        out
    }

    fn granted(prefix: &str, len: u8, preferred: u32, valid: u32) -> Granted {
        Granted {
            prefix: (prefix.parse().unwrap(), len),
            preferred,
            valid,
        }
    }

    #[test]
    fn a_reply_says_which_prefixes_and_for_how_long() {
        let prefixes = [
            granted("2001:db8:1::", 56, 100, 200),
            granted("2001:db8:2::", 64, 0, 0),
        ];
        let bytes = reply(&[
            (option::PREFERENCE, vec![9]),
            (option::SOLICIT_MAX_RT, 600_u32.to_be_bytes().to_vec()),
            (option::IA_PD, association((50, 80), &prefixes)),
            (99, vec![0; 300]),
        ]);
        let answer = Answer::read(&bytes, NETWORK).unwrap();
        let wanted = Answer {
            kind: kind::REPLY,
            transaction: [7, 8, 9],
            client: b"client".to_vec(),
            server: b"server".to_vec(),
            preference: 9,
            status: SUCCESS,
            solicit_max_rt: Some(600),
            times: (50, 80),
            prefixes: prefixes.to_vec(),
        };
        assert_eq!(answer, wanted);
        // Another network's.
        assert_eq!(Answer::read(&bytes, [9; 4]).unwrap().prefixes, []);
    }

    #[test]
    fn what_contradicts_itself_is_left_out() {
        let of = |prefix: Granted| {
            let bytes = reply(&[(option::IA_PD, association((0, 0), &[prefix]))]);
            Answer::read(&bytes, NETWORK).unwrap().prefixes
        };
        for prefix in [
            granted("2001:db8::", 64, 300, 200),
            granted("2001:db8::", 65, 100, 200),
            granted("2001:db8::", 0, 100, 200),
            granted("fe80::", 64, 100, 200),
            granted("ff02::", 64, 100, 200),
            granted("::", 64, 100, 200),
            granted("::ffff:0:0", 64, 100, 200),
        ] {
            assert_eq!(of(prefix), [], "{prefix:?}");
        }
        // Bits behind the prefix say nothing.
        let sloppy = granted("2001:db8::1", 48, 1, 2);
        assert_eq!(of(sloppy), [granted("2001:db8::", 48, 1, 2)]);
        let late = reply(&[(
            option::IA_PD,
            association((90, 80), &[granted("2001:db8::", 64, 1, 2)]),
        )]);
        assert_eq!(Answer::read(&late, NETWORK).unwrap().prefixes, []);
        let refused = reply(&[(option::STATUS, vec![0, 6, b'n', b'o'])]);
        assert_eq!(Answer::read(&refused, NETWORK).unwrap().status, 6);
    }

    #[test]
    fn a_request_says_who_wants_what() {
        let request = Request {
            kind: kind::RENEW,
            transaction: [1, 2, 3],
            client: b"me",
            server: Some(b"you"),
            elapsed: 258,
            network: NETWORK,
            prefixes: &[("2001:db8::".parse().unwrap(), 56)],
        };
        let mut wanted = vec![
            5, 1, 2, 3, 0, 1, 0, 2, b'm', b'e', 0, 2, 0, 3, b'y', b'o', b'u',
        ];
        wanted.extend([0, 8, 0, 2, 1, 2, 0, 6, 0, 2, 0, 82]);
        wanted.extend([
            0, 25, 0, 41, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 0, 25,
        ]);
        wanted.extend([0; 8]);
        wanted.extend([56, 0x20, 0x01, 0x0d, 0xb8]);
        wanted.extend([0; 12]);
        assert_eq!(request.bytes(), wanted);
    }

    proptest! {
        /// Whatever comes by the wire is read within its length.
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, cut: prop::sample::Index) {
            let _ = Answer::read(&bytes, NETWORK);
            let whole = reply(&[(
                option::IA_PD,
                association((1, 2), &[granted("2001:db8::", 64, 1, 2)]),
            )]);
            let part = &whole[..cut.index(whole.len())];
            if let Some(answer) = Answer::read(part, NETWORK) {
                prop_assert!(answer.prefixes.is_empty());
            }
        }
    }
}
