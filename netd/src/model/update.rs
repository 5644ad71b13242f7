//! One change to one section of a definition, as `net-update` asks for it.
//!
//! Only the entry is looked at here, as by libvirt: is it there, is it not there yet? Whether the
//! definition still makes sense is for those to find out who read it again and check it.

use std::collections::HashSet;
use std::net::IpAddr;

use super::element::{DhcpHost, Dns, DnsSrv, Forward, Ip, Mac};
use super::element::{dns, forward, ip, port};
use super::error::{UpdateError, XmlError};
use super::network::Network;
use super::read::{Element, Extent, Reading};
use super::xml;

/// Longest piece of an entry that a message repeats, in characters.
const SHOWN: usize = 64;

/// What is to be done with an entry (`virNetworkUpdateCommand`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateCommand {
    /// Put it in the place of the one that it is told by.
    Modify,
    /// Take the one away that fits what is given.
    Delete,
    /// Put it behind the others.
    AddLast,
    /// Put it before the others.
    AddFirst,
}

/// The part of a definition that changes (`virNetworkUpdateSection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `<bridge>`; never changed so.
    Bridge,
    /// `<domain>`; never changed so.
    Domain,
    /// `<ip>`; never changed so.
    Ip,
    /// `<host>` of `<dhcp>`.
    IpDhcpHost,
    /// `<range>` of `<dhcp>`.
    IpDhcpRange,
    /// `<forward>`; never changed so.
    Forward,
    /// `<interface>` of `<forward>`.
    ForwardInterface,
    /// `<pf>` of `<forward>`; never changed so.
    ForwardPf,
    /// `<portgroup>`.
    PortGroup,
    /// `<host>` of `<dns>`.
    DnsHost,
    /// `<txt>` of `<dns>`.
    DnsTxt,
    /// `<srv>` of `<dns>`.
    DnsSrv,
}

impl UpdateCommand {
    /// Every command with its name, in the order of libvirt's numbers, which begin at 1.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Modify, "modify"),
        (Self::Delete, "delete"),
        (Self::AddLast, "add-last"),
        (Self::AddFirst, "add-first"),
    ];

    /// The command of this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        by_number(&Self::ALL, number)
    }

    /// The command of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        by_name(&Self::ALL, name)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// How much of the entry has to be given.
    fn extent(self) -> Extent {
        match self {
            Self::Delete => Extent::Part,
            _ => Extent::Whole,
        }
    }
}

impl Section {
    /// Every section with its name, in the order of libvirt's numbers, which begin at 1.
    pub const ALL: [(Self, &str); 12] = [
        (Self::Bridge, "bridge"),
        (Self::Domain, "domain"),
        (Self::Ip, "ip"),
        (Self::IpDhcpHost, "ip-dhcp-host"),
        (Self::IpDhcpRange, "ip-dhcp-range"),
        (Self::Forward, "forward"),
        (Self::ForwardInterface, "forward-interface"),
        (Self::ForwardPf, "forward-pf"),
        (Self::PortGroup, "portgroup"),
        (Self::DnsHost, "dns-host"),
        (Self::DnsTxt, "dns-txt"),
        (Self::DnsSrv, "dns-srv"),
    ];

    /// The section of this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        by_number(&Self::ALL, number)
    }

    /// The section of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        by_name(&Self::ALL, name)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What libvirt has this number for, in a list whose numbers begin at 1.
fn by_number<T: Copy>(all: &[(T, &str)], number: u32) -> Option<T> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    all.get(place).map(|(value, _)| *value)
}

fn by_name<T: Copy>(all: &[(T, &str)], name: &str) -> Option<T> {
    let found = all.iter().find(|(_, own)| *own == name);
    found.map(|(value, _)| *value)
}

/// A change of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// What to do.
    pub command: UpdateCommand,
    /// Where.
    pub section: Section,
    /// Which `<ip>`, counted from 0 over both families; none means the first one that serves DHCP,
    /// else the first one of IPv4, else the first one.
    pub parent_index: Option<usize>,
    /// The entry; to delete one, so much of it that it can be told from others.
    pub xml: String,
}

type Result<T> = std::result::Result<T, UpdateError>;

impl Update {
    /// The definition with the change made.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn apply(&self, network: &Network) -> Result<Network> {
        let document = xml::open(&self.xml)?;
        let reading = Reading::new(&network.name);
        let element = Element::new(document.root_element(), &reading);
        let mut new = network.clone();
        match self.section {
            Section::IpDhcpHost => self.dhcp_host(element, network, &mut new)?,
            Section::IpDhcpRange => self.dhcp_range(element, network, &mut new)?,
            Section::ForwardInterface => self.forward_interface(element, network, &mut new)?,
            Section::PortGroup => self.port_group(element, network, &mut new)?,
            Section::DnsHost => self.dns_host(element, network, &mut new)?,
            Section::DnsTxt => self.dns_txt(element, network, &mut new)?,
            Section::DnsSrv => self.dns_srv(element, network, &mut new)?,
            Section::Bridge
            | Section::Domain
            | Section::Ip
            | Section::Forward
            | Section::ForwardPf => {
                return Err(UpdateError::Unsupported(format!(
                    "can't update '{}' section of network '{}'; change the definition (net-edit) \
                     and start the network again",
                    self.section.name(),
                    network.name.escape_debug()
                )));
            }
        }
        // As it is read: one that says nothing is as good as none.
        new.dns = new.dns.filter(|dns| *dns != Dns::default());
        Ok(new)
    }

    fn dhcp_host(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "host", network)?;
        let ip = self.parent(network, new)?;
        let host = ip::read_host(element, ip, self.command.extent())?;
        let entries = Entries::new("dhcp host entry", network, &mut ip.dhcp.hosts);
        let shown = format!(
            "<host mac='{}' name='{}' ip='{}'/>",
            host.mac.as_deref().unwrap_or_default(),
            short(host.name.as_deref().unwrap_or_default()),
            host.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        );
        let (has_mac, has_ip, has_name) = (
            |other: &DhcpHost| mac(&host).is_some_and(|own| mac(other) == Some(own)),
            |other: &DhcpHost| host.ip.is_some() && other.ip == host.ip,
            |other: &DhcpHost| host.name.is_some() && other.name == host.name,
        );
        match self.command {
            UpdateCommand::Modify => {
                // Guests of several cards share a name, so that tells least.
                let by: [&dyn Fn(&DhcpHost) -> bool; 3] = [&has_mac, &has_ip, &has_name];
                let place = by
                    .iter()
                    .find_map(|same| entries.list.iter().position(same));
                let place = place.ok_or_else(|| entries.missing(&shown))?;
                entries.list[place] = host;
                Ok(())
            }
            UpdateCommand::Delete => {
                let fits = |other: &DhcpHost| {
                    (host.mac.is_none() || has_mac(other))
                        && (host.ip.is_none() || has_ip(other))
                        && (host.name.is_none() || has_name(other))
                        && (host.id.is_none() || other.id == host.id)
                };
                let place = entries.list.iter().position(fits);
                entries
                    .list
                    .remove(place.ok_or_else(|| entries.missing(&shown))?);
                Ok(())
            }
            UpdateCommand::AddFirst | UpdateCommand::AddLast => {
                let clashes = |other: &DhcpHost| has_mac(other) || has_ip(other) || has_name(other);
                let taken = entries.list.iter().any(clashes);
                entries.add(self.command, host, taken, &shown)
            }
        }
    }

    fn dhcp_range(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "range", network)?;
        let ip = self.parent(network, new)?;
        let range = ip::read_range(element, ip)?;
        let entries = Entries::new("dhcp range entry", network, &mut ip.dhcp.ranges);
        let shown = format!("<range start='{}' end='{}'/>", range.start, range.end);
        let (start, end) = (range.start, range.end);
        entries.by_key(self.command, range, &shown, false, |other| {
            (other.start, other.end) == (start, end)
        })
    }

    fn forward_interface(
        &self,
        element: Element<'_>,
        network: &Network,
        new: &mut Network,
    ) -> Result<()> {
        expect(element, "interface", network)?;
        let dev = forward::interface_device(element)?.to_owned();
        let forward = new.forward.as_mut();
        let forward: &mut Forward = forward.ok_or_else(|| {
            UpdateError::Unsupported(format!(
                "network '{}' is isolated: it has no <forward> whose interfaces could be changed",
                network.name.escape_debug()
            ))
        })?;
        let entries = Entries::new("interface entry", network, &mut forward.interfaces);
        let shown = format!("<interface dev='{}'>", short(&dev));
        entries.by_key(self.command, dev.clone(), &shown, false, |other| {
            *other == dev
        })
    }

    fn port_group(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "portgroup", network)?;
        let group = port::read_port_group(element)?;
        let entries = Entries::new("portgroup entry", network, &mut new.portgroups);
        let name = group.name.clone();
        let shown = format!("<portgroup name='{}'>", short(&name));
        entries.by_key(self.command, group, &shown, true, |other| {
            other.name == name
        })
    }

    fn dns_host(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "host", network)?;
        let hosts = &mut new.dns.get_or_insert_default().hosts;
        let entries = Entries::new("DNS HOST record", network, hosts);
        if self.command != UpdateCommand::Delete {
            let host = dns::read_host(element)?;
            let address = host.ip;
            // One name may have several addresses.
            return entries.by_key(self.command, host, &at(Some(address)), true, |other| {
                other.ip == address
            });
        }
        let (address, names) = dns::read_host_fields(element)?;
        if address.is_none() && names.is_empty() {
            return Err(element.error("give its ip or a <hostname>").into());
        }
        let names: HashSet<String> = names.into_iter().collect();
        entries.remove_only(&at(address), |other| {
            Some(other.ip) == address || other.hostnames.iter().any(|name| names.contains(name))
        })
    }

    fn dns_txt(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "txt", network)?;
        let txt = dns::read_txt(element, self.command.extent())?;
        let texts = &mut new.dns.get_or_insert_default().txts;
        let name = txt.name.clone();
        let shown = format!("<txt name='{}'/>", short(&name));
        let entries = Entries::new("DNS TXT record", network, texts);
        entries.by_key(self.command, txt, &shown, true, |other| other.name == name)
    }

    fn dns_srv(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "srv", network)?;
        let srv = dns::read_srv(element, self.command.extent())?;
        let services = &mut new.dns.get_or_insert_default().srvs;
        let shown = format!(
            "<srv service='{}' protocol='{}'/>",
            short(&srv.service),
            short(&srv.protocol)
        );
        let entries = Entries::new("DNS SRV record", network, services);
        let fits = |other: &DnsSrv| is_part_of(&srv, other);
        match self.command {
            UpdateCommand::Modify => Err(entries.fixed()),
            UpdateCommand::Delete => entries.remove_only(&shown, fits),
            UpdateCommand::AddFirst | UpdateCommand::AddLast => {
                let taken = entries.list.iter().any(fits);
                entries.add(self.command, srv, taken, &shown)
            }
        }
    }

    /// The `<ip>` whose DHCP changes.
    fn parent<'n>(&self, network: &Network, new: &'n mut Network) -> Result<&'n mut Ip> {
        let serves = |ip: &Ip| !ip.dhcp.ranges.is_empty() || !ip.dhcp.hosts.is_empty();
        let ips = &network.ips;
        let place = self.parent_index.or_else(|| {
            let serving = ips.iter().position(serves);
            let first_v4 = || ips.iter().position(|ip| ip.address.is_ipv4());
            serving.or_else(first_v4)
        });
        let place = place.unwrap_or(0);
        new.ips.get_mut(place).ok_or_else(|| {
            UpdateError::Invalid(format!(
                "couldn't update dhcp host entry - no <ip> element found at index {place} in \
                 network '{}'",
                network.name.escape_debug()
            ))
        })
    }
}

/// One list of a definition, and what its entries are called.
struct Entries<'a, T> {
    what: &'static str,
    network: &'a str,
    list: &'a mut Vec<T>,
}

impl<'a, T> Entries<'a, T> {
    fn new(what: &'static str, network: &'a Network, list: &'a mut Vec<T>) -> Self {
        Self {
            what,
            network: &network.name,
            list,
        }
    }

    /// Change a list whose entries are told by something that each has once. Not all of them can be
    /// modified.
    fn by_key(
        self,
        command: UpdateCommand,
        entry: T,
        shown: &str,
        modifiable: bool,
        same: impl Fn(&T) -> bool,
    ) -> Result<()> {
        match command {
            UpdateCommand::Modify if !modifiable => Err(self.fixed()),
            UpdateCommand::Modify => {
                let place = self.list.iter().position(same);
                let place = place.ok_or_else(|| self.missing(shown))?;
                self.list[place] = entry;
                Ok(())
            }
            UpdateCommand::Delete => self.remove_only(shown, same),
            UpdateCommand::AddFirst | UpdateCommand::AddLast => {
                let taken = self.list.iter().any(same);
                self.add(command, entry, taken, shown)
            }
        }
    }

    fn add(self, command: UpdateCommand, entry: T, taken: bool, shown: &str) -> Result<()> {
        if taken {
            return Err(UpdateError::Invalid(format!(
                "there is an existing {} in network '{}' that matches \"{shown}\"",
                self.what,
                self.network.escape_debug()
            )));
        }
        match command {
            UpdateCommand::AddFirst => self.list.insert(0, entry),
            _ => self.list.push(entry),
        }
        Ok(())
    }

    fn remove_only(self, shown: &str, fits: impl Fn(&T) -> bool) -> Result<()> {
        let mut places = (0..self.list.len()).filter(|place| fits(&self.list[*place]));
        let place = places.next().ok_or_else(|| self.missing(shown))?;
        if places.next().is_some() {
            return Err(UpdateError::Invalid(format!(
                "multiple matching {}s were found in network '{}' for \"{shown}\"; give more of the \
                 one that is to go",
                self.what,
                self.network.escape_debug()
            )));
        }
        self.list.remove(place);
        Ok(())
    }

    fn missing(&self, shown: &str) -> UpdateError {
        UpdateError::Invalid(format!(
            "couldn't locate a matching {} in network '{}' for \"{shown}\"",
            self.what,
            self.network.escape_debug()
        ))
    }

    fn fixed(&self) -> UpdateError {
        UpdateError::Unsupported(format!(
            "a {} cannot be modified, only added or deleted: network '{}'",
            self.what,
            self.network.escape_debug()
        ))
    }
}

fn expect(element: Element<'_>, name: &str, network: &Network) -> Result<()> {
    let found = element.node().tag_name().name();
    if found == name {
        return Ok(());
    }
    Err(UpdateError::Xml(XmlError::Invalid(format!(
        "unexpected element <{}>, expecting <{name}>, while updating network '{}'",
        short(found),
        network.name.escape_debug()
    ))))
}

fn mac(host: &DhcpHost) -> Option<Mac> {
    host.mac.as_deref()?.parse().ok()
}

/// Has `whole` all that is given in `part`?
fn is_part_of(part: &DnsSrv, whole: &DnsSrv) -> bool {
    fn same<T: PartialEq>(part: &Option<T>, whole: &Option<T>) -> bool {
        part.is_none() || part == whole
    }
    (part.service.is_empty() || part.service == whole.service)
        && (part.protocol.is_empty() || part.protocol == whole.protocol)
        && same(&part.domain, &whole.domain)
        && same(&part.target, &whole.target)
        && same(&part.port, &whole.port)
        && same(&part.priority, &whole.priority)
        && same(&part.weight, &whole.weight)
}

fn at(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "<host>".to_owned(), |ip| format!("<host ip='{ip}'>"))
}

/// A client's text for a message.
fn short(text: &str) -> String {
    text.escape_debug().take(SHOWN).collect()
}
