//! An element of netd's: how it is read, written and checked. One that is attributes says so in
//! a table, and all three follow from that.

use roxmltree::Node;

use super::reader::{Reader, refusal};
use crate::model::element::{ForwardMode, Ip};
use crate::model::error::XmlError;
use crate::model::xml::{self, shown};

/// What the rules look at of the definition around an element.
pub struct Surroundings<'a> {
    /// Name of the network.
    pub name: &'a str,
    /// Mode of its `<forward>`.
    pub mode: ForwardMode,
    /// What it does to packets of IPv6 ([`Network::mode_for`](crate::model::Network::mode_for)).
    pub ipv6_mode: ForwardMode,
    /// Its `<ip>` elements.
    pub ips: &'a [Ip],
}

/// An element that may stand in `<netd:network>`, or alone.
pub trait Section: Sized {
    /// Its name.
    const NAME: &'static str;

    /// Reads the element.
    ///
    /// # Errors
    /// An attribute or child that does not exist, or a value that is not allowed.
    fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Self, XmlError>;

    /// Adds the element to `out`, its prefix `netd`, at that depth of a definition.
    fn write(&self, out: &mut String, level: usize);

    /// May the network have it?
    ///
    /// # Errors
    /// It contradicts itself, or what else the definition says.
    fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError>;
}

/// An element that is attributes, and children at most. Its default is what the element says without them.
pub trait AttributeSection: Default + 'static {
    /// Its name.
    const NAME: &'static str;

    /// Its attributes, in the order they are written.
    const ATTRIBUTES: &'static [Attribute<Self>];

    /// Reads its children. Most have none.
    ///
    /// # Errors
    /// One that does not belong here, or is wrong itself.
    fn read_children(&mut self, reader: &Reader<'_>, node: Node<'_, '_>) -> Result<(), XmlError> {
        reader.childless(node)
    }

    /// Its children as they are written, each of them a text.
    fn children(&self) -> Vec<String> {
        Vec::new()
    }

    /// May the network have it? The error is what follows the name of the element.
    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String>;
}

/// An attribute of an element that is read into a `T`. [`attribute!`] makes one.
pub struct Attribute<T> {
    /// Its name.
    pub name: &'static str,
    /// Reads a value; the error is what the value should be.
    pub read: fn(&mut T, &str) -> Result<(), String>,
    /// The value's word; empty for what is said by leaving the attribute out.
    pub write: fn(&T) -> &'static str,
}

/// An [`Attribute`] by its name and the place of its value, which has [`Words`].
macro_rules! attribute {
    ($name:literal, |$element:ident| $place:expr) => {
        $crate::model::netd::section::Attribute {
            name: $name,
            read: |$element, text| {
                $place = $crate::model::netd::section::Words::from_word(text)?;
                Ok(())
            },
            write: |$element| $crate::model::netd::section::Words::word($place),
        }
    };
}
pub(super) use attribute;

/// A value that has a word for each thing it can be.
pub trait Words: Copy + PartialEq + 'static {
    /// All of them.
    const WORDS: &'static [(&'static str, Self)];

    /// The value of this word; the error is what it should be.
    fn from_word(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
            format!("one of {}", words.join(", "))
        })
    }

    /// The word of this value; empty where it has none.
    fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, value)| *value == self);
        found.map_or("", |(word, _)| word)
    }
}

impl Words for bool {
    const WORDS: &'static [(&'static str, Self)] = &[("yes", true), ("no", false)];
}

impl<T: AttributeSection> Section for T {
    const NAME: &'static str = T::NAME;

    fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Self, XmlError> {
        let known: Vec<&str> = T::ATTRIBUTES.iter().map(|a| a.name).collect();
        reader.attributes(node, &known)?;
        let mut element = T::default();
        element.read_children(reader, node)?;
        for Attribute { name, read, .. } in T::ATTRIBUTES {
            if let Some(text) = node.attribute(*name) {
                read(&mut element, text).map_err(|wanted| {
                    reader.refuse(node, format!("{name}='{}' should be {wanted}", shown(text)))
                })?;
            }
        }
        Ok(element)
    }

    fn write(&self, out: &mut String, level: usize) {
        out.push_str("<netd:");
        out.push_str(T::NAME);
        for Attribute { name, write, .. } in T::ATTRIBUTES {
            let word = write(self);
            if !word.is_empty() {
                xml::write_attribute(out, name, word);
            }
        }
        let children = self.children();
        if children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for child in children {
            xml::line(out, level + 1);
            out.push_str(&child);
        }
        xml::line(out, level);
        out.push_str(&format!("</netd:{}>", T::NAME));
    }

    fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError> {
        self.rules(definition)
            .map_err(|detail| refusal(definition.name, T::NAME, detail))
    }
}

/// For elements about what netd judges: in an open network it has no say, and others' bridges it
/// does not touch.
pub fn is_judged(definition: &Surroundings<'_>) -> Result<(), String> {
    match definition.mode {
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::None => Ok(()),
        mode => Err(format!(
            "stands only in mode='nat' and 'route' and isolated networks, not '{mode}'"
        )),
    }
}
