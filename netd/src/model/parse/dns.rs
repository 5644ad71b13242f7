//! `<dns>`.

use super::element::Element;
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
        txts: element.children("txt").map(txt).collect::<Result<_, _>>()?,
        srvs: element.children("srv").map(srv).collect::<Result<_, _>>()?,
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

fn txt(element: Element<'_>) -> Result<DnsTxt, XmlError> {
    let name = element.required("name")?;
    if name.is_empty() || name.contains([' ', ',']) {
        return Err(element.bad("name", "a name without blanks and commas"));
    }
    Ok(DnsTxt {
        name: name.to_owned(),
        value: Some(element.required("value")?.to_owned()),
    })
}

fn srv(element: Element<'_>) -> Result<DnsSrv, XmlError> {
    let is_one_of = |text: &str, more: &[u8]| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let service = element.required("service")?;
    if service.is_empty() || service.len() > MAX_SERVICE || !is_one_of(service, b"_+/*-") {
        return Err(element.bad("service", "letters, digits and _+/*- (at most 482)"));
    }
    let protocol = element.required("protocol")?;
    if protocol.is_empty() || !is_one_of(protocol, b"+/-") {
        return Err(element.bad("protocol", "letters, digits and +/-"));
    }
    let srv = DnsSrv {
        service: service.to_owned(),
        protocol: protocol.to_owned(),
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
    if has_number && srv.target.is_none() {
        return Err(element.error("port, priority and weight need a target"));
    }
    Ok(DnsSrv {
        // Zero is the default and is not printed.
        priority: srv.priority.filter(|priority| *priority != 0),
        weight: srv.weight.filter(|weight| *weight != 0),
        ..srv
    })
}

fn host(element: Element<'_>) -> Result<DnsHost, XmlError> {
    element.required("ip")?;
    let ip = element
        .ip("ip")?
        .ok_or_else(|| element.bad("ip", "an IP address"))?;
    let hostnames: Vec<String> = element.children("hostname").map(Element::text).collect();
    if hostnames.is_empty() {
        return Err(element.error("needs at least one <hostname>"));
    }
    if hostnames.iter().any(String::is_empty) {
        return Err(element.error("a <hostname> is empty"));
    }
    Ok(DnsHost { ip, hostnames })
}
