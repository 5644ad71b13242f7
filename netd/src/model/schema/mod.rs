//! What `--validate` holds a definition of a network, or a port of one, to: which elements and attributes there are, how often, and what
//! their values look like. libvirt has this as a RELAX NG schema; here it is rules in a table.
//!
//! Reading a definition ([`super::parse()`]) is more forgiving, as libvirt's is: it takes `on` for what
//! is not `off`, and passes over what it does not know.

mod kind;
mod port_shapes;
mod shape;
mod shapes;

use roxmltree::{Document, Node};

use super::error::XmlError;
use super::xml::{self, shown};
use shape::{Attribute, Child, Content, Needed, Often, Shape};

/// Is the definition within libvirt's schema?
///
/// # Errors
/// The text is no XML, is no network, or holds what the schema has not; the error names the element.
pub fn validate(text: &str) -> Result<(), XmlError> {
    validate_as(text, "network", &shapes::NETWORK)
}

/// Is the port of a network within libvirt's schema?
///
/// # Errors
/// As [`validate`].
pub fn validate_port(text: &str) -> Result<(), XmlError> {
    validate_as(text, "networkport", &port_shapes::NETWORK_PORT)
}

fn validate_as(text: &str, name: &str, shape: &'static Shape) -> Result<(), XmlError> {
    let document = xml::open(text)?;
    let root = document.root_element();
    xml::expect_root(root, name)?;
    let checked = match xml::namespace(root) {
        Some(_) => Err("stands in a namespace".to_owned()),
        None => Ok(()),
    };
    checked
        .map_err(|what| (root, what))
        .and_then(|()| check(root, shape))
        .map_err(|(node, what)| XmlError::Schema(place(&document, node, &what)))
}

/// Where in the text something is wrong, and what.
fn place(document: &Document<'_>, node: Node<'_, '_>, what: &str) -> String {
    let line = document.text_pos_at(node.range().start).row;
    let name = shown(node.tag_name().name());
    match node.parent_element() {
        Some(parent) => {
            let parent = shown(parent.tag_name().name());
            format!("line {line}: element {name} in {parent} {what}")
        }
        None => format!("line {line}: element {name} {what}"),
    }
}

type Checked<'a, 'i> = Result<(), (Node<'a, 'i>, String)>;

fn check<'a, 'i>(node: Node<'a, 'i>, shape: &'static Shape) -> Checked<'a, 'i> {
    let wrong = |what: String| Err((node, what));
    for attribute in node.attributes() {
        let name = attribute.name();
        let is_it = |known: &&Attribute| known.0 == name && attribute.namespace().is_none();
        let Some(Attribute(_, kind, _)) = shape.attributes.iter().find(is_it) else {
            return wrong(format!("has no attribute '{}'", shown(name)));
        };
        if !kind.takes(attribute.value()) {
            let value = shown(attribute.value());
            return wrong(format!("has {name}='{value}', which should be {kind}"));
        }
    }
    let given = |name: &str| node.attribute(name).is_some();
    let missing = |known: &&Attribute| known.2 == Needed::Always && !given(known.0);
    if let Some(Attribute(name, ..)) = shape.attributes.iter().find(missing) {
        return wrong(format!("lacks attribute '{name}'"));
    }
    if let Some(rule) = shape.rule {
        rule(node).map_err(|what| (node, what.to_owned()))?;
    }
    match &shape.content {
        Content::Elements => {
            if node.children().any(is_filled_text) {
                return wrong("holds text".to_owned());
            }
            Ok(())
        }
        Content::Text(kind) => {
            if let Some(child) = node.children().find(Node::is_element) {
                return Err((child, "is not known".to_owned()));
            }
            let text = xml::content(node);
            if kind.takes(&text) {
                return Ok(());
            }
            wrong(format!("is '{}', which should be {kind}", shown(&text)))
        }
        Content::Children(children) => check_children(node, children),
    }
}

fn check_children<'a, 'i>(node: Node<'a, 'i>, children: &'static [Child]) -> Checked<'a, 'i> {
    let mut seen = vec![0_usize; children.len()];
    for child in node.children() {
        if is_filled_text(child) {
            return Err((node, "holds text".to_owned()));
        }
        if !child.is_element() {
            continue;
        }
        let tag = child.tag_name();
        let namespace = shapes::namespace(tag.name());
        let is_it = |known: &Child| known.0 == tag.name() && xml::namespace(child) == namespace;
        let Some(place) = children.iter().position(is_it) else {
            return Err((child, "is not known".to_owned()));
        };
        let Child(_, often, shape) = &children[place];
        seen[place] += 1;
        if seen[place] > 1 && matches!(often, Often::Once | Often::Maybe) {
            return Err((child, "is given a second time".to_owned()));
        }
        check(child, shape)?;
    }
    let lacking = |(Child(_, often, _), seen): &(&Child, &usize)| {
        **seen == 0 && matches!(often, Often::Once | Often::AtLeastOne)
    };
    match children.iter().zip(&seen).find(lacking) {
        Some((Child(name, ..), _)) => Err((node, format!("lacks element {name}"))),
        None => Ok(()),
    }
}

/// Is it text, and not the blanks between elements?
fn is_filled_text(node: Node<'_, '_>) -> bool {
    node.is_text()
        && node
            .text()
            .is_some_and(|text| !text.trim_ascii().is_empty())
}

#[cfg(test)]
mod tests;
