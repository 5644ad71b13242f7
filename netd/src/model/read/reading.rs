//! What of a definition's text was read. What nobody asked for is not known to netd, so that no second
//! list of elements and attributes has to be kept.

use std::cell::RefCell;
use std::fmt;

use roxmltree::{Attribute, Document, Node};

use crate::model::error::XmlError;
use crate::model::namespace::is_netd_namespace;
use crate::model::xml::{namespace, shown};

/// The bit of the element itself; those below are its attributes'.
const ELEMENT: u64 = 1 << 63;
/// All that an element has.
const WHOLE: u64 = u64::MAX;
/// Most pieces that are told; the rest is counted.
const TOLD: usize = 20;

/// A text while it is read.
pub struct Reading<'a> {
    /// What it defines, for errors: a network or a network's port.
    pub what: &'static str,
    /// Its name, for errors.
    pub name: &'a str,
    /// By the number of a node: [`ELEMENT`] and a bit for each attribute in its order.
    asked: RefCell<Vec<u64>>,
}

/// A piece of a definition that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPiece {
    line: u32,
    what: String,
}

impl fmt::Display for UnknownPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl<'a> Reading<'a> {
    /// The definition of a network, of which nothing was read yet.
    pub fn new(network: &'a str) -> Self {
        Self {
            what: "network",
            name: network,
            asked: RefCell::default(),
        }
    }

    /// The same for a port.
    pub fn of_port(uuid: &'a str) -> Self {
        Self {
            what: "network port",
            ..Self::new(uuid)
        }
    }

    /// Somebody asks for this element.
    pub fn ask_element(&self, node: Node<'_, '_>) {
        self.ask(node, ELEMENT);
    }

    /// Somebody asks for the attribute of this name.
    pub fn ask_attribute(&self, node: Node<'_, '_>, name: &str) {
        let is_it = |a: Attribute<'_, '_>| a.namespace().is_none() && a.name() == name;
        if let Some(place) = node.attributes().position(is_it) {
            self.ask(node, bit(place));
        }
    }

    /// The element and all below it are meant to have no effect here.
    pub fn pass_over(&self, node: Node<'_, '_>) {
        for node in node.descendants().filter(Node::is_element) {
            self.ask(node, WHOLE);
        }
    }

    fn ask(&self, node: Node<'_, '_>, bits: u64) {
        let mut asked = self.asked.borrow_mut();
        let place = node.id().get_usize();
        if asked.len() <= place {
            asked.resize(place + 1, 0);
        }
        asked[place] |= bits;
    }

    fn was_asked(&self, node: Node<'_, '_>, bits: u64) -> bool {
        let asked = self.asked.borrow();
        asked
            .get(node.id().get_usize())
            .is_some_and(|asked| asked & bits == bits && bits != 0)
    }

    /// What nobody asked for, in the order of the text. What stands below such an element is not told
    /// by itself.
    ///
    /// # Errors
    /// Something meant for netd stands where nobody asks for it: it may protect somebody.
    pub fn unknown(&self, document: &Document<'_>) -> Result<Vec<UnknownPiece>, XmlError> {
        let mut pieces = Vec::new();
        let mut more = 0_usize;
        let elements = document.root_element().descendants();
        for node in elements.filter(Node::is_element) {
            let parent = node.parent_element();
            let is_known = self.was_asked(node, ELEMENT);
            if !is_known && namespace(node).is_some_and(is_netd_namespace) {
                return Err(XmlError::Invalid(format!(
                    "{} '{}', line {}, {}: what is meant for netd stands under <metadata>",
                    self.what,
                    self.name.escape_debug(),
                    document.text_pos_at(node.range().start).row,
                    place_of(node)
                )));
            }
            if !is_known && parent.is_some_and(|parent| !self.was_asked(parent, ELEMENT)) {
                continue;
            }
            let mut tell = |what: &dyn Fn() -> String| {
                if pieces.len() == TOLD {
                    more += 1;
                    return;
                }
                pieces.push(UnknownPiece {
                    line: document.text_pos_at(node.range().start).row,
                    what: what(),
                });
            };
            if !is_known {
                tell(&|| self.unknown_element(node));
                continue;
            }
            for (place, attribute) in node.attributes().enumerate() {
                if !self.was_asked(node, bit(place)) {
                    let name = attribute.name();
                    tell(&|| format!("{} has no attribute '{}'", place_of(node), shown(name)));
                }
            }
        }
        if let Some(last) = pieces.last_mut()
            && more > 0
        {
            last.what.push_str(&format!(", and {more} more"));
        }
        Ok(pieces)
    }

    /// Why an element was not asked for.
    fn unknown_element(&self, node: Node<'_, '_>) -> String {
        let is_twin = |other: &Node<'_, '_>| {
            other.tag_name() == node.tag_name() && self.was_asked(*other, ELEMENT)
        };
        if node.prev_siblings().skip(1).any(|other| is_twin(&other)) {
            return format!("{} is given a second time", place_of(node));
        }
        match namespace(node) {
            Some(namespace) => format!(
                "{} of namespace '{}' is not known",
                place_of(node),
                shown(namespace)
            ),
            None => format!("{} is not known", place_of(node)),
        }
    }
}

/// The bit of an attribute by its place. So many attributes that they have no bit are never asked for:
/// no element has as many.
fn bit(place: usize) -> u64 {
    match place {
        0..63 => 1 << place,
        _ => 0,
    }
}

/// `<port>`, or `<host> in <dhcp>` further down.
fn place_of(node: Node<'_, '_>) -> String {
    let name = shown(node.tag_name().name());
    match node.parent_element() {
        Some(parent) if parent.parent_element().is_some() => {
            format!("<{name}> in <{}>", shown(parent.tag_name().name()))
        }
        _ => format!("<{name}>"),
    }
}
