//! From `<netd:forwards>` to the forwards.

use std::fmt::Display;
use std::net::IpAddr;

use roxmltree::Node;

use super::{ForwardGuest, ForwardRange, PortForward, rules};
use crate::model::error::XmlError;
use crate::model::extension::{Reader, shown};

/// Reads `<netd:forwards>` of the reader's network.
///
/// # Errors
/// The grammar or a rule is broken. The message says in which forward, counted from 1.
pub fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Vec<PortForward>, XmlError> {
    reader.attributes(node, &[])?;
    let mut forwards = Vec::new();
    for (number, child) in (1..).zip(reader.children(node)?) {
        reader.named(child, "portForward")?;
        forwards.push(One { reader, number }.forward(child)?);
    }
    rules::check(reader.network(), &forwards)?;
    Ok(forwards)
}

/// Reads one `<netd:portForward>`.
struct One<'a> {
    reader: &'a Reader<'a>,
    number: usize,
}

impl One<'_> {
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
