//! May this packet open a flow? The table of forward modes (`docs/reference/policy.md`) as a function; IPv6 of a
//! NAT network has mode `Route` unless it is translated, too.
//!
//! The source's own network is asked first, the destination's second. libvirt's chains ask the
//! destination first, which lets an isolated guest send (one way) into a routed network and a
//! guest of a network bound to a device leave untranslated by another bridge; netd closes both.

use crate::abi::{Mode, Network};
use crate::reason::Reason;

/// Where a packet comes from or goes to. A plain struct rather than an enum, since the verifier
/// does not allow what the optimiser likes to do with the fields a variant does not have.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEnd<'a> {
    /// Record of the managed network; `None` for any other device.
    pub network: Option<&'a Network>,
    /// The network's [`Mode`] for the packet's family, as a byte.
    pub mode: u8,
    /// The network's bridge, or the other device.
    pub ifindex: u32,
    /// Is the packet's address (source or destination, by the role of this place) in one of the
    /// network's subnets?
    pub in_subnet: bool,
}

/// What to do with the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// netd has no say: the host's stack and its own rules decide.
    Stack,
    /// Forward it as it is.
    Accept,
    /// Forward it behind the address of the device it leaves by.
    Masquerade,
    /// Refuse it with an ICMP port unreachable.
    Reject(Reason),
}

/// Judge a packet that would be forwarded from one place to another.
#[inline(always)]
#[must_use]
pub fn evaluate(from: PolicyEnd<'_>, to: PolicyEnd<'_>) -> Verdict {
    if from.ifindex == to.ifindex {
        return Verdict::Stack;
    }
    let mut verdict = Verdict::Accept;
    match from.network {
        Some(network) => {
            let mode = Mode::from_u8(from.mode);
            match mode {
                Mode::Isolated => return Verdict::Reject(Reason::Isolated),
                Mode::Nat | Mode::Route => {
                    if !from.in_subnet {
                        return Verdict::Reject(Reason::ForeignSource);
                    }
                    if !may_use(network, to) {
                        return Verdict::Reject(Reason::WrongUplink);
                    }
                    if mode == Mode::Nat {
                        verdict = Verdict::Masquerade;
                    }
                }
                Mode::Open => verdict = Verdict::Stack,
            }
        }
        None if to.network.is_none() => return Verdict::Stack,
        None => {}
    }
    let Some(network) = to.network else {
        return verdict;
    };
    match Mode::from_u8(to.mode) {
        Mode::Isolated => Verdict::Reject(Reason::IntoIsolated),
        Mode::Nat => Verdict::Reject(Reason::IntoNat),
        Mode::Route => {
            if !to.in_subnet {
                return Verdict::Reject(Reason::ForeignDestination);
            }
            if !may_use(network, from) {
                return Verdict::Reject(Reason::WrongUplink);
            }
            // What an open network sends into a routed one is netd's to carry.
            if verdict == Verdict::Stack {
                Verdict::Accept
            } else {
                verdict
            }
        }
        Mode::Open if from.network.is_none() => Verdict::Stack,
        Mode::Open => verdict,
    }
}

/// May the network's traffic be forwarded by way of `place` (`<forward dev>`)?
#[inline(always)]
fn may_use(network: &Network, place: PolicyEnd<'_>) -> bool {
    network.uplink_ifindex == 0
        || (place.network.is_none() && place.ifindex == network.uplink_ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: u32 = 90;
    const Y: u32 = 91;

    fn network(uplink: u32) -> Network {
        Network {
            uplink_ifindex: uplink,
            ..Network::default()
        }
    }

    fn outside(ifindex: u32) -> PolicyEnd<'static> {
        PolicyEnd {
            network: None,
            mode: 0,
            ifindex,
            in_subnet: false,
        }
    }

    /// New flows between networks of every pair of modes, and from and to two outside devices.
    #[test]
    fn new_flows_between_all_pairs_of_modes() {
        let nets = [
            ("nat", network(0), Mode::Nat, 10),
            ("nat dev=X", network(X), Mode::Nat, 11),
            ("route", network(0), Mode::Route, 12),
            ("route dev=X", network(X), Mode::Route, 13),
            ("isolated", network(0), Mode::Isolated, 14),
            ("open", network(0), Mode::Open, 15),
        ];
        use Verdict::{Accept, Masquerade, Stack};
        let rej = |v: Verdict| matches!(v, Verdict::Reject(_));
        #[rustfmt::skip]
        let table: &[(&str, [Option<Verdict>; 8])] = &[
            // None: rejected        nat   natX  route             routeX        isol  open              X                 Y
            ("nat",         [Some(Stack), None, Some(Masquerade), None,         None, Some(Masquerade), Some(Masquerade), Some(Masquerade)]),
            ("nat dev=X",   [None, Some(Stack), None,             None,         None, None,             Some(Masquerade), None]),
            ("route",       [None, None,        Some(Stack),      None,         None, Some(Accept),     Some(Accept),     Some(Accept)]),
            ("route dev=X", [None, None,        None,             Some(Stack),  None, None,             Some(Accept),     None]),
            ("isolated",    [None, None,        None,             None,  Some(Stack), None,             None,             None]),
            ("open",        [None, None,        Some(Accept),     None,         None, Some(Stack),      Some(Stack),      Some(Stack)]),
            ("X",           [None, None,        Some(Accept),     Some(Accept), None, Some(Stack),      Some(Stack),      Some(Stack)]),
            ("Y",           [None, None,        Some(Accept),     None,         None, Some(Stack),      Some(Stack),      Some(Stack)]),
        ];
        let place = |name: &str| -> PolicyEnd<'_> {
            match nets.iter().find(|n| n.0 == name) {
                Some((_, network, mode, bridge)) => PolicyEnd {
                    network: Some(network),
                    mode: *mode as u8,
                    ifindex: *bridge,
                    in_subnet: true,
                },
                None => outside(if name == "X" { X } else { Y }),
            }
        };
        let columns = [
            "nat",
            "nat dev=X",
            "route",
            "route dev=X",
            "isolated",
            "open",
            "X",
            "Y",
        ];
        for (from, row) in table {
            for (to, want) in columns.iter().zip(row) {
                let got = evaluate(place(from), place(to));
                match want {
                    Some(want) => assert_eq!(got, *want, "{from} -> {to}"),
                    None => assert!(rej(got), "{from} -> {to}: {got:?}"),
                }
            }
        }
    }

    #[test]
    fn foreign_sources_and_destinations_are_refused() {
        let (nat, route) = (network(0), network(0));
        let from = PolicyEnd {
            network: Some(&nat),
            mode: Mode::Nat as u8,
            ifindex: 1,
            in_subnet: false,
        };
        assert_eq!(
            evaluate(from, outside(X)),
            Verdict::Reject(Reason::ForeignSource)
        );
        let to = PolicyEnd {
            network: Some(&route),
            mode: Mode::Route as u8,
            ifindex: 2,
            in_subnet: false,
        };
        assert_eq!(
            evaluate(outside(X), to),
            Verdict::Reject(Reason::ForeignDestination)
        );
    }
}
