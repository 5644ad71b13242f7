//! One change to one section of a definition, as `net-update` asks for it.
//!
//! Only the entry is looked at here, as by libvirt: is it there, is it not there yet? Whether the
//! definition still makes sense is for those to find out who read it again and check it.

use std::collections::HashSet;
use std::net::IpAddr;

use super::element::{DhcpHost, Dns, DnsHost, DnsSrv, Family, Forward, Ip, Mac, PortGroup};
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
                    "can't update '{}' section of network '{}'",
                    self.section.name().replace('-', " "),
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
        let of_other_family = |own: IpAddr| own.is_ipv4() != ip.address.is_ipv4();
        if host.ip.is_some_and(of_other_family) {
            return Err(UpdateError::Invalid(
                "the address family of a host entry IP must match the address family of the dhcp \
                 element's parent"
                    .to_owned(),
            ));
        }
        let address = ip.address;
        let list = &mut ip.dhcp.hosts;
        let within = format!("in network '{}'", network.name.escape_debug());
        let given = (
            short(host.mac.as_deref().unwrap_or_default()),
            short(host.name.as_deref().unwrap_or_default()),
            host.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        );
        let (mac_text, name_text, ip_text) = &given;
        let (has_mac, has_ip, has_name) = (
            |other: &DhcpHost| mac(&host).is_some_and(|own| mac(other) == Some(own)),
            |other: &DhcpHost| host.ip.is_some() && other.ip == host.ip,
            |other: &DhcpHost| host.name.is_some() && other.name == host.name,
        );
        match self.command {
            UpdateCommand::Modify => {
                // Guests of several cards share a name, so that tells least.
                let by: [&dyn Fn(&DhcpHost) -> bool; 3] = [&has_mac, &has_ip, &has_name];
                let place = by.iter().find_map(|same| list.iter().position(same));
                let place = place.ok_or_else(|| {
                    UpdateError::Invalid(format!(
                        "couldn't locate an existing dhcp host entry with \"mac='{mac_text}'\" \
                         \"name='{name_text}'\" \"ip='{ip_text}'\" {within}"
                    ))
                })?;
                list[place] = host;
                Ok(())
            }
            UpdateCommand::Delete => {
                let fits = |other: &DhcpHost| {
                    (host.mac.is_none() || has_mac(other))
                        && (host.ip.is_none() || has_ip(other))
                        && (host.name.is_none() || has_name(other))
                        && (host.id.is_none() || other.id == host.id)
                };
                let place = list.iter().position(fits);
                let missing = || {
                    let detail = format!("couldn't locate a matching dhcp host entry {within}");
                    UpdateError::Invalid(detail)
                };
                list.remove(place.ok_or_else(missing)?);
                Ok(())
            }
            UpdateCommand::AddFirst | UpdateCommand::AddLast => {
                only_dhcp(network, address)?;
                let clashes = |other: &DhcpHost| has_mac(other) || has_ip(other) || has_name(other);
                if list.iter().any(clashes) {
                    return Err(UpdateError::Invalid(format!(
                        "there is an existing dhcp host entry {within} that matches \
                         \"<host mac='{mac_text}' name='{name_text}' ip='{ip_text}'/>\""
                    )));
                }
                insert(self.command, list, host);
                Ok(())
            }
        }
    }

    fn dhcp_range(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "range", network)?;
        let ip = self.parent(network, new)?;
        self.no_modify("dhcp ranges")?;
        let range = ip::read_range(element, ip)?;
        if self.command != UpdateCommand::Delete {
            only_dhcp(network, ip.address)?;
        }
        let (start, end) = (range.start, range.end);
        let within = format!("in network '{}'", network.name.escape_debug());
        let words = Words {
            taken: format!(
                "there is an existing dhcp range entry {within} that matches \
                 \"<range start='{start}' end='{end}'/>\""
            ),
            missing: format!("couldn't locate a matching dhcp range entry {within}"),
            several: format!("multiple matching dhcp range entries were found {within}"),
        };
        words.change(self.command, &mut ip.dhcp.ranges, range, |other| {
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
        self.no_modify("forward interface entries")?;
        let dev = forward::interface_device(element)?.to_owned();
        let forward = new.forward.as_mut();
        let forward: &mut Forward = forward.ok_or_else(|| {
            UpdateError::Unsupported(format!(
                "network '{}' is isolated: it has no <forward> whose interfaces could be changed",
                network.name.escape_debug()
            ))
        })?;
        if forward.pf.is_some() {
            return Err(UpdateError::Unsupported(format!(
                "network '{}' has the devices of its <pf>, and no others",
                network.name.escape_debug()
            )));
        }
        let within = format!("in network '{}'", network.name.escape_debug());
        let shown = format!("<interface dev='{}'>", short(&dev));
        let words = Words {
            taken: format!(
                "there is an existing interface entry {within} that matches \"{shown}\""
            ),
            missing: format!("couldn't find an interface entry {within} matching {shown}"),
            several: format!("multiple interface entries {within} match {shown}"),
        };
        let list = &mut forward.interfaces;
        words.change(self.command, list, dev.clone(), |other| *other == dev)
    }

    fn port_group(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "portgroup", network)?;
        let group = port::read_port_group(element)?;
        let name = group.name.clone();
        let within = format!("in network '{}'", network.name.escape_debug());
        let shown = format!("<portgroup name='{}'>", short(&name));
        let words = Words {
            taken: format!(
                "there is an existing portgroup entry {within} that matches \"{shown}\""
            ),
            missing: format!("couldn't find a portgroup entry {within} matching {shown}"),
            several: format!("multiple portgroup entries {within} match {shown}"),
        };
        let is_other_default = |other: &PortGroup| other.default && other.name != name;
        let defaults = group.default && self.command != UpdateCommand::Delete;
        if defaults && network.portgroups.iter().any(is_other_default) {
            return Err(UpdateError::Invalid(format!(
                "a different portgroup entry {within} is already set as the default. Only one \
                 default is allowed."
            )));
        }
        let list = &mut new.portgroups;
        words.change(self.command, list, group, |other| other.name == name)
    }

    fn dns_host(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "host", network)?;
        let hosts = &mut new.dns.get_or_insert_default().hosts;
        let within = format!("in network {}", network.name.escape_debug());
        let words = Words {
            taken: format!(
                "there is already at least one DNS HOST record with a matching field {within}"
            ),
            missing: format!("couldn't locate a matching DNS HOST record {within}"),
            several: format!("multiple matching DNS HOST records were found {within}"),
        };
        let (address, names) = dns::read_host_fields(element)?;
        // It is found by its address alone.
        let is_it = |other: &DnsHost| Some(other.ip) == address;
        if self.command == UpdateCommand::Modify && !hosts.iter().any(is_it) {
            return Err(UpdateError::Invalid(words.missing));
        }
        if self.command != UpdateCommand::Delete {
            let host = dns::read_host(element)?;
            // One name may have several addresses.
            return words.change(self.command, hosts, host, is_it);
        }
        if address.is_none() && names.is_empty() {
            let error = element.error("give its ip or a <hostname>");
            return Err(error.of_kind(XmlError::Record).into());
        }
        let names: HashSet<String> = names.into_iter().collect();
        words.remove_only(hosts, |other| {
            is_it(other) || other.hostnames.iter().any(|name| names.contains(name))
        })
    }

    fn dns_txt(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        expect(element, "txt", network)?;
        let within = format!("in network {}", network.name.escape_debug());
        if self.command == UpdateCommand::Modify && element.attr("value").is_none() {
            let detail = format!("missing value of modifying DNS TXT record {within}");
            return Err(UpdateError::Invalid(detail));
        }
        let txt = dns::read_txt(element, self.command.extent())?;
        let texts = &mut new.dns.get_or_insert_default().txts;
        let name = txt.name.clone();
        let words = Words {
            taken: format!(
                "there is already a DNS TXT record with name '{}' {within}",
                short(&name)
            ),
            missing: format!("couldn't locate a matching DNS TXT record {within}"),
            several: format!("multiple matching DNS TXT records were found {within}"),
        };
        words.change(self.command, texts, txt, |other| other.name == name)
    }

    fn dns_srv(&self, element: Element<'_>, network: &Network, new: &mut Network) -> Result<()> {
        self.no_modify("DNS SRV records")?;
        expect(element, "srv", network)?;
        let srv = dns::read_srv(element, self.command.extent())?;
        let services = &mut new.dns.get_or_insert_default().srvs;
        let within = format!("in network {}", network.name.escape_debug());
        let words = Words {
            taken: format!(
                "there is already at least one DNS SRV record matching all specified fields \
                 {within}"
            ),
            missing: format!("couldn't locate a matching DNS SRV record {within}"),
            several: format!(
                "multiple DNS SRV records matching all specified fields were found {within}"
            ),
        };
        let part = srv.clone();
        words.change(self.command, services, srv, |other| {
            is_part_of(&part, other)
        })
    }

    /// Refuses to modify what never is.
    fn no_modify(&self, what: &str) -> Result<()> {
        match self.command {
            UpdateCommand::Modify => Err(UpdateError::Unsupported(format!(
                "{what} cannot be modified, only added or deleted"
            ))),
            _ => Ok(()),
        }
    }

    /// The `<ip>` whose DHCP changes.
    fn parent<'n>(&self, network: &Network, new: &'n mut Network) -> Result<&'n mut Ip> {
        let ips = &network.ips;
        let place = self.parent_index.or_else(|| {
            let serving = ips.iter().position(|ip| ip.dhcp.serves());
            let first_v4 = || ips.iter().position(|ip| ip.address.is_ipv4());
            serving.or_else(first_v4)
        });
        let place = place.unwrap_or(0);
        new.ips.get_mut(place).ok_or_else(|| {
            let at = self.parent_index.map(|index| format!(" at index {index}"));
            UpdateError::Invalid(format!(
                "couldn't update dhcp host entry - no <ip> element found{} in network '{}'",
                at.unwrap_or_default(),
                network.name.escape_debug()
            ))
        })
    }
}

/// What is said of one list of a definition, in libvirt's words: tools look for them.
struct Words {
    /// What is to be added is there already.
    taken: String,
    /// Nothing fits.
    missing: String,
    /// More than one fits what is to be deleted.
    several: String,
}

impl Words {
    /// Change a list whose entries are told apart by `same`.
    fn change<T>(
        self,
        command: UpdateCommand,
        list: &mut Vec<T>,
        entry: T,
        same: impl Fn(&T) -> bool,
    ) -> Result<()> {
        match command {
            UpdateCommand::Modify => {
                let place = list.iter().position(same);
                list[place.ok_or(UpdateError::Invalid(self.missing))?] = entry;
                Ok(())
            }
            UpdateCommand::Delete => self.remove_only(list, same),
            UpdateCommand::AddFirst | UpdateCommand::AddLast => {
                if list.iter().any(same) {
                    return Err(UpdateError::Invalid(self.taken));
                }
                insert(command, list, entry);
                Ok(())
            }
        }
    }

    fn remove_only<T>(self, list: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> Result<()> {
        let mut places = (0..list.len()).filter(|place| fits(&list[*place]));
        let place = places.next().ok_or(UpdateError::Invalid(self.missing))?;
        if places.next().is_some() {
            return Err(UpdateError::Invalid(self.several));
        }
        list.remove(place);
        Ok(())
    }
}

/// Refuses DHCP of an `<ip>` beside one of its family that serves it.
fn only_dhcp(network: &Network, address: IpAddr) -> Result<()> {
    let family = Family::of(address);
    let serves = |ip: &Ip| ip.address != address && Family::of(ip.address) == family;
    match network.ips.iter().any(|ip| serves(ip) && ip.dhcp.serves()) {
        true => Err(UpdateError::Invalid(format!(
            "dhcp is supported only for a single {family} address on each network"
        ))),
        false => Ok(()),
    }
}

fn insert<T>(command: UpdateCommand, list: &mut Vec<T>, entry: T) {
    match command {
        UpdateCommand::AddFirst => list.insert(0, entry),
        _ => list.push(entry),
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

/// A client's text for a message.
fn short(text: &str) -> String {
    text.escape_debug().take(SHOWN).collect()
}
