//! `<dns>`.

use std::net::IpAddr;

use super::element::{Element, Extent};
use crate::model::error::XmlError;
use crate::model::types::{Dns, DnsForwarder, DnsHost, DnsSrv, DnsTxt};

/// Longest name of a service.
const MAX_SERVICE: usize = 482;

/// Reads `<dns>`; one that says nothing is as good as none.
pub fn dns(element: Element<'_>) -> Result<Option<Dns>, XmlError> {
    let dns = Dns {
        enable: element.yes_no("enable")?,
        forward_plain_names: element.yes_no("forwardPlainNames")?,
        forwarders: element
            .children("forwarder")
            .map(forwarder)
            .collect::<Result<_, _>>()?,
        txts: element
            .children("txt")
            .map(|e| txt(e, Extent::Whole))
            .collect::<Result<_, _>>()?,
        srvs: element
            .children("srv")
            .map(|e| srv(e, Extent::Whole))
            .collect::<Result<_, _>>()?,
        hosts: element
            .children("host")
            .map(host)
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

fn forwarder(element: Element<'_>) -> Result<DnsForwarder, XmlError> {
    let forwarder = DnsForwarder {
        domain: element.non_empty("domain").map(str::to_owned),
        addr: element.ip("addr")?,
    };
    if forwarder == DnsForwarder::default() {
        return Err(element.error("one of addr and domain must be given"));
    }
    Ok(forwarder)
}

/// Reads `<txt>`; a part of it is its name.
pub fn txt(element: Element<'_>, extent: Extent) -> Result<DnsTxt, XmlError> {
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
pub fn srv(element: Element<'_>, extent: Extent) -> Result<DnsSrv, XmlError> {
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
pub fn host(element: Element<'_>) -> Result<DnsHost, XmlError> {
    element.required("ip")?;
    let (ip, hostnames) = host_fields(element)?;
    let ip = ip.ok_or_else(|| element.bad("ip", "an IP address"))?;
    if hostnames.is_empty() {
        return Err(element.error("needs at least one <hostname>"));
    }
    Ok(DnsHost { ip, hostnames })
}

/// Reads what is given of `<host>` of `<dns>`: its address and its names.
pub fn host_fields(element: Element<'_>) -> Result<(Option<IpAddr>, Vec<String>), XmlError> {
    let ip = element.ip("ip")?;
    let hostnames: Vec<String> = element.children("hostname").map(Element::text).collect();
    if hostnames.iter().any(String::is_empty) {
        return Err(element.error("a <hostname> is empty"));
    }
    Ok((ip, hostnames))
}
