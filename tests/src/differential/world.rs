//! Where everybody is and which way packets go, as the changes so far have left it. It says nothing
//! of translation: only which device, which neighbours and which addresses there are.

use std::net::IpAddr;

use super::cast::{
    CANARY_MAC, CANARY_PEERS, CAST, FAR, Family, HOST6, Mac, OTHER_HOST, OUTSIDE_WIRE, OUTSIDE6,
    POOL, Place, ROUTER, RULED, SECOND, SECOND_ROUTER, SECOND_WIRE, UPLINK, UPLINK_MTU,
};
use crate::lab::{HOST, OUTSIDE};

/// MAC address of the second uplink.
const SECOND_UPLINK: Mac = [0x02, 0, 0, 0, 0, 0x22];
/// MAC address of the router there.
const SECOND_ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x21];

/// One of the hypervisor's uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The one with the default route.
    First,
    /// Another one, to what is beyond the routers only.
    Second,
}

impl Line {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// Device in the hypervisor.
    #[must_use]
    pub fn device(self) -> &'static str {
        match self {
            Self::First => "uplink",
            Self::Second => "uplink2",
        }
    }

    /// The device's MAC address.
    #[must_use]
    pub fn mac(self) -> Mac {
        match self {
            Self::First => UPLINK,
            Self::Second => SECOND_UPLINK,
        }
    }

    /// Wire at the other end.
    #[must_use]
    pub fn wire(self) -> usize {
        match self {
            Self::First => OUTSIDE_WIRE,
            Self::Second => SECOND_WIRE,
        }
    }

    /// The router's address.
    #[must_use]
    pub fn router(self, family: Family) -> IpAddr {
        match (self, family) {
            (Self::First, Family::V4) => OUTSIDE.into(),
            (Self::First, Family::V6) => OUTSIDE6.into(),
            (Self::Second, Family::V4) => SECOND_ROUTER.0.into(),
            (Self::Second, Family::V6) => SECOND_ROUTER.1.into(),
        }
    }
}

/// How somebody sends at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Number of the wire.
    pub wire: usize,
    /// Source of the frames.
    pub mac: Mac,
    /// Destination of the frames: the hypervisor.
    pub gateway: Mac,
}

/// The way of a guest's packets to outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// By which uplink.
    pub line: Line,
    /// As whom the other end sees the guest.
    pub source: IpAddr,
    /// How often the hypervisor has lost that address, where the guest has not its own or a pool's.
    pub losses: u32,
}

/// What of the world a conversation goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The opener's way out, where the answerer is outside.
    pub path: Option<Path>,
    /// The opener's card.
    pub mac: Mac,
}

impl Way {
    /// Has the opener another address outside than by the other way, or another card?
    #[must_use]
    pub fn has_moved(&self, before: Self) -> bool {
        self.is_readdressed(before) || self.mac != before.mac
    }

    /// Has the opener another address outside than by the other way?
    #[must_use]
    pub fn is_readdressed(&self, before: Self) -> bool {
        let known_as = |way: &Self| way.path.map(|path| (path.source, path.losses));
        known_as(self) != known_as(&before)
    }
}

/// The state of both sides.
#[derive(Clone, Debug)]
pub struct World {
    /// Is there IPv6?
    pub ipv6: bool,
    /// Where the route to what is beyond the routers leads.
    pub route: Line,
    /// Does a rule send one guest's packets to there by the second uplink?
    pub rule: bool,
    /// Is the second uplink there and up?
    pub second: bool,
    /// Has the first uplink its other addresses?
    pub other_host: bool,
    /// Has the host rules of its own?
    pub rules: bool,
    /// How often each uplink has lost its addresses.
    pub losses: [u32; 2],
    /// MTU by uplink.
    pub mtu: [usize; 2],
    /// MTU of the routes by the second uplink, where they have one of their own.
    pub route_mtu: Option<usize>,
    /// Is that of IPv4 locked?
    pub is_locked: bool,
    /// Wire by number in the cast.
    wires: [usize; CAST.len()],
    /// How often somebody's card was changed, by number in the cast.
    cards: [u8; CAST.len()],
    /// The same of the routers, by uplink.
    routers: [u8; 2],
}

impl World {
    /// As the topologies are built.
    #[must_use]
    pub fn new(ipv6: bool) -> Self {
        let mut wires = [usize::MAX; CAST.len()];
        for (wire, actor) in wires.iter_mut().zip(CAST) {
            *wire = actor.wire;
        }
        Self {
            ipv6,
            route: Line::First,
            rule: false,
            second: true,
            other_host: false,
            rules: false,
            losses: [0; 2],
            mtu: [UPLINK_MTU, UPLINK_MTU],
            route_mtu: None,
            is_locked: false,
            wires,
            cards: [0; CAST.len()],
            routers: [0; 2],
        }
    }

    /// The families that there are.
    #[must_use]
    pub fn families(&self) -> &'static [Family] {
        if self.ipv6 {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        }
    }

    /// The hypervisor's address on an uplink.
    #[must_use]
    pub fn own(&self, line: Line, family: Family) -> IpAddr {
        let (v4, v6) = match line {
            Line::First if self.other_host => OTHER_HOST,
            Line::First => (HOST, HOST6),
            Line::Second => SECOND,
        };
        match family {
            Family::V4 => v4.into(),
            Family::V6 => v6.into(),
        }
    }

    /// MTU of a guest's way to what is beyond the routers, or next to them.
    #[must_use]
    pub fn path_mtu(&self, guest: usize, beyond: bool) -> usize {
        let line = self.line(guest, beyond);
        let device = self.mtu[line as usize];
        match self.route_mtu {
            Some(mtu) if line == Line::Second => mtu.min(device),
            _ => device,
        }
    }

    /// MAC address of a guest or of somebody on the first uplink's wire.
    #[must_use]
    pub fn mac(&self, actor: usize) -> Mac {
        card(CAST[actor].mac, self.cards[actor])
    }

    /// MAC address of a router.
    #[must_use]
    pub fn router_mac(&self, line: Line) -> Mac {
        let mac = match line {
            Line::First => ROUTER,
            Line::Second => SECOND_ROUTER_MAC,
        };
        card(mac, self.routers[line as usize])
    }

    /// Gives somebody another card.
    pub fn replace_card(&mut self, actor: usize) {
        self.cards[actor] = self.cards[actor].wrapping_add(1);
    }

    /// Gives a router another card.
    pub fn replace_router(&mut self, line: Line) {
        let count = &mut self.routers[line as usize];
        *count = count.wrapping_add(1);
    }

    /// Wire of a guest.
    #[must_use]
    pub fn wire(&self, actor: usize) -> usize {
        self.wires[actor]
    }

    /// Puts a guest to another port.
    pub fn plug(&mut self, actor: usize, wire: usize) {
        self.wires[actor] = wire;
    }

    /// By which uplink a guest's packets leave for what is beyond the routers, or next to them.
    #[must_use]
    pub fn line(&self, guest: usize, beyond: bool) -> Line {
        if !beyond || !self.second {
            Line::First
        } else if self.rule && guest == RULED {
            Line::Second
        } else {
            self.route
        }
    }

    /// The way of a conversation.
    #[must_use]
    pub fn way(&self, opener: usize, answerer: usize, family: Family) -> Way {
        let outside = CAST[answerer].place == Place::Outside;
        Way {
            path: outside
                .then(|| self.way_out(opener, answerer == FAR, family))
                .flatten(),
            mac: self.mac(opener),
        }
    }

    /// The way of a guest's packets to somebody beyond the routers, or next to them.
    #[must_use]
    pub fn way_out(&self, guest: usize, beyond: bool, family: Family) -> Option<Path> {
        let network = CAST[guest].network?;
        let line = self.line(guest, beyond);
        let (source, losses) = match family {
            _ if !network.nat => (CAST[guest].address(family), 0),
            Family::V4 if network.pool => (POOL.into(), 0),
            _ => (self.own(line, family), self.losses[line as usize]),
        };
        Some(Path {
            line,
            source,
            losses,
        })
    }

    /// By which uplink somebody beyond the routers reaches an address.
    #[must_use]
    pub fn line_back(&self, to: IpAddr) -> Line {
        if to == SECOND.0 || to == SECOND.1 {
            return Line::Second;
        }
        let guest = CAST.iter().position(|actor| {
            actor.network.is_some()
                && (to == actor.address(Family::V4) || to == actor.address(Family::V6))
        });
        guest.map_or(Line::First, |guest| self.line(guest, true))
    }

    /// How somebody sends to that address.
    #[must_use]
    pub fn station(&self, actor: usize, to: IpAddr) -> Station {
        match CAST[actor].network {
            Some(network) => Station {
                wire: self.wires[actor],
                mac: self.mac(actor),
                gateway: network.mac,
            },
            None if actor == FAR => self.from_router(self.line_back(to)),
            None => Station {
                wire: OUTSIDE_WIRE,
                mac: self.mac(actor),
                gateway: UPLINK,
            },
        }
    }

    /// How a router sends.
    #[must_use]
    pub fn from_router(&self, line: Line) -> Station {
        Station {
            wire: line.wire(),
            mac: self.router_mac(line),
            gateway: line.mac(),
        }
    }

    /// May something for somebody come in on that wire?
    #[must_use]
    pub fn is_at(&self, actor: usize, wire: usize) -> bool {
        match CAST[actor].place {
            Place::Host => false,
            Place::Outside if actor == FAR => wire == OUTSIDE_WIRE || wire == SECOND_WIRE,
            Place::Outside => wire == OUTSIDE_WIRE,
            Place::Nat | Place::Routed => wire == self.wires[actor],
        }
    }

    /// Whose packets those are that come in on a wire for an address: the MAC address that answers
    /// for it.
    #[must_use]
    pub fn owner(&self, wire: usize, address: IpAddr) -> Option<Mac> {
        for line in Line::BOTH {
            if line.wire() == wire && self.families().iter().any(|f| line.router(*f) == address) {
                return Some(self.router_mac(line));
            }
        }
        // Somebody else has the addresses that the hypervisor has not.
        let away = if self.other_host {
            (HOST, HOST6)
        } else {
            OTHER_HOST
        };
        for (v4, v6) in [CANARY_PEERS[0], away] {
            if wire == OUTSIDE_WIRE && (address == v4 || address == v6) {
                return Some(CANARY_MAC);
            }
        }
        let owner = (0..CAST.len()).find(|actor| {
            *actor != FAR
                && self.is_at(*actor, wire)
                && [Family::V4, Family::V6]
                    .iter()
                    .any(|family| CAST[*actor].address(*family) == address)
        });
        owner.map(|actor| self.mac(actor))
    }
}

/// Another card of the same maker.
fn card(mut mac: Mac, count: u8) -> Mac {
    mac[3] = count;
    mac
}
