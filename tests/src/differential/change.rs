//! What happens to both sides between packets.

use std::fmt;
use std::net::IpAddr;

use super::cast::{
    BEYOND, CAST, FAR, FILTERED, Family, NETWORKS, Place, ROUTED, RULED, RULED_NETWORK, SIBLINGS,
    SPARE_WIRE, UPLINK_MTU, at,
};
use super::craft;
use super::header::{TCP, UDP};
use super::neighbour::announcement;
use super::probe;
use super::random::Random;
use super::scenario::Plan;
use super::step::End;
use super::world::{Line, World};

/// The table of the rule for one guest.
pub const TABLE: &str = "100";
/// Ports that the host's own rules are about: UDP that is dropped, TCP that is rejected, TCP whose
/// answers are dropped.
const DROPPED: u16 = 33_434;
const REJECTED: u16 = 5000;
const UNANSWERED: u16 = 443;
/// MTUs of uplinks: some packets are too big for each of them.
const MTUS: [usize; 3] = [UPLINK_MTU, UPLINK_MTU - 40, UPLINK_MTU + 24];

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is beyond the routers is routed by the other uplink.
    Route,
    /// A rule for one guest comes or goes, by which its packets to there take the second uplink.
    Rule,
    /// An uplink has another MTU.
    Mtu(Line, usize),
    /// Somebody outside has another card.
    PeerCard(usize),
    /// A router has another card.
    RouterCard(Line),
    /// A guest is replaced: another card with the same address.
    GuestCard(usize),
    /// Two guests of a network change places.
    Swap,
    /// The routed network's guest goes to a port where nobody was, or back.
    Move,
    /// All neighbours of a device are forgotten.
    Forget(&'static str),
    /// The first uplink has its other addresses in place of those it had.
    Readdress,
    /// The second uplink goes down, or up again.
    Second,
    /// The second uplink is removed, and made anew.
    Recreate,
    /// The routes by the second uplink have another MTU of their own, in IPv4 locked or not, or none.
    RouteMtu(Option<usize>, bool),
    /// The way back is looked at loosely, or not at all.
    ReversePath(u8),
    /// Rules of the host's own come or go, by which one network's guest may not do everything.
    Rules,
    /// Somebody switches forwarding off on netd's side; netd is to switch it on again.
    Forwarding,
}

/// What is to be done on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A line for `ip -batch` in the hypervisor.
    Ip(String),
    /// The same for `ip -6 -batch`.
    Ip6(String),
    /// A frame that somebody sends.
    Frame(usize, Vec<u8>),
    /// A value below /proc/sys in the hypervisor.
    Sysctl(String, String),
    /// The same, on the side of an agent only, which undoes it.
    Disturb(&'static str, &'static str),
    /// Rules for `nft -f`.
    Rules(String),
    /// The second uplink is removed.
    RemoveSecond,
    /// The second uplink is made.
    MakeSecond,
}

impl Change {
    /// The next one.
    #[must_use]
    pub fn draw(random: &mut Random, world: &World) -> Self {
        let usable: Vec<Line> = Line::BOTH
            .into_iter()
            .filter(|line| world.second || *line == Line::First)
            .collect();
        let line = *random.pick(&usable);
        let mut choices = vec![
            (1, Self::Rule),
            (1, Self::draw_mtu(random, world, line)),
            (1, Self::PeerCard(*random.pick(&neighbours()))),
            (1, Self::RouterCard(line)),
            (1, Self::GuestCard(*random.pick(&guests()))),
            (1, Self::Swap),
            (1, Self::Move),
            (1, Self::draw_forget(random)),
            (2, Self::Readdress),
            (1, Self::ReversePath(*random.pick(&[0, 2]))),
            (1, Self::Forwarding),
            (2, Self::Rules),
        ];
        if world.second {
            let mtu = *random.pick(&[None, Some(UPLINK_MTU - 80), Some(UPLINK_MTU - 60)]);
            choices.extend([
                (2, Self::Route),
                (1, Self::Second),
                (1, Self::Recreate),
                (1, Self::RouteMtu(mtu, random.chance(50))),
            ]);
        } else {
            choices.push((4, Self::Second));
        }
        *random.weighted(&choices)
    }

    fn draw_mtu(random: &mut Random, world: &World, line: Line) -> Self {
        let others = MTUS.map(|mtu| (usize::from(mtu != world.mtu[line as usize]), mtu));
        Self::Mtu(line, *random.weighted(&others))
    }

    fn draw_forget(random: &mut Random) -> Self {
        let bridges = NETWORKS.iter().map(|network| network.device);
        let devices: Vec<&'static str> = bridges.chain(Line::BOTH.map(Line::device)).collect();
        let device: &&str = random.pick(&devices);
        Self::Forget(device)
    }

    /// May it take addresses, and with them ports, from flows? Each side gives those up when it notices:
    /// who has one of two guests' common port then is each side's own.
    #[must_use]
    pub fn moves_ways(self) -> bool {
        matches!(
            self,
            Self::Route | Self::Rule | Self::Readdress | Self::Second | Self::Recreate
        )
    }

    /// Its kind, for counting.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Mtu(..) => "mtu",
            Self::PeerCard(_) => "peer's card",
            Self::RouterCard(_) => "router's card",
            Self::GuestCard(_) => "guest replaced",
            Self::Swap => "guests change places",
            Self::Move => "guest moves",
            Self::Forget(_) => "neighbours forgotten",
            Self::Readdress => "uplink readdressed",
            Self::Second => "uplink down or up",
            Self::Recreate => "uplink made anew",
            Self::RouteMtu(..) => "route's mtu",
            Self::ReversePath(_) => "rp_filter",
            Self::Rules => "rules of the host's",
            Self::Forwarding => "forwarding off",
        }
    }

    /// Notes it in the world, and says what is to be done.
    #[must_use]
    pub fn make(self, world: &mut World) -> Vec<Deed> {
        match self {
            Self::Route => {
                world.route = match world.route {
                    Line::First => Line::Second,
                    Line::Second => Line::First,
                };
                let verb = match world.route {
                    Line::First => "del",
                    Line::Second => "replace",
                };
                routes(world, verb, "main")
            }
            Self::Rule => {
                world.rule = !world.rule;
                rule(world)
            }
            Self::PeerCard(actor) | Self::GuestCard(actor) => {
                world.replace_card(actor);
                announcements(world, actor)
            }
            Self::RouterCard(line) => {
                world.replace_router(line);
                let families = world.families().iter();
                families
                    .map(|family| {
                        let mac = world.router_mac(line);
                        Deed::Frame(line.wire(), announcement(mac, line.router(*family)))
                    })
                    .collect()
            }
            Self::Swap => {
                let [one, other] = SIBLINGS;
                let (here, there) = (world.wire(one), world.wire(other));
                world.plug(one, there);
                world.plug(other, here);
                [announcements(world, one), announcements(world, other)].concat()
            }
            Self::Move => {
                let there = if world.wire(ROUTED) == SPARE_WIRE {
                    CAST[ROUTED].wire
                } else {
                    SPARE_WIRE
                };
                world.plug(ROUTED, there);
                announcements(world, ROUTED)
            }
            other => other.make_of_host(world),
        }
    }

    /// The same of what the host itself has: devices, addresses, settings.
    fn make_of_host(self, world: &mut World) -> Vec<Deed> {
        match self {
            Self::Mtu(line, mtu) => {
                world.mtu[line as usize] = mtu;
                let device = line.device();
                vec![Deed::Ip(format!("link set {device} mtu {mtu}"))]
            }
            Self::Forget(device) => vec![Deed::Ip(format!("neigh flush dev {device}"))],
            Self::Readdress => {
                let before = world.clone();
                world.other_host = !world.other_host;
                world.losses[Line::First as usize] += 1;
                readdress(&before, world)
            }
            Self::Second => {
                world.second = !world.second;
                let device = Line::Second.device();
                if world.second {
                    let up = Deed::Ip(format!("link set {device} up"));
                    [vec![up], all_routes(world)].concat()
                } else {
                    world.losses[Line::Second as usize] += 1;
                    vec![Deed::Ip(format!("link set {device} down"))]
                }
            }
            Self::Recreate => {
                world.losses[Line::Second as usize] += 1;
                let deeds = vec![Deed::RemoveSecond, Deed::MakeSecond];
                [deeds, all_routes(world)].concat()
            }
            Self::RouteMtu(mtu, lock) => {
                world.route_mtu = mtu;
                world.is_locked = lock;
                all_routes(world)
            }
            Self::ReversePath(mode) => {
                let key = |device| format!("net/ipv4/conf/{device}/rp_filter");
                let mut devices: Vec<&str> = vec![Line::First.device()];
                devices.extend(NETWORKS.iter().map(|network| network.device));
                devices
                    .into_iter()
                    .map(|device| Deed::Sysctl(key(device), mode.to_string()))
                    .collect()
            }
            Self::Rules => {
                world.rules = !world.rules;
                vec![Deed::Rules(rules(world))]
            }
            Self::Forwarding => {
                let keys = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
                let keys = keys.into_iter().take(world.families().len());
                keys.map(|key| Deed::Disturb(key, "0")).collect()
            }
            Self::Rule
            | Self::Route
            | Self::PeerCard(_)
            | Self::GuestCard(_)
            | Self::RouterCard(_)
            | Self::Swap
            | Self::Move => Vec::new(), // made above
        }
    }
}

/// The rule for one guest comes, or goes.
fn rule(world: &World) -> Vec<Deed> {
    let verb = if world.rule { "add" } else { "del" };
    let families = world.families().iter();
    families
        .map(|family| {
            let from = CAST[RULED].address(*family);
            let line = format!("rule {verb} from {from} lookup {TABLE} pref 1000");
            match family {
                Family::V4 => Deed::Ip(line),
                Family::V6 => Deed::Ip6(line),
            }
        })
        .collect()
}

/// Numbers of those outside who have a card of their own.
fn neighbours() -> Vec<usize> {
    let outside = at(Place::Outside).into_iter();
    outside.filter(|actor| *actor != FAR).collect()
}

/// Numbers of the guests.
fn guests() -> Vec<usize> {
    [at(Place::Nat), at(Place::Routed)].concat()
}

/// Is a conversation one of which those rules let nothing pass, in one direction at least?
#[must_use]
pub fn is_forbidden(plan: &Plan) -> bool {
    let protocol = plan
        .steps
        .first()
        .map(|step| craft::protocol(&step.body, plan.family));
    plan.opener == FILTERED
        && matches!(
            (protocol, plan.answerer_port),
            (Some(UDP), DROPPED) | (Some(TCP), REJECTED | UNANSWERED)
        )
}

/// Do those rules drop what an end of a conversation sends, without a word?
#[must_use]
pub fn is_dropped(plan: &Plan, from: End, protocol: u8) -> bool {
    let opener = (plan.opener, plan.opener_port);
    let answerer = (plan.answerer, plan.answerer_port);
    let (sender, receiver) = match from {
        End::Opener => (opener, answerer),
        End::Answerer => (answerer, opener),
    };
    match protocol {
        UDP => sender.0 == FILTERED && receiver.1 == DROPPED,
        TCP => receiver.0 == FILTERED && sender.1 == UNANSWERED,
        _ => false,
    }
}

/// The host's own table, by which the guest of one network may not do everything. What it says to
/// others makes no difference.
fn rules(world: &World) -> String {
    let clean = "add table inet admin\ndelete table inet admin\n";
    if !world.rules {
        return clean.to_owned();
    }
    let mut lines = String::from("meta l4proto udp counter\n");
    for family in world.families() {
        let subnet = RULED_NETWORK.subnets[*family as usize];
        let ip = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let canaries = probe::port(FILTERED, *family);
        lines += &format!(
            "{ip} saddr {subnet} udp dport {{ {DROPPED}, {canaries} }} drop\n\
             {ip} saddr {subnet} tcp dport {REJECTED} reject\n\
             {ip} daddr {subnet} tcp sport {UNANSWERED} drop\n"
        );
    }
    format!(
        "{clean}table inet admin {{\nchain forward {{\n\
         type filter hook forward priority -10; policy accept;\n{lines}}}\n}}\n"
    )
}

/// The routes that there are by the second uplink.
fn all_routes(world: &World) -> Vec<Deed> {
    let mut deeds = routes(world, "replace", TABLE);
    if world.route == Line::Second {
        deeds.extend(routes(world, "replace", "main"));
    }
    deeds
}

/// The first uplink's addresses of the world before go, and those of the world now come: the new
/// one first, so that routes have one to go by.
fn readdress(before: &World, now: &World) -> Vec<Deed> {
    let families = now.families().iter();
    let each = families.map(|family| {
        let (prefix, flags) = match family {
            Family::V4 => (24, ""),
            Family::V6 => (64, " nodad"),
        };
        let device = Line::First.device();
        let (old, new) = (
            before.own(Line::First, *family),
            now.own(Line::First, *family),
        );
        [
            Deed::Ip(format!("addr add {new}/{prefix} dev {device}{flags}")),
            Deed::Ip(format!("addr del {old}/{prefix} dev {device}")),
        ]
    });
    each.flatten().collect()
}

/// Routes to what is beyond the routers by the second uplink.
#[must_use]
pub fn routes(world: &World, verb: &str, table: &str) -> Vec<Deed> {
    let families = world.families().iter();
    families
        .map(|family| {
            let (to, via) = (BEYOND[*family as usize], Line::Second.router(*family));
            let device = Line::Second.device();
            let mtu = match (world.route_mtu, family) {
                // Forwarding of IPv6 goes by a route's MTU only where it is locked.
                (Some(mtu), Family::V6) => format!(" mtu lock {mtu}"),
                (Some(mtu), Family::V4) if world.is_locked => format!(" mtu lock {mtu}"),
                (Some(mtu), Family::V4) => format!(" mtu {mtu}"),
                (None, _) => String::new(),
            };
            let mtu = if verb == "del" { "" } else { &mtu };
            // Its own network's route may not be there again yet.
            Deed::Ip(format!(
                "route {verb} {to} via {via} dev {device} onlink table {table}{mtu}"
            ))
        })
        .collect()
}

/// What somebody says who has come to a wire.
#[must_use]
pub fn announcements(world: &World, actor: usize) -> Vec<Deed> {
    let families = world.families().iter();
    families
        .map(|family| {
            let address: IpAddr = CAST[actor].address(*family);
            let frame = announcement(world.mac(actor), address);
            Deed::Frame(world.wire(actor), frame)
        })
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())?;
        match self {
            Self::Mtu(line, mtu) => write!(out, " of {} {mtu}", line.device()),
            Self::PeerCard(actor) | Self::GuestCard(actor) => {
                write!(out, ": {}", CAST[*actor].name)
            }
            Self::RouterCard(line) => write!(out, " at {}", line.device()),
            Self::Forget(device) => write!(out, " at {device}"),
            Self::RouteMtu(mtu, lock) => {
                write!(out, " {mtu:?}{}", if *lock { " locked" } else { "" })
            }
            Self::ReversePath(mode) => write!(out, " {mode}"),
            Self::Route
            | Self::Rule
            | Self::Swap
            | Self::Move
            | Self::Readdress
            | Self::Second
            | Self::Recreate
            | Self::Rules
            | Self::Forwarding => Ok(()),
        }
    }
}
