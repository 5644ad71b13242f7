//! `<forward>`: how packets leave the network.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::address::{broadcast_address, check_range, network_address};
use crate::model::error::XmlError;
use crate::model::read::Element;
use crate::model::write::{Tag, Writer};
use crate::model::xml::shown;

/// `<forward mode>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardMode {
    /// `mode='none'` is the same as no `<forward>`.
    None,
    /// Guests reach the outside behind the host's address.
    #[default]
    Nat,
    /// Guests are routed with their own addresses.
    Route,
    /// The host's own firewall decides; netd adds no policy.
    Open,
    /// The host's own bridge, or macvtap in bridge mode.
    Bridge,
    /// macvtap private.
    Private,
    /// macvtap VEPA.
    Vepa,
    /// macvtap passthrough.
    Passthrough,
    /// PCI devices assigned to guests.
    Hostdev,
}

/// How macvtap devices on one device of the host reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacvtapMode {
    /// By way of the switch outside, which sends back what is for them.
    #[default]
    Vepa,
    /// Not at all.
    Private,
    /// Directly.
    Bridge,
    /// There is one only, and the device is its own.
    Passthrough,
}

impl MacvtapMode {
    const ALL: [Self; 4] = [Self::Vepa, Self::Private, Self::Bridge, Self::Passthrough];

    /// The mode of macvtap devices in a network of this mode; nothing where it has none.
    #[must_use]
    pub fn of(mode: ForwardMode) -> Option<Self> {
        match mode {
            ForwardMode::Vepa => Some(Self::Vepa),
            ForwardMode::Private => Some(Self::Private),
            ForwardMode::Bridge => Some(Self::Bridge),
            ForwardMode::Passthrough => Some(Self::Passthrough),
            _ => None,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vepa => "vepa",
            Self::Private => "private",
            Self::Bridge => "bridge",
            Self::Passthrough => "passthrough",
        }
    }

    /// The mode that is written so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// A device out of the pool of a `<forward>`.
#[derive(Clone, Copy, Debug)]
pub enum PoolDevice<'a> {
    /// `<interface dev>`.
    Interface(&'a str),
    /// `<address type='pci'>`.
    Pci(PciAddress),
}

/// `<forward>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// `mode`.
    pub mode: ForwardMode,
    /// `<interface dev>` list; a `dev` attribute is its first member.
    pub interfaces: Vec<String>,
    /// `<address type='pci'>` list.
    pub addresses: Vec<PciAddress>,
    /// `<pf dev>`.
    pub pf: Option<String>,
    /// `managed='yes'` (hostdev only).
    pub managed: bool,
    /// `<driver name model>` (hostdev only).
    pub driver: Option<ForwardDriver>,
    /// `<nat>`.
    pub nat: Option<Nat>,
}

/// `<driver>` of a hostdev pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardDriver {
    /// `name`: kvm, vfio or xen.
    pub name: Option<String>,
    /// `model`.
    pub model: Option<String>,
    /// `iommufd`. libvirt has it since 12.
    pub iommufd: Option<bool>,
}

/// A PCI address of a virtual function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot.
    pub slot: u8,
    /// Function.
    pub function: u8,
}

/// `<nat>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// `ipv6`: masquerade IPv6 too.
    pub ipv6: Option<bool>,
    /// `<address start end>`: what IPv4 packets leave with, in place of the uplink's address.
    pub address: Option<AddressRange>,
    /// `<port start end>`: what TCP and UDP packets leave with.
    pub port: Option<PortRange>,
}

/// IPv4 addresses from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards and are at most 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub start: Ipv4Addr,
    /// The last.
    pub end: Ipv4Addr,
}

/// Ports from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards. A definition may hold port 0, but cannot be started with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
}

impl PortRange {
    /// What translated packets leave with where nothing is given: guests get no port that other
    /// hosts may trust.
    pub const UNPRIVILEGED: Self = Self {
        start: 1024,
        end: 65535,
    };
}

impl Default for PortRange {
    fn default() -> Self {
        Self::UNPRIVILEGED
    }
}

impl std::fmt::Display for ForwardMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Open => "open",
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthrough => "passthrough",
            Self::Hostdev => "hostdev",
        })
    }
}

impl AddressRange {
    /// How many addresses there are.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.end)
            .saturating_sub(u32::from(self.start))
            .saturating_add(1)
    }

    /// Is any of them in the subnet of `address`?
    #[must_use]
    pub fn overlaps(self, address: Ipv4Addr, prefix: u8) -> bool {
        let IpAddr::V4(first) = network_address(IpAddr::V4(address), prefix) else {
            return false;
        };
        self.start <= broadcast_address(address, prefix) && first <= self.end
    }
}

impl AddressRange {
    /// The range as prefixes: address and length, none overlapping another.
    pub fn prefixes(self) -> impl Iterator<Item = (Ipv4Addr, u8)> {
        let (mut next, end) = (u64::from(u32::from(self.start)), u32::from(self.end).into());
        std::iter::from_fn(move || {
            if next > end {
                return None;
            }
            // The largest block that begins here and does not go beyond the end.
            let aligned = if next == 0 {
                32
            } else {
                next.trailing_zeros().min(32)
            };
            let fits = (end - next + 1).ilog2();
            let bits = aligned.min(fits);
            let address = Ipv4Addr::from(u32::try_from(next).unwrap_or(u32::MAX));
            next += 1u64 << bits;
            Some((address, (32 - bits) as u8))
        })
    }
}

/// Reads `<forward>`; mode 'none' is as good as no element.
pub fn read_forward(element: Element<'_>) -> Result<Option<Forward>, XmlError> {
    let mode = mode(element)?;
    let forward = Forward {
        mode,
        interfaces: interfaces(element)?,
        addresses: addresses(element)?,
        pf: match element.single("pf")? {
            Some(pf) => Some(pf.required("dev")?.to_owned()),
            None => None,
        },
        managed: element
            .attr("managed")
            .is_some_and(|managed| managed.eq_ignore_ascii_case("yes")),
        driver: element
            .child("driver")
            .map(read_forward_driver)
            .transpose()?
            .flatten(),
        nat: nat(element, mode)?,
    };
    if element.non_empty("dev").is_some() && (forward.pf.is_some() || !forward.addresses.is_empty())
    {
        return Err(element.error("'dev' cannot be given together with <address> or <pf>"));
    }
    Ok((mode != ForwardMode::None).then_some(Forward {
        // Printed for hostdev only.
        managed: forward.managed && mode == ForwardMode::Hostdev,
        ..forward
    }))
}

fn mode(element: Element<'_>) -> Result<ForwardMode, XmlError> {
    Ok(match element.attr("mode") {
        None | Some("" | "nat") => ForwardMode::Nat,
        Some("none") => ForwardMode::None,
        Some("route") => ForwardMode::Route,
        Some("open") => ForwardMode::Open,
        Some("bridge") => ForwardMode::Bridge,
        Some("private") => ForwardMode::Private,
        Some("vepa") => ForwardMode::Vepa,
        Some("passthrough") => ForwardMode::Passthrough,
        Some("hostdev") => ForwardMode::Hostdev,
        Some(_) => {
            return Err(XmlError::Unsupported(format!(
                "unknown forwarding type '{}'",
                shown(element.attr("mode").unwrap_or_default())
            )));
        }
    })
}

/// The devices of the pool. A `dev` attribute is the first of them, whether repeated or not.
fn interfaces(element: Element<'_>) -> Result<Vec<String>, XmlError> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    let first = element.non_empty("dev");
    if let Some(dev) = first {
        seen.insert(dev);
        names.push(dev.to_owned());
    }
    for (index, interface) in element.children("interface").enumerate() {
        // What libvirt prints of a network that runs.
        interface.attr("connections");
        let dev = interface_device(interface)?;
        match first {
            Some(first) if index == 0 => {
                if dev != first {
                    return Err(element.error(format!(
                        "dev='{first}' must be the device of the first <interface>, not '{dev}'"
                    )));
                }
            }
            _ => {
                if !seen.insert(dev) {
                    return Err(interface.error(format!("device '{dev}' is listed twice")));
                }
                names.push(dev.to_owned());
            }
        }
    }
    Ok(names)
}

/// Reads `<interface>`: the name of the device.
pub fn interface_device(element: Element<'_>) -> Result<&str, XmlError> {
    element.required("dev")
}

fn addresses(element: Element<'_>) -> Result<Vec<PciAddress>, XmlError> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for child in element.children("address") {
        // What libvirt prints of a network that runs.
        child.attr("connections");
        if child.required("type")? != "pci" {
            return Err(child.bad("type", "'pci'").of_kind(XmlError::Unsupported));
        }
        let address = read_pci_address(child)?;
        if !seen.insert(address) {
            return Err(child.error("the same PCI address is listed twice"));
        }
        list.push(address);
    }
    Ok(list)
}

/// Reads the numbers of a PCI `<address>`.
pub fn read_pci_address(element: Element<'_>) -> Result<PciAddress, XmlError> {
    let address = PciAddress {
        domain: pci_number(element, "domain", u32::MAX)?,
        // The limits make the casts exact.
        bus: pci_number(element, "bus", 0xff)? as u8,
        slot: pci_number(element, "slot", 0x1f)? as u8,
        function: pci_number(element, "function", 7)? as u8,
    };
    if (address.domain, address.bus, address.slot) == (0, 0, 0) {
        return Err(element.error("one of domain, bus and slot must not be zero"));
    }
    Ok(address)
}

/// A number as C writes it: hexadecimal after 0x, octal after 0, else decimal; absent is zero.
fn pci_number(element: Element<'_>, name: &str, max: u32) -> Result<u32, XmlError> {
    let Some(text) = element.attr(name) else {
        return Ok(0);
    };
    let text = text.trim_ascii_start();
    let number = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        u32::from_str_radix(hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(text, 8)
    } else {
        text.parse()
    };
    let wrong = || element.bad(name, &format!("a number from 0 to 0x{max:x}"));
    match number {
        Ok(number) if number <= max => Ok(number),
        Ok(_) => Err(wrong()),
        Err(_) => Err(wrong().of_kind(XmlError::Value)),
    }
}

/// Reads `<driver>` of a hostdev pool or of a device out of it.
pub fn read_forward_driver(element: Element<'_>) -> Result<Option<ForwardDriver>, XmlError> {
    let name = element.attr("name");
    if name.is_some_and(|name| !matches!(name, "kvm" | "vfio" | "xen")) {
        let error = element.bad("name", "kvm, vfio or xen");
        return Err(error.of_kind(XmlError::Value));
    }
    let driver = ForwardDriver {
        name: name.map(str::to_owned),
        model: element.non_empty("model").map(str::to_owned),
        iommufd: element.yes_no("iommufd")?,
    };
    Ok((driver != ForwardDriver::default()).then_some(driver))
}

fn nat(element: Element<'_>, mode: ForwardMode) -> Result<Option<Nat>, XmlError> {
    let Some(child) = element.single("nat")? else {
        return Ok(None);
    };
    if mode != ForwardMode::Nat {
        return Err(child.error(format!("stands only in mode='nat', not '{mode}'")));
    }
    let nat = Nat {
        ipv6: child.yes_no("ipv6")?,
        address: child.single("address")?.map(nat_address).transpose()?,
        port: match child.single("port")? {
            // Nobody can use port 0, and libvirt takes it for none.
            Some(port) => Some(nat_port(port).map_err(|error| error.of_kind(XmlError::Record))?)
                .filter(|ports| ports.end != 0),
            None => None,
        },
    };
    Ok((nat != Nat::default()).then_some(nat))
}

fn nat_address(element: Element<'_>) -> Result<AddressRange, XmlError> {
    let end_of = |name| -> Result<Ipv4Addr, XmlError> {
        element.required(name)?;
        let address: Option<Ipv4Addr> = element.parsed(name, "an IPv4 address")?;
        address.ok_or_else(|| element.bad(name, "an IPv4 address"))
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    check_range(IpAddr::V4(start), IpAddr::V4(end))
        .map_err(|why| XmlError::Range(format!("range {start} - {end} {why}")))?;
    Ok(AddressRange { start, end })
}

fn nat_port(element: Element<'_>) -> Result<PortRange, XmlError> {
    let end_of = |name| -> Result<u16, XmlError> {
        element.required(name)?;
        let wrong = || element.bad(name, "a port from 0 to 65535");
        let port: Option<u16> = element.number(name).map_err(|_| wrong())?;
        port.ok_or_else(wrong)
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    if end < start {
        return Err(element.error(format!("the range {start} - {end} runs backwards")));
    }
    Ok(PortRange { start, end })
}

pub fn write_forward_driver(w: &mut Writer, driver: &ForwardDriver) {
    w.empty(
        Tag::new("driver")
            .opt("name", driver.name.as_ref())
            .opt("model", driver.model.as_ref())
            .yes_no("iommufd", driver.iommufd),
    );
}

/// Writes `<forward>`; `users` says how many guests use a device.
pub fn write_forward(
    w: &mut Writer,
    forward: &Forward,
    inactive: bool,
    users: &dyn Fn(PoolDevice<'_>) -> usize,
) {
    let connections = |device| Some(users(device)).filter(|users| *users > 0);
    let Forward {
        mode,
        interfaces,
        addresses,
        pf,
        managed,
        driver,
        nat,
    } = forward;
    let show_pool = pf.is_none() || !inactive;
    let dev = interfaces.first().filter(|_| pf.is_none());
    let managed = (*mode == ForwardMode::Hostdev).then_some(*managed);
    let tag = Tag::new("forward")
        .opt("dev", dev)
        .attr("mode", mode)
        .yes_no("managed", managed);
    let nat = nat.as_ref().filter(|nat| **nat != Nat::default());
    let has_pool = show_pool && !(interfaces.is_empty() && addresses.is_empty());
    if driver.is_none() && nat.is_none() && pf.is_none() && !has_pool {
        w.empty(tag);
        return;
    }
    w.start(tag);
    if let Some(driver) = driver {
        write_forward_driver(w, driver);
    }
    if let Some(nat) = nat {
        let tag = Tag::new("nat").yes_no("ipv6", nat.ipv6);
        if nat.address.is_none() && nat.port.is_none() {
            w.empty(tag);
        } else {
            w.start(tag);
            if let Some(AddressRange { start, end }) = nat.address {
                w.empty(Tag::new("address").attr("start", start).attr("end", end));
            }
            if let Some(PortRange { start, end }) = nat.port {
                w.empty(Tag::new("port").attr("start", start).attr("end", end));
            }
            w.end("nat");
        }
    }
    if let Some(pf) = pf {
        w.empty(Tag::new("pf").attr("dev", pf));
    }
    if show_pool {
        for dev in interfaces {
            let users = connections(PoolDevice::Interface(dev));
            w.empty(
                Tag::new("interface")
                    .attr("dev", dev)
                    .opt("connections", users),
            );
        }
        for a in addresses {
            w.empty(
                Tag::new("address")
                    .attr("type", "pci")
                    .attr("domain", format_args!("0x{:04x}", a.domain))
                    .attr("bus", format_args!("0x{:02x}", a.bus))
                    .attr("slot", format_args!("0x{:02x}", a.slot))
                    .attr("function", format_args!("0x{:x}", a.function))
                    .opt("connections", connections(PoolDevice::Pci(*a))),
            );
        }
    }
    w.end("forward");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_ranges_are_made_of_prefixes() {
        let range = |start: [u8; 4], end: [u8; 4]| {
            let range = AddressRange {
                start: start.into(),
                end: end.into(),
            };
            range.prefixes().collect::<Vec<_>>()
        };
        assert_eq!(
            range([10, 0, 0, 1], [10, 0, 0, 1]),
            [([10, 0, 0, 1].into(), 32)]
        );
        assert_eq!(
            range([10, 0, 0, 1], [10, 0, 0, 6]),
            [
                ([10, 0, 0, 1].into(), 32),
                ([10, 0, 0, 2].into(), 31),
                ([10, 0, 0, 4].into(), 31),
                ([10, 0, 0, 6].into(), 32)
            ]
        );
        assert_eq!(range([0; 4], [255; 4]), [([0; 4].into(), 0)]);
        assert_eq!(range([255; 4], [255; 4]), [([255; 4].into(), 32)]);
    }
}
