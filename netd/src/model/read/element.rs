//! One element of the definition and its typed attributes; every error knows where it happened.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use roxmltree::Node;
use uuid::Uuid;

use super::reading::Reading;
use crate::model::error::XmlError;
use crate::model::xml;

/// How much of an element has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that a definition needs.
    Whole,
    /// Enough to find it by in a definition.
    Part,
}

/// An element of a network's definition.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    node: Node<'a, 'a>,
    reading: &'a Reading<'a>,
}

impl<'a> Element<'a> {
    /// The outermost element of a text.
    pub fn new(node: Node<'a, 'a>, reading: &'a Reading<'a>) -> Self {
        reading.ask_element(node);
        Self { node, reading }
    }

    /// The text that it is part of.
    pub fn reading(self) -> &'a Reading<'a> {
        self.reading
    }

    /// Takes note that the element and all below it are meant to have no effect.
    pub fn pass_over(self) {
        self.reading.pass_over(self.node);
    }

    /// The node itself, for what is not typed here.
    pub fn node(self) -> Node<'a, 'a> {
        self.node
    }

    /// The first child of that name without a namespace.
    pub fn child(self, name: &'static str) -> Option<Self> {
        self.children(name).next()
    }

    /// All children of that name without a namespace.
    pub fn children(self, name: &'static str) -> impl Iterator<Item = Self> + 'a {
        self.children_in(None, name)
    }

    /// All children of that name in a namespace.
    pub fn children_in(
        self,
        namespace: Option<&'static str>,
        name: &'static str,
    ) -> impl Iterator<Item = Self> + 'a {
        self.node.children().filter_map(move |node| {
            let tag = node.tag_name();
            (node.is_element() && tag.name() == name && xml::namespace(node) == namespace)
                .then(|| Self::new(node, self.reading))
        })
    }

    /// The only child of that name; a second one is an error.
    pub fn single(self, name: &'static str) -> Result<Option<Self>, XmlError> {
        let mut all = self.children(name);
        let first = all.next();
        match all.next() {
            Some(second) => Err(second.error("may be given once only")),
            None => Ok(first),
        }
    }

    /// An attribute's text.
    pub fn attr(self, name: &str) -> Option<&'a str> {
        self.reading.ask_attribute(self.node, name);
        self.node.attribute(name)
    }

    /// An attribute's text, an empty one being as good as none.
    pub fn non_empty(self, name: &str) -> Option<&'a str> {
        self.attr(name).filter(|value| !value.is_empty())
    }

    /// An attribute that must be there.
    pub fn required(self, name: &str) -> Result<&'a str, XmlError> {
        self.attr(name)
            .ok_or_else(|| self.error(format!("attribute '{name}' is missing")))
    }

    /// All text of the element.
    pub fn text(self) -> String {
        xml::content(self.node)
    }

    /// `yes`, `no` or absent.
    pub fn yes_no(self, name: &str) -> Result<Option<bool>, XmlError> {
        match self.attr(name) {
            None => Ok(None),
            Some("yes") => Ok(Some(true)),
            Some("no") => Ok(Some(false)),
            Some(_) => Err(self.bad(name, "'yes' or 'no'").of_kind(XmlError::Value)),
        }
    }

    /// A decimal number that fits its type. Blanks may stand before it, as C reads numbers.
    pub fn number<T: FromStr>(self, name: &str) -> Result<Option<T>, XmlError> {
        self.attr(name)
            .map(|text| text.trim_ascii_start().parse())
            .transpose()
            .map_err(|_| self.bad(name, "a number in range").of_kind(XmlError::Value))
    }

    /// An IP address of either family.
    pub fn ip(self, name: &str) -> Result<Option<IpAddr>, XmlError> {
        self.parsed(name, "an IP address")
    }

    /// An attribute of any type that reads itself; `wanted` words the error.
    pub fn parsed<T: FromStr>(self, name: &str, wanted: &str) -> Result<Option<T>, XmlError> {
        self.attr(name)
            .map(|text| text.parse().map_err(|_| self.bad(name, wanted)))
            .transpose()
    }

    /// The given attribute, as something it should not be.
    pub fn bad(self, name: &str, wanted: &str) -> XmlError {
        let value = self.attr(name).unwrap_or_default();
        self.error(format!(
            "{name}='{}' should be {wanted}",
            value.escape_debug()
        ))
    }

    /// An error that names the network, the line and the element.
    pub fn error(self, detail: impl Display) -> XmlError {
        let line = self
            .node
            .document()
            .text_pos_at(self.node.range().start)
            .row;
        let name = self.node.tag_name().name();
        let parent = match self.node.parent_element() {
            Some(parent) if parent.parent_element().is_some() => {
                format!(" in <{}>", parent.tag_name().name())
            }
            _ => String::new(),
        };
        XmlError::Invalid(format!(
            "{} '{}', line {line}, <{name}>{parent}: {detail}",
            self.reading.what,
            self.reading.name.escape_debug()
        ))
    }
}

/// As libvirt reads a UUID: more forgiving than the `uuid` crate about dashes and blanks.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let mut bytes = [0; 16];
    let mut rest = text.trim_ascii();
    for byte in &mut bytes {
        rest = rest.trim_start_matches(['-', ' ']);
        let digits = rest.get(..2)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
        rest = &rest[2..];
    }
    rest.is_empty().then(|| Uuid::from_bytes(bytes))
}
