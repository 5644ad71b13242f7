//! The host's IPsec policies (xfrm): which there are, and word that they changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkSerializable, NlasIterator};

use super::announcements::Announcements;
use crate::netlink::{self, Unread};

/// The netlink protocol of xfrm (linux/netlink.h).
const XFRM: NonZeroU32 = NonZeroU32::new(6).unwrap();

// linux/xfrm.h
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
const XFRMA_TMPL: u16 = 5;
const XFRMA_POLICY_TYPE: u16 = 16;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
const XFRM_POLICY_OUT: u8 = 1;
const XFRM_POLICY_FWD: u8 = 2;
const XFRM_POLICY_ALLOW: u8 = 0;
const XFRM_POLICY_TYPE_SUB: u8 = 1;
const XFRM_USERPOLICY_BLOCK: u8 = 1;
/// Length of `struct xfrm_userpolicy_info`, behind which attributes stand.
const POLICY: usize = 168;
/// XFRMNLGRP_EXPIRE and XFRMNLGRP_POLICY, as bits of a netlink address.
const GROUPS: u32 = 1 << (2 - 1) | 1 << (4 - 1);

/// A key daemon writes the policies of a connection one after the other: they count once this long (20 ms)
/// nothing came after, or once this long (100 ms) there was more.
const QUIET: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(100);

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// About what leaves.
    Out,
    /// About what is forwarded.
    Forward,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Packets pass in clear.
    Clear,
    /// They pass protected.
    Protect,
    /// They do not pass.
    Block,
}

/// Packets of one address family, by their addresses, protocol, ports and way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Prefix of the source and its length.
    pub src: (IpAddr, u8),
    /// The same of the destination.
    pub dst: (IpAddr, u8),
    /// Source port, and a mask of its bits that count.
    pub sport: (u16, u16),
    /// The same of the destination.
    pub dport: (u16, u16),
    /// IP protocol number; 0 for any.
    pub protocol: u8,
    /// Device that they leave by; 0 for any.
    pub ifindex: u32,
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which packets it is about.
    pub selector: Selector,
    /// When it is asked.
    pub direction: Direction,
    /// What it says of them.
    pub says: Says,
}

/// The policies of the calling thread's network namespace that are about forwarded packets, in the order in which
/// the kernel asks them. Left out are those of packets with a mark or of interfaces with a number of their
/// own (`if_id`), which devices for IPsec have.
///
/// # Errors
/// The kernel does not tell. One without IPsec has none.
pub fn policies() -> io::Result<Vec<Policy>> {
    let question = Question(XFRM_MSG_GETPOLICY, Vec::new());
    let answers: Vec<Unread> = match netlink::ask(Some(XFRM), NLM_F_DUMP, question) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        answers => answers?,
    };
    let told = answers
        .iter()
        .filter(|answer| answer.kind == XFRM_MSG_NEWPOLICY);
    let mut found: Vec<_> = told.filter_map(|answer| read(&answer.body)).collect();
    // Of equals, the one that is there for longer goes first, and so it comes.
    found.sort_by_key(|(order, _)| *order);
    let mut policies: Vec<_> = found.into_iter().map(|(_, policy)| policy).collect();
    policies.extend(defaults()?);
    Ok(policies)
}

/// A subscription to their changes, within a tokio runtime; `None` where the kernel has no IPsec.
///
/// # Errors
/// The kernel refuses.
pub fn watch_policies() -> io::Result<Option<Announcements>> {
    Announcements::new(XFRM, GROUPS, QUIET, LONGEST)
}

/// What counts where no policy matches: since Linux 5.15 that may be that nothing passes.
fn defaults() -> io::Result<Vec<Policy>> {
    let question = Question(XFRM_MSG_GETDEFAULT, vec![0; 4]);
    let answers: Vec<Unread> = match netlink::ask(Some(XFRM), NLM_F_ACK, question) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        answers => answers?,
    };
    let mut policies = Vec::new();
    for answer in answers {
        // struct xfrm_userpolicy_default
        let [_, forward, out] = match *answer.body.as_slice() {
            [incoming, forward, out, ..] => [incoming, forward, out],
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        for (action, direction) in [(forward, Direction::Forward), (out, Direction::Out)] {
            if action == XFRM_USERPOLICY_BLOCK {
                let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
                policies.extend(all.map(|address| Policy {
                    selector: Selector {
                        src: (address, 0),
                        dst: (address, 0),
                        sport: (0, 0),
                        dport: (0, 0),
                        protocol: 0,
                        ifindex: 0,
                    },
                    direction,
                    says: Says::Block,
                }));
            }
        }
    }
    Ok(policies)
}

/// A policy with what it is sorted by; `None` for one that is not about forwarded packets.
fn read(body: &[u8]) -> Option<((bool, u32), Policy)> {
    let info = body.get(..POLICY)?;
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(info.get(at..at + 2)?.try_into().ok()?));
    let family = u16::from_ne_bytes(info.get(40..42)?.try_into().ok()?);
    let address = |at: usize| -> Option<IpAddr> {
        Some(match i32::from(family) {
            libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(info.get(at..at + 4)?).ok()?),
            libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(info.get(at..at + 16)?).ok()?),
            _ => return None,
        })
    };
    let direction = match *info.get(160)? {
        XFRM_POLICY_OUT => Direction::Out,
        XFRM_POLICY_FWD => Direction::Forward,
        _ => return None,
    };
    let selector = Selector {
        dst: (address(0)?, *info.get(42)?),
        src: (address(16)?, *info.get(43)?),
        dport: (port(32)?, port(34)?),
        sport: (port(36)?, port(38)?),
        protocol: *info.get(44)?,
        ifindex: word(48)?,
    };
    let (mut is_main, mut protects) = (true, false);
    for attribute in NlasIterator::new(body.get(POLICY..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        let word = || Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?));
        match attribute.kind() {
            XFRMA_TMPL => protects = !value.is_empty(),
            XFRMA_POLICY_TYPE => is_main = *value.first()? != XFRM_POLICY_TYPE_SUB,
            // A mark that packets without one have not.
            XFRMA_MARK | XFRMA_IF_ID if word()? != 0 => return None,
            _ => {}
        }
    }
    let says = match *info.get(161)? {
        XFRM_POLICY_ALLOW if protects => Says::Protect,
        XFRM_POLICY_ALLOW => Says::Clear,
        _ => Says::Block,
    };
    let policy = Policy {
        selector,
        direction,
        says,
    };
    Some(((is_main, word(152)?), policy))
}

/// A message's type and what follows the header.
struct Question(u16, Vec<u8>);

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        self.0
    }

    fn buffer_len(&self) -> usize {
        self.1.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.1.0.0/16 to 10.2.0.0/24, TCP to port 443, forwarded, as the kernel tells of it.
    fn body(attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; POLICY];
        body[..4].copy_from_slice(&[10, 2, 0, 0]);
        body[16..20].copy_from_slice(&[10, 1, 0, 0]);
        body[32..36].copy_from_slice(&[1, 0xbb, 0xff, 0xff]);
        body[40..42].copy_from_slice(&2u16.to_ne_bytes());
        body[42..45].copy_from_slice(&[24, 16, 6]);
        body[152..156].copy_from_slice(&7u32.to_ne_bytes());
        body[160] = XFRM_POLICY_FWD;
        body.extend(attributes);
        body
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = value.len() as u16 + 4;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    #[test]
    fn a_policy_is_read() {
        let (order, policy) = read(&body(&[])).unwrap();
        assert_eq!(order, (true, 7));
        let selector = Selector {
            src: ("10.1.0.0".parse().unwrap(), 16),
            dst: ("10.2.0.0".parse().unwrap(), 24),
            sport: (0, 0),
            dport: (443, 0xffff),
            protocol: 6,
            ifindex: 0,
        };
        let says = Says::Clear;
        let direction = Direction::Forward;
        assert_eq!(
            policy,
            Policy {
                selector,
                direction,
                says
            }
        );
    }

    #[test]
    fn templates_protect_and_an_action_blocks() {
        let (_, policy) = read(&body(&attribute(XFRMA_TMPL, &[0; 64]))).unwrap();
        assert_eq!(policy.says, Says::Protect);
        let mut blocks = body(&[]);
        blocks[161] = 1;
        assert_eq!(read(&blocks).unwrap().1.says, Says::Block);
    }

    #[test]
    fn those_of_devices_and_of_the_host_itself_are_left_out() {
        let marked = attribute(XFRMA_MARK, &[5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(read(&body(&marked)).is_none());
        assert!(read(&body(&attribute(XFRMA_MARK, &[0; 8]))).is_some());
        assert!(read(&body(&attribute(XFRMA_IF_ID, &[1, 0, 0, 0]))).is_none());
        let mut incoming = body(&[]);
        incoming[160] = 0;
        assert!(read(&incoming).is_none());
        assert!(read(&body(&[])[..POLICY - 1]).is_none());
    }
}
