//! `<dns>` and `<domain>`.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::error::XmlError;
use crate::model::read::{Element, Extent};
use crate::model::write::{Tag, Writer};

/// `<domain>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// `name`.
    pub name: Option<String>,
    /// `localOnly`.
    pub local_only: Option<bool>,
    /// `register`.
    pub register: Option<bool>,
}

/// `<dns>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `enable`; absent means yes.
    pub enable: Option<bool>,
    /// `forwardPlainNames`.
    pub forward_plain_names: Option<bool>,
    /// `<forwarder>` list.
    pub forwarders: Vec<DnsForwarder>,
    /// `<txt>` list.
    pub txts: Vec<DnsTxt>,
    /// `<srv>` list.
    pub srvs: Vec<DnsSrv>,
    /// `<host>` list.
    pub hosts: Vec<DnsHost>,
}

/// `<forwarder>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsForwarder {
    /// `domain`.
    pub domain: Option<String>,
    /// `addr`.
    pub addr: Option<IpAddr>,
    /// `port` of the server at `addr`, not 0. libvirt has it since 12.
    pub port: Option<NonZeroU16>,
}

/// `<txt>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTxt {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: Option<String>,
}

/// `<srv>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSrv {
    /// `service`.
    pub service: String,
    /// `protocol`.
    pub protocol: String,
    /// `domain`.
    pub domain: Option<String>,
    /// `target`.
    pub target: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `priority`.
    pub priority: Option<u16>,
    /// `weight`.
    pub weight: Option<u16>,
}

/// `<host ip>` of `<dns>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// `ip`.
    pub ip: IpAddr,
    /// `<hostname>` list, never empty.
    pub hostnames: Vec<String>,
}

pub fn read_domain(element: Element<'_>) -> Result<Option<Domain>, XmlError> {
    let domain = Domain {
        name: element.non_empty("name").map(str::to_owned),
        local_only: element.yes_no("localOnly")?,
        register: element.yes_no("register")?,
    };
    if domain.register == Some(true) && domain.local_only != Some(true) {
        let error = element.error("register='yes' needs localOnly='yes'");
        return Err(error.of_kind(XmlError::Unsupported));
    }
    Ok(domain.name.is_some().then_some(domain))
}

/// Longest name of a service.
const MAX_SERVICE: usize = 482;

/// Reads `<dns>`; one that says nothing is as good as none.
pub fn read_dns(element: Element<'_>) -> Result<Option<Dns>, XmlError> {
    let dns = Dns {
        enable: element.yes_no("enable")?,
        forward_plain_names: element.yes_no("forwardPlainNames")?,
        forwarders: element
            .children("forwarder")
            .map(read_forwarder)
            .collect::<Result<_, _>>()?,
        txts: element
            .children("txt")
            .map(|e| read_txt(e, Extent::Whole))
            .collect::<Result<_, _>>()?,
        srvs: element
            .children("srv")
            .map(|e| read_srv(e, Extent::Whole))
            .collect::<Result<_, _>>()?,
        hosts: element
            .children("host")
            .map(read_host)
            .collect::<Result<_, _>>()?,
    };
    let has_children = !(dns.forwarders.is_empty()
        && dns.txts.is_empty()
        && dns.srvs.is_empty()
        && dns.hosts.is_empty());
    if dns.enable == Some(false) && has_children {
        return Err(element.error("enable='no' leaves nothing to the elements inside"));
    }
    Ok((dns != Dns::default()).then_some(dns))
}

/// Whatever is wrong with a record is told as that.
fn record<T>(read: Result<T, XmlError>) -> Result<T, XmlError> {
    read.map_err(|error| error.of_kind(XmlError::Record))
}

fn read_forwarder(element: Element<'_>) -> Result<DnsForwarder, XmlError> {
    let port = element.number("port")?;
    let forwarder = DnsForwarder {
        domain: element.non_empty("domain").map(str::to_owned),
        addr: element.ip("addr")?,
        port: None,
    };
    if forwarder == DnsForwarder::default() {
        return Err(element.error("one of addr and domain must be given"));
    }
    // Without a server of its own there is none to be asked at that port, as libvirt sees it, too.
    let port = port.filter(|_| forwarder.addr.is_some());
    Ok(DnsForwarder { port, ..forwarder })
}

/// Reads `<txt>`; a part of it is its name.
pub fn read_txt(element: Element<'_>, extent: Extent) -> Result<DnsTxt, XmlError> {
    record(txt(element, extent))
}

fn txt(element: Element<'_>, extent: Extent) -> Result<DnsTxt, XmlError> {
    let name = element.required("name")?;
    if name.is_empty() || name.contains([' ', ',']) {
        return Err(element.bad("name", "a name without blanks and commas"));
    }
    Ok(DnsTxt {
        name: name.to_owned(),
        value: match extent {
            Extent::Whole => Some(element.required("value")?.to_owned()),
            Extent::Part => element.attr("value").map(str::to_owned),
        },
    })
}

/// Reads `<srv>`; in a part of it service and protocol may be empty.
pub fn read_srv(element: Element<'_>, extent: Extent) -> Result<DnsSrv, XmlError> {
    record(srv(element, extent))
}

fn srv(element: Element<'_>, extent: Extent) -> Result<DnsSrv, XmlError> {
    let is_one_of = |text: &str, more: &[u8]| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let named = |name| match extent {
        Extent::Whole => element.required(name).map(Some),
        Extent::Part => Ok(element.attr(name)),
    };
    let is_service = |text: &str| text.len() <= MAX_SERVICE && is_one_of(text, b"_+/*-");
    let service = named("service")?;
    if service.is_some_and(|text| text.is_empty() || !is_service(text)) {
        return Err(element.bad("service", "letters, digits and _+/*- (at most 482)"));
    }
    let protocol = named("protocol")?;
    if protocol.is_some_and(|text| text.is_empty() || !is_one_of(text, b"+/-")) {
        return Err(element.bad("protocol", "letters, digits and +/-"));
    }
    let srv = DnsSrv {
        service: service.unwrap_or_default().to_owned(),
        protocol: protocol.unwrap_or_default().to_owned(),
        domain: element.non_empty("domain").map(str::to_owned),
        target: element.non_empty("target").map(str::to_owned),
        port: element.number("port")?,
        priority: element.number("priority")?,
        weight: element.number("weight")?,
    };
    if srv.port == Some(0) {
        return Err(element.bad("port", "from 1 to 65535"));
    }
    let has_number = srv.port.is_some() || srv.priority.is_some() || srv.weight.is_some();
    if has_number && srv.target.is_none() && extent == Extent::Whole {
        return Err(element.error("port, priority and weight need a target"));
    }
    Ok(DnsSrv {
        // Zero is the default and is not printed.
        priority: srv.priority.filter(|priority| *priority != 0),
        weight: srv.weight.filter(|weight| *weight != 0),
        ..srv
    })
}

/// Reads `<host>` of `<dns>`.
pub fn read_host(element: Element<'_>) -> Result<DnsHost, XmlError> {
    record(host(element))
}

fn host(element: Element<'_>) -> Result<DnsHost, XmlError> {
    element.required("ip")?;
    let (ip, hostnames) = read_host_fields(element)?;
    let ip = ip.ok_or_else(|| element.bad("ip", "an IP address"))?;
    if hostnames.is_empty() {
        return Err(element.error("needs at least one <hostname>"));
    }
    Ok(DnsHost { ip, hostnames })
}

/// Reads what is given of `<host>` of `<dns>`: its address and its names.
pub fn read_host_fields(element: Element<'_>) -> Result<(Option<IpAddr>, Vec<String>), XmlError> {
    record(host_fields(element))
}

fn host_fields(element: Element<'_>) -> Result<(Option<IpAddr>, Vec<String>), XmlError> {
    let ip = element.ip("ip")?;
    let hostnames: Vec<String> = element.children("hostname").map(Element::text).collect();
    if hostnames.iter().any(String::is_empty) {
        return Err(element.error("a <hostname> is empty"));
    }
    Ok((ip, hostnames))
}

pub fn write_domain(w: &mut Writer, domain: Option<&Domain>) {
    if let Some(Domain {
        name: Some(name),
        local_only,
        register,
    }) = domain
    {
        w.empty(
            Tag::new("domain")
                .attr("name", name)
                .yes_no("localOnly", *local_only)
                .yes_no("register", *register),
        );
    }
}

pub fn write_dns(w: &mut Writer, dns: &Dns) {
    let Dns {
        enable,
        forward_plain_names,
        forwarders,
        txts,
        srvs,
        hosts,
    } = dns;
    let tag = Tag::new("dns")
        .yes_no("enable", *enable)
        .yes_no("forwardPlainNames", *forward_plain_names);
    if forwarders.is_empty() && txts.is_empty() && srvs.is_empty() && hosts.is_empty() {
        w.empty(tag);
        return;
    }
    w.start(tag);
    for f in forwarders {
        w.empty(
            Tag::new("forwarder")
                .opt("domain", f.domain.as_ref())
                .opt("addr", f.addr)
                .opt("port", f.port),
        );
    }
    for txt in txts {
        w.empty(
            Tag::new("txt")
                .attr("name", &txt.name)
                .opt("value", txt.value.as_ref()),
        );
    }
    for srv in srvs {
        w.empty(
            Tag::new("srv")
                .attr("service", &srv.service)
                .attr("protocol", &srv.protocol)
                .opt("domain", srv.domain.as_ref())
                .opt("target", srv.target.as_ref())
                .opt("port", srv.port)
                .opt("priority", srv.priority)
                .opt("weight", srv.weight),
        );
    }
    for host in hosts {
        w.start(Tag::new("host").attr("ip", host.ip));
        for name in &host.hostnames {
            w.text("hostname", name);
        }
        w.end("host");
    }
    w.end("dns");
}
