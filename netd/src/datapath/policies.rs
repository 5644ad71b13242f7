//! The lists of IPsec policies as the agent writes them.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::{Array, MapData};
use netd_common::abi::{
    Addr4, Addr6, IPSEC_BLOCK, IPSEC_CLEAR, IPSEC_FORWARD, IPSEC_OUT, IPSEC_POLICIES,
    IPSEC_PROTECT, IpsecPolicy,
};

use super::error::Result;
use super::names;
use super::sync::error;
use crate::link::ipsec::{Direction, Policy, Says};

/// Both families' lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    v4: Vec<IpsecPolicy<Addr4>>,
    v6: Vec<IpsecPolicy<Addr6>>,
}

impl Lists {
    /// The lists of these policies, which stand in the kernel's order.
    pub(super) fn new(policies: &[Policy]) -> Self {
        let mut lists = Self::default();
        for policy in policies {
            match (policy.selector.src, policy.selector.dst) {
                ((IpAddr::V4(src), src_len), (IpAddr::V4(dst), dst_len)) => {
                    let src = (src.octets(), src_len);
                    lists.v4.push(record(policy, src, (dst.octets(), dst_len)));
                }
                ((IpAddr::V6(src), src_len), (IpAddr::V6(dst), dst_len)) => {
                    let src = (src.octets(), src_len);
                    lists.v6.push(record(policy, src, (dst.octets(), dst_len)));
                }
                // The kernel has none of two families.
                _ => {}
            }
        }
        bound(&mut lists.v4, names::POLICIES4);
        bound(&mut lists.v6, names::POLICIES6);
        lists
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Where there is no room for all, none of the rest passes in clear.
fn bound<A: Copy + Default>(list: &mut Vec<IpsecPolicy<A>>, map: &'static str) {
    let room = IPSEC_POLICIES as usize;
    if list.len() > room {
        tracing::warn!(
            policies = list.len(),
            room,
            map,
            "more IPsec policies than netd looks at: what the first ones do not cover is left to the \
             kernel, or dropped where that would be too late"
        );
        list.truncate(room - 1);
        list.push(IpsecPolicy {
            direction: IPSEC_OUT | IPSEC_FORWARD,
            says: IPSEC_PROTECT,
            ..IpsecPolicy::default()
        });
    }
}

fn record<const N: usize>(
    policy: &Policy,
    (src, src_len): ([u8; N], u8),
    (dst, dst_len): ([u8; N], u8),
) -> IpsecPolicy<[u8; N]> {
    let selector = &policy.selector;
    IpsecPolicy {
        src,
        src_mask: mask(src_len),
        dst,
        dst_mask: mask(dst_len),
        sport: selector.sport.0.to_be_bytes(),
        sport_mask: selector.sport.1.to_be_bytes(),
        dport: selector.dport.0.to_be_bytes(),
        dport_mask: selector.dport.1.to_be_bytes(),
        ifindex: selector.ifindex,
        proto: selector.protocol,
        direction: match policy.direction {
            Direction::Out => IPSEC_OUT,
            Direction::Forward => IPSEC_FORWARD,
        },
        says: match policy.says {
            Says::Clear => IPSEC_CLEAR,
            Says::Protect => IPSEC_PROTECT,
            Says::Block => IPSEC_BLOCK,
        },
        pad: 0,
    }
}

/// The mask of a prefix.
fn mask<const N: usize>(len: u8) -> [u8; N] {
    std::array::from_fn(|byte| {
        let bits = usize::from(len).saturating_sub(8 * byte).min(8);
        !(0xff_u8.checked_shr(bits as u32).unwrap_or(0))
    })
}

/// Handles of the maps.
pub(super) struct Policies {
    pub v4: Array<MapData, IpsecPolicy<Addr4>>,
    pub v6: Array<MapData, IpsecPolicy<Addr6>>,
    /// What the list that counts holds, once it was written.
    pub held: Option<Lists>,
}

impl Policies {
    /// Write the first list, or the `second`.
    pub(super) fn write(&mut self, lists: &Lists, second: bool) -> Result<()> {
        let first = if second { IPSEC_POLICIES } else { 0 };
        write(&mut self.v4, names::POLICIES4, first, &lists.v4)?;
        write(&mut self.v6, names::POLICIES6, first, &lists.v6)
    }
}

fn write<A: Copy + Default>(
    map: &mut Array<MapData, IpsecPolicy<A>>,
    name: &'static str,
    first: u32,
    list: &[IpsecPolicy<A>],
) -> Result<()>
where
    IpsecPolicy<A>: Pod,
{
    let end = [IpsecPolicy::default()];
    let room = first..first + IPSEC_POLICIES;
    for (index, policy) in room.zip(list.iter().chain(&end)) {
        map.set(index, policy, 0).map_err(error("write", name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::ipsec::Selector;

    fn policy(src: &str, dst: &str, len: u8) -> Policy {
        Policy {
            selector: Selector {
                src: (src.parse().unwrap(), len),
                dst: (dst.parse().unwrap(), len),
                sport: (0, 0),
                dport: (443, 0xffff),
                protocol: 6,
                ifindex: 0,
            },
            direction: Direction::Out,
            says: Says::Protect,
        }
    }

    #[test]
    fn prefixes_become_masks() {
        assert_eq!(mask::<4>(0), [0; 4]);
        assert_eq!(mask::<4>(20), [255, 255, 240, 0]);
        assert_eq!(mask::<4>(32), [255; 4]);
        assert_eq!(
            mask::<16>(65)[..10],
            [255, 255, 255, 255, 255, 255, 255, 255, 128, 0]
        );
    }

    #[test]
    fn each_family_has_its_list() {
        let lists = Lists::new(&[
            policy("10.0.0.0", "10.1.0.0", 16),
            policy("fd00::", "fd01::", 32),
        ]);
        let [four] = *lists.v4 else {
            panic!("{lists:?}")
        };
        assert_eq!((four.dst, four.dst_mask), ([10, 1, 0, 0], [255, 255, 0, 0]));
        assert_eq!((four.dport, four.dport_mask), ([1, 0xbb], [255, 255]));
        assert_eq!(lists.v6.len(), 1);
        assert!(Lists::new(&[]).is_empty());
    }

    #[test]
    fn what_has_no_room_covers_everything() {
        let many = vec![policy("10.0.0.0", "10.1.0.0", 16); IPSEC_POLICIES as usize + 1];
        let lists = Lists::new(&many);
        assert_eq!(lists.v4.len(), IPSEC_POLICIES as usize);
        let last = lists.v4.last().unwrap();
        assert_eq!((last.dst_mask, last.says), ([0; 4], IPSEC_PROTECT));
    }
}
