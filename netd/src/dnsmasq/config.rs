//! The text of dnsmasq's files. No I/O happens here.
//!
//! Every value of a definition passes one of the checks in `values.rs` before it becomes part of a line.

use std::collections::HashMap;
use std::fmt::{self, Display, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::values::{
    Result, dhcp_name, domain_name, error, file_name, hardware_address, host_name, path, printable,
    word,
};
use crate::delegation::LINGER;
use crate::model::{
    Dhcp, DhcpHost, DhcpRange, Dns, DnsSrv, ForwardMode, GivenSubnet, HostAccess, Ip, LeaseTime,
    LeaseUnit, Network,
};

/// dnsmasq reads lines through a buffer of 1025 bytes and takes what does not fit as a further
/// line, so a longer one is never written.
const MAX_LINE: usize = 1023;

/// Where dnsmasq finds the files of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFiles {
    /// Directory of the configuration and host files.
    pub dir: PathBuf,
    /// Where dnsmasq writes its process number.
    pub pid_file: Option<PathBuf>,
}

impl NetworkFiles {
    /// The file given to `--conf-file`.
    #[must_use]
    pub fn conf(&self, network: &str) -> PathBuf {
        self.dir.join(format!("{network}.conf"))
    }

    /// DHCP reservations.
    #[must_use]
    pub fn hostsfile(&self, network: &str) -> PathBuf {
        self.dir.join(format!("{network}.hostsfile"))
    }

    /// DNS names of `<dns><host>`.
    #[must_use]
    pub fn addnhosts(&self, network: &str) -> PathBuf {
        self.dir.join(format!("{network}.addnhosts"))
    }

    /// Leases, written by the lease helper.
    #[must_use]
    pub fn status(&self, bridge: &str) -> PathBuf {
        self.dir.join(format!("{bridge}.status"))
    }
}

/// Does this network need a dnsmasq: DHCP or TFTP to serve, or DNS that is not switched off?
#[must_use]
pub fn wants_dnsmasq(network: &Network) -> bool {
    let serves = |ip: &Ip| serves_dhcp(&ip.dhcp) || ip.tftp_root.is_some();
    network.is_managed()
        && network.all_ips().next().is_some()
        && (dns_enabled(network) || network.ips.iter().any(serves))
}

/// Does a network serve DHCP?
#[must_use]
pub fn has_dhcp(network: &Network) -> bool {
    network.is_managed() && network.ips.iter().any(|ip| serves_dhcp(&ip.dhcp))
}

/// What a network's dnsmasq does for guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// It answers questions for names.
    pub dns: bool,
    /// It gives addresses.
    pub dhcp: bool,
    /// It sends files.
    pub tftp: bool,
}

/// What the dnsmasq of a network does for guests, by its definition and the raw options in that.
#[must_use]
pub fn offers(network: &Network) -> Offers {
    let options = |begin: &str| {
        let mut options = network.dnsmasq_options.iter();
        options.any(|option| option.trim_start().starts_with(begin))
    };
    let mut ips = network.ips.iter();
    Offers {
        dns: dns_enabled(network),
        dhcp: ips.any(|ip| serves_dhcp(&ip.dhcp)) || options("dhcp-range"),
        tftp: network.ips.iter().any(|ip| ip.tftp_root.is_some()) || options("enable-tftp"),
    }
}

/// The configuration file, the pid file's line only if `files` has one.
///
/// # Errors
/// A value that dnsmasq would read as something else, or a combination it cannot serve.
pub fn conf(network: &Network, files: &NetworkFiles) -> Result<String> {
    let name = &network.name;
    file_name(name)?;
    let mut out = Lines::default();
    out.line(format_args!(
        "## dnsmasq's configuration for one network, written by netd at every start of it."
    ))?;
    out.line(format_args!(
        "## Changes made here are lost; change the definition instead:"
    ))?;
    out.line(format_args!("##     netd net-edit {name}"))?;

    out.line(format_args!("strict-order"))?;
    let dns = dns_enabled(network);
    upstream(network, dns, &mut out)?;
    if let Some(pid_file) = &files.pid_file {
        out.line(format_args!("pid-file={}", path("pid file", pid_file)?))?;
    }
    out.line(format_args!("except-interface=lo"))?;
    out.line(format_args!("bind-dynamic"))?;
    out.line(format_args!("interface={}", bridge(network)?))?;
    if network.mode() == ForwardMode::None {
        // No default route by DHCP or router advertisement, and no way out through the host's
        // own name servers.
        out.line(format_args!("dhcp-option=3"))?;
        out.line(format_args!("no-resolv"))?;
        out.line(format_args!("ra-param=*,0,0"))?;
    }
    if let (true, Some(records)) = (dns, &network.dns) {
        dns_records(records, &mut out)?;
    }
    dhcp(network, files, &mut out)?;
    if dns {
        let file = path("host file", &files.addnhosts(name))?;
        out.line(format_args!("addn-hosts={file}"))?;
    }
    if let Some(mtu) = network.mtu {
        out.line(format_args!("dhcp-option=option:mtu,{mtu}"))?;
    }
    router_advertisements(network, &mut out)?;
    for option in &network.dnsmasq_options {
        printable("<dnsmasq:option>", option)?;
        out.line(format_args!("{option}"))?;
    }
    Ok(out.text)
}

/// What stands behind the configuration that libvirt would write.
///
/// Guests made from one image have one client identifier, which goes before the MAC address (RFC 2131,
/// section 4.2): two of them would be given one address. A guest that starts from the network, on the other
/// hand, shows several, and would take an address for each. So guests are told apart by MAC address, unless
/// a raw option goes by identifiers.
#[must_use]
pub fn own_options(network: &Network) -> &'static str {
    let mut raw = network.dnsmasq_options.iter();
    match offers(network).dhcp && !raw.any(|option| option.contains("id:")) {
        true => "dhcp-ignore-clid\n",
        false => "",
    }
}

/// The file of DHCP reservations; empty when there are none.
///
/// # Errors
/// A value that dnsmasq would read as something else.
pub fn hostsfile(network: &Network) -> Result<String> {
    let mut out = Lines::default();
    let [v4, v6] = dhcp_sections(network)?;
    for host in v4.iter().flat_map(|ip| &ip.dhcp.hosts) {
        out.line(format_args!("{}", host_v4(host)?))?;
    }
    for host in v6.iter().flat_map(|ip| &ip.dhcp.hosts) {
        out.line(format_args!("{}", host_v6(host)?))?;
    }
    Ok(out.text)
}

/// The file of additional DNS names: one line per address, in the order of first appearance.
///
/// # Errors
/// A value that dnsmasq would read as something else.
pub fn addnhosts(network: &Network) -> Result<String> {
    let mut lines: Vec<(IpAddr, String)> = Vec::new();
    let mut by_ip: HashMap<IpAddr, usize> = HashMap::new();
    for host in network.dns.iter().flat_map(|dns| &dns.hosts) {
        let at = *by_ip.entry(host.ip).or_insert_with(|| {
            lines.push((host.ip, String::new()));
            lines.len() - 1
        });
        for hostname in &host.hostnames {
            let names = &mut lines[at].1;
            names.push_str(host_name("<hostname> of <dns>", hostname)?);
            names.push('\t');
        }
    }
    // This file is read by words, not by lines, so their length has no bound.
    Ok(lines
        .iter()
        .map(|(ip, names)| format!("{ip}\t{names}\n"))
        .collect())
}

/// Lines 2 to 8: which questions go where.
fn upstream(network: &Network, dns: bool, out: &mut Lines) -> Result<()> {
    let settings = network.dns.as_ref();
    if !dns {
        out.line(format_args!("port=0"))?;
    }
    if let (true, Some(settings)) = (dns, settings) {
        for forwarder in &settings.forwarders {
            let domain = match &forwarder.domain {
                Some(domain) => format!("/{}/", domain_name("<forwarder domain>", domain)?),
                None => String::new(),
            };
            let port = forwarder.port.map(|port| format!("#{port}"));
            let port = port.unwrap_or_default();
            match forwarder.addr {
                Some(addr) => out.line(format_args!("server={domain}{addr}{port}"))?,
                None if domain.is_empty() => {
                    return Err(error("<forwarder>", "needs addr, domain or both"));
                }
                None => out.line(format_args!("server={domain}#"))?,
            }
        }
        let general = |f: &crate::model::DnsForwarder| f.addr.is_some() && f.domain.is_none();
        if settings.forwarders.iter().any(general) {
            out.line(format_args!("no-resolv"))?;
        }
    }
    if let Some(domain) = &network.domain
        && let Some(name) = &domain.name
    {
        let name = domain_name("<domain name>", name)?;
        if domain.local_only == Some(true) {
            out.line(format_args!("local=/{name}/"))?;
        }
        out.line(format_args!("domain={name}"))?;
        out.line(format_args!("expand-hosts"))?;
    }
    if dns {
        for ip in network.ips.iter().filter(|ip| ip.local_ptr == Some(true)) {
            out.line(format_args!("local=/{}/", reverse_zone(ip)?))?;
        }
        if settings.and_then(|s| s.forward_plain_names) == Some(false) {
            out.line(format_args!("domain-needed"))?;
            out.line(format_args!("local=//"))?;
        }
    }
    Ok(())
}

fn dns_records(dns: &Dns, out: &mut Lines) -> Result<()> {
    for txt in &dns.txts {
        let name = word("<txt name>", &txt.name)?;
        let value = txt.value.as_deref().unwrap_or_default();
        // Commas and quotes are the user's way to write several strings.
        printable("<txt value>", value)?;
        if value.contains('#') && !value.contains(['"', '\\']) {
            // Unquoted, the rest would be taken as a comment.
            out.line(format_args!("txt-record={name},\"{value}\""))?;
        } else {
            out.line(format_args!("txt-record={name},{value}"))?;
        }
    }
    for srv in &dns.srvs {
        out.line(format_args!("{}", srv_host(srv)?))?;
    }
    Ok(())
}

fn srv_host(srv: &DnsSrv) -> Result<String> {
    let mut line = format!(
        "srv-host=_{}._{}",
        word("<srv service>", &srv.service)?,
        word("<srv protocol>", &srv.protocol)?
    );
    let mut add = |text: fmt::Arguments<'_>| line.push_str(&text.to_string());
    if let Some(domain) = &srv.domain {
        add(format_args!(".{}", domain_name("<srv domain>", domain)?));
    }
    // "." says that the service does not exist there: RFC 2782.
    if let Some(target) = srv.target.as_deref().filter(|t| *t != "." && !t.is_empty()) {
        add(format_args!(",{}", domain_name("<srv target>", target)?));
        let given = |field: Option<u16>| field.filter(|value| *value != 0);
        let (port, priority, weight) = (given(srv.port), given(srv.priority), given(srv.weight));
        // The fields are known by their position.
        if port.or(priority).or(weight).is_some() {
            add(format_args!(",{}", port.unwrap_or(1)));
        }
        if priority.or(weight).is_some() {
            add(format_args!(",{}", priority.unwrap_or(0)));
        }
        if let Some(weight) = weight {
            add(format_args!(",{weight}"));
        }
    }
    Ok(line)
}

/// May guests reach nothing of the host but its services?
fn closes_host(network: &Network) -> bool {
    network
        .netd
        .host
        .is_some_and(|host| host.access == HostAccess::Services)
}

/// Lines 15 to 22: TFTP, ranges and reservations.
fn dhcp(network: &Network, files: &NetworkFiles, out: &mut Lines) -> Result<()> {
    let roots = network.ips.iter().filter(|ip| ip.address.is_ipv4());
    for (i, root) in roots.filter_map(|ip| ip.tftp_root.as_ref()).enumerate() {
        if i == 0 {
            out.line(format_args!("enable-tftp"))?;
            // Of a host that is closed but for its services guests reach port 69 alone, and not
            // the port of its own that each transfer has otherwise (RFC 1350, section 4).
            if closes_host(network) {
                out.line(format_args!("tftp-single-port"))?;
            }
        }
        let root = path("<tftp root>", Path::new(root))?;
        out.line(format_args!("tftp-root={root}"))?;
    }

    let mut leases = 0u128;
    let sections = dhcp_sections(network)?;
    for ip in sections.into_iter().flatten() {
        let size: &dyn Display = match ip.address {
            IpAddr::V4(_) => &netmask(ip),
            // dnsmasq takes none that is shorter, and a range within one.
            IpAddr::V6(_) => &ip.prefix_len().max(SLAAC_PREFIX),
        };
        for range in &ip.dhcp.ranges {
            let (start, end) = (range.start, range.end);
            let lease = lease(range.lease);
            out.line(format_args!("dhcp-range={start},{end},{size}{lease}"))?;
            leases = leases.saturating_add(range_size(range)?);
        }
        if ip.dhcp.ranges.is_empty() {
            match ip.address {
                IpAddr::V4(a) => out.line(format_args!("dhcp-range={a},static"))?,
                IpAddr::V6(a) => out.line(format_args!("dhcp-range={a},static,{size}"))?,
            }
        }
        if ip.address.is_ipv4() {
            out.line(format_args!("dhcp-no-override"))?;
            out.line(format_args!("dhcp-authoritative"))?;
            if let Some(bootp) = &ip.dhcp.bootp {
                let file = path("<bootp file>", Path::new(&bootp.file))?;
                match &bootp.server {
                    Some(server) => {
                        let server = word("<bootp server>", server)?;
                        out.line(format_args!("dhcp-boot={file},,{server}"))?;
                    }
                    None => out.line(format_args!("dhcp-boot={file}"))?,
                }
            }
        }
    }
    if leases > 0 {
        // The option is a C int.
        let leases = leases.min(i32::MAX as u128);
        out.line(format_args!("dhcp-lease-max={leases}"))?;
    }
    if sections.iter().any(Option::is_some) {
        let file = path("host file", &files.hostsfile(&network.name))?;
        out.line(format_args!("dhcp-hostsfile={file}"))?;
    }
    Ok(())
}

/// Length of the prefixes in which hosts make themselves addresses (RFC 4291, section 2.5.1).
const SLAAC_PREFIX: u8 = 64;

/// dnsmasq advertises the subnets that it has a range in, but of ranges that are for advertisements alone
/// those of 64 bits. In a longer prefix guests have addresses of their own, and learn of the router by a
/// range with no address to give.
fn router_advertisements(network: &Network, out: &mut Lines) -> Result<()> {
    let [_, v6] = dhcp_sections(network)?;
    let longer = |ip: &Ip| ip.prefix_len() > SLAAC_PREFIX;
    let others = network
        .ips
        .iter()
        .filter(|ip| ip.address.is_ipv6() && v6.is_none_or(|served| served.address != ip.address));
    if v6.is_some() || others.clone().any(longer) {
        out.line(format_args!("enable-ra"))?;
    }
    for GivenSubnet { given, ip } in &network.given {
        let time: &dyn Display = match given.is_preferred {
            true => &LINGER.as_secs(),
            // Not for new connections (RFC 9096, section 3.1; RFC 4862, section 5.5.4).
            false => &"deprecated",
        };
        let (address, size) = (ip.address, ip.prefix_len());
        out.line(format_args!("dhcp-range={address},ra-only,{size},{time}"))?;
    }
    for ip in others {
        match longer(ip) {
            true => out.line(format_args!(
                "dhcp-range={},static,{}",
                ip.address,
                ip.prefix_len()
            ))?,
            false => out.line(format_args!("dhcp-range={},ra-only", ip.address))?,
        }
    }
    Ok(())
}

/// The `<ip>` with DHCP of each family: IPv4, IPv6.
fn dhcp_sections(network: &Network) -> Result<[Option<&Ip>; 2]> {
    let mut sections = [None, None];
    for ip in network.ips.iter().filter(|ip| serves_dhcp(&ip.dhcp)) {
        let (slot, family) = match ip.address {
            IpAddr::V4(_) => (&mut sections[0], "IPv4"),
            IpAddr::V6(_) => (&mut sections[1], "IPv6"),
        };
        if slot.replace(ip).is_some() {
            return Err(error(
                "<dhcp>",
                format!("only one <ip> of a network can serve DHCP for {family}"),
            ));
        }
    }
    Ok(sections)
}

fn host_v4(host: &DhcpHost) -> Result<String> {
    let ip = host
        .ip
        .ok_or_else(|| error("<host> of <dhcp>", "an IPv4 host needs ip"))?;
    let lease = lease(host.lease);
    let mac = host.mac.as_deref().map(hardware_address).transpose()?;
    let name = host.name.as_deref().map(dhcp_name).transpose()?;
    match (mac, name) {
        (Some(mac), Some(name)) => Ok(format!("{mac},{ip},{name}{lease}")),
        (Some(mac), None) => Ok(format!("{mac},{ip}{lease}")),
        (None, Some(name)) => Ok(format!("{name},{ip}{lease}")),
        (None, None) => Err(error("<host> of <dhcp>", "an IPv4 host needs mac or name")),
    }
}

fn host_v6(host: &DhcpHost) -> Result<String> {
    let mut fields = Vec::new();
    if let Some(id) = &host.id {
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_hexdigit() || c == ':') {
            return Err(error(
                "<host id>",
                "may hold hexadecimal digits and ':' only",
            ));
        }
        fields.push(format!("id:{id}"));
    }
    if let Some(name) = &host.name {
        fields.push(dhcp_name(name)?.to_owned());
    }
    if fields.is_empty() {
        return Err(error("<host> of <dhcp>", "an IPv6 host needs id or name"));
    }
    if let Some(ip) = host.ip {
        fields.push(format!("[{ip}]"));
    }
    Ok(fields.join(",") + &lease(host.lease))
}

fn bridge(network: &Network) -> Result<&str> {
    const ELEMENT: &str = "<bridge name>";
    let name = network.bridge.name.as_deref().unwrap_or_default();
    // A '*' would be a pattern, and a template is no name yet.
    if name.contains(['*', '%', '/']) {
        return Err(error(
            ELEMENT,
            format!("{name:?} is not the name of one device"),
        ));
    }
    word(ELEMENT, name)
}

fn dns_enabled(network: &Network) -> bool {
    network.dns.as_ref().and_then(|dns| dns.enable) != Some(false)
}

fn serves_dhcp(dhcp: &Dhcp) -> bool {
    !dhcp.ranges.is_empty() || !dhcp.hosts.is_empty()
}

/// The last field of a range or a host, its comma included.
fn lease(time: Option<LeaseTime>) -> String {
    match time {
        None => String::new(),
        Some(LeaseTime { expiry: 0, .. }) => ",infinite".to_owned(),
        Some(LeaseTime { expiry, unit }) => {
            let unit = match unit {
                LeaseUnit::Seconds => 's',
                LeaseUnit::Minutes => 'm',
                LeaseUnit::Hours => 'h',
            };
            format!(",{expiry}{unit}")
        }
    }
}

fn range_size(range: &DhcpRange) -> Result<u128> {
    let distance = match (range.start, range.end) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(b).checked_sub(u32::from(a)).map(u128::from),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(b).checked_sub(u128::from(a)),
        _ => None,
    };
    distance
        .map(|d| d.saturating_add(1))
        .ok_or_else(|| error("<range>", "end must be an address at or after start"))
}

fn netmask(ip: &Ip) -> Ipv4Addr {
    let host_bits = 32u32.saturating_sub(ip.prefix_len().into());
    Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

/// Name of the zone that holds the PTR records of a subnet.
fn reverse_zone(ip: &Ip) -> Result<String> {
    let prefix = usize::from(ip.prefix_len());
    let (step, max) = if ip.address.is_ipv4() {
        (8, 32)
    } else {
        (4, 128)
    };
    if prefix == 0 || prefix >= max || prefix % step != 0 {
        return Err(error(
            "<ip localPtr>",
            format!(
                "needs a prefix that is a multiple of {step} between 1 and {}",
                max - 1
            ),
        ));
    }
    let labels = prefix / step;
    let mut zone = String::new();
    match ip.address {
        IpAddr::V4(a) => {
            for octet in a.octets()[..labels].iter().rev() {
                zone += &format!("{octet}.");
            }
            zone += "in-addr.arpa";
        }
        IpAddr::V6(a) => {
            let nibbles = a.octets().map(|o| [o >> 4, o & 15]);
            for nibble in nibbles.as_flattened()[..labels].iter().rev() {
                zone += &format!("{nibble:x}.");
            }
            zone += "ip6.arpa";
        }
    }
    Ok(zone)
}

/// Text made of lines, each no longer than dnsmasq reads in one piece.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn line(&mut self, line: fmt::Arguments<'_>) -> Result<()> {
        let start = self.text.len();
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
        let line = &self.text[start..self.text.len() - 1];
        if line.len() > MAX_LINE {
            let begin: String = line.chars().take(40).collect();
            return Err(error(
                format!("'{begin}…'"),
                format!(
                    "makes a line of {} bytes, dnsmasq takes {MAX_LINE}",
                    line.len()
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
