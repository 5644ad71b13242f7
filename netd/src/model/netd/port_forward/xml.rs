//! From `<netd:forwards>` to the forwards, and back.

use std::fmt::Display;
use std::net::IpAddr;

use roxmltree::Node;

use super::{ForwardGuest, ForwardRange, PortForward};
use crate::model::error::XmlError;
use crate::model::netd::reader::Reader;
use crate::model::xml::{line, shown, write_attribute};

/// Reads `<netd:forwards>`.
///
/// # Errors
/// The grammar is broken. The message says in which forward, counted from 1.
pub fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Vec<PortForward>, XmlError> {
    reader.attributes(node, &[])?;
    let mut forwards = Vec::new();
    for (number, child) in (1..).zip(reader.children(node)?) {
        reader.named(child, "portForward")?;
        forwards.push(ForwardReader { reader, number }.forward(child)?);
    }
    Ok(forwards)
}

/// Reads one `<netd:portForward>`.
struct ForwardReader<'a> {
    reader: &'a Reader<'a>,
    number: usize,
}

impl ForwardReader<'_> {
    fn refuse(&self, node: Node<'_, '_>, detail: impl Display) -> XmlError {
        self.reader
            .refuse(node, format!("{detail} (forward {})", self.number))
    }

    fn forward(&self, node: Node<'_, '_>) -> Result<PortForward, XmlError> {
        self.reader
            .attributes(node, &["proto", "address", "dev", "guest"])?;
        let protocol = self.required(node, "proto")?;
        let protocol = protocol
            .parse()
            .map_err(|error| self.refuse(node, format!("proto='{}' {error}", shown(protocol))))?;
        Ok(PortForward {
            protocol,
            address: self.address(node)?,
            dev: node.attribute("dev").map(str::to_owned),
            guest: ForwardGuest::from(self.required(node, "guest")?.to_owned()),
            ranges: self.ranges(node)?,
        })
    }

    fn address(&self, node: Node<'_, '_>) -> Result<Option<IpAddr>, XmlError> {
        let Some(text) = node.attribute("address") else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let detail = format!("address='{}' is not an IPv4 or IPv6 address", shown(text));
            self.refuse(node, detail)
        })
    }

    fn ranges(&self, node: Node<'_, '_>) -> Result<Vec<ForwardRange>, XmlError> {
        let mut ranges = Vec::new();
        for child in self.reader.children(node)? {
            self.reader.named(child, "range")?;
            ranges.push(self.range(child)?);
        }
        Ok(ranges)
    }

    fn range(&self, node: Node<'_, '_>) -> Result<ForwardRange, XmlError> {
        let known = ["start", "end", "to", "exclude"];
        self.reader.attributes(node, &known)?;
        if let Some(child) = self.reader.children(node)?.first() {
            let name = shown(child.tag_name().name());
            return Err(self.refuse(node, format!("has no child <{name}>")));
        }
        self.required(node, "start")?;
        let start = self.port(node, "start")?.unwrap_or_default();
        let exclude = match node.attribute("exclude") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => {
                let detail = format!("exclude='{}' should be yes or no", shown(other));
                return Err(self.refuse(node, detail));
            }
        };
        Ok(ForwardRange {
            start,
            end: self.port(node, "end")?.unwrap_or(start),
            to: self.port(node, "to")?,
            exclude,
        })
    }

    fn port(&self, node: Node<'_, '_>, name: &str) -> Result<Option<u16>, XmlError> {
        let Some(text) = node.attribute(name) else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse().ok().filter(|port| digits && *port != 0);
        port.map(Some).ok_or_else(|| {
            let detail = format!("{name}='{}' should be a port from 1 to 65535", shown(text));
            self.refuse(node, detail)
        })
    }

    fn required<'n>(&self, node: Node<'n, '_>, name: &str) -> Result<&'n str, XmlError> {
        node.attribute(name)
            .ok_or_else(|| self.refuse(node, format!("needs the attribute {name}")))
    }
}

/// Adds `<netd:forwards>` to `out`, its prefix `netd`, at that depth of a definition.
pub fn write(forwards: &[PortForward], out: &mut String, level: usize) {
    out.push_str("<netd:forwards>");
    for forward in forwards {
        line(out, level + 1);
        write_one(forward, out, level + 1);
    }
    line(out, level);
    out.push_str("</netd:forwards>");
}

/// Adds one `<netd:portForward>` to `out`.
fn write_one(forward: &PortForward, out: &mut String, level: usize) {
    let PortForward {
        protocol,
        address,
        dev,
        guest,
        ranges,
    } = forward;
    out.push_str("<netd:portForward");
    write_attribute(out, "proto", &protocol.to_string());
    if let Some(address) = address {
        write_attribute(out, "address", &address.to_string());
    }
    if let Some(dev) = dev {
        write_attribute(out, "dev", dev);
    }
    write_attribute(out, "guest", &guest.to_string());
    if ranges.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for range in ranges {
        let ForwardRange {
            start,
            end,
            to,
            exclude,
        } = range;
        line(out, level + 1);
        out.push_str("<netd:range");
        write_attribute(out, "start", &start.to_string());
        if end != start {
            write_attribute(out, "end", &end.to_string());
        }
        if let Some(to) = to {
            write_attribute(out, "to", &to.to_string());
        }
        if *exclude {
            write_attribute(out, "exclude", "yes");
        }
        out.push_str("/>");
    }
    line(out, level);
    out.push_str("</netd:portForward>");
}
