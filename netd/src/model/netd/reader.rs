//! Reading elements of netd's own namespace: what is meant for netd is never passed over.

use std::fmt::Display;

use roxmltree::Node;

use crate::model::error::XmlError;
use crate::model::namespace::{NETD_NAMESPACE, is_netd_namespace};
use crate::model::xml::shown;

/// Is this a namespace of netd's, but none that this version reads?
///
/// # Errors
/// It is. What stands in there may protect somebody.
pub fn check_namespace(network: &str, element: &str, namespace: &str) -> Result<(), XmlError> {
    if namespace == NETD_NAMESPACE || !is_netd_namespace(namespace) {
        return Ok(());
    }
    Err(refusal(
        network,
        &shown(element),
        format!(
            "its namespace '{}' is not known, this version of netd reads {NETD_NAMESPACE}",
            shown(namespace)
        ),
    ))
}

/// An error at an element of that name in the metadata of a network.
pub fn refusal(network: &str, element: &str, detail: impl Display) -> XmlError {
    XmlError::Invalid(format!(
        "network '{}', <netd:{element}> in <metadata>: {detail}",
        network.escape_debug(),
    ))
}

/// Reads elements of netd's namespace, knowing for its errors whose they are.
pub struct Reader<'a> {
    /// Name of the network.
    pub network: &'a str,
}

impl Reader<'_> {
    /// An error at this element.
    pub fn refuse(&self, node: Node<'_, '_>, detail: impl Display) -> XmlError {
        refusal(self.network, &shown(node.tag_name().name()), detail)
    }

    /// Is the node an element of that name in netd's namespace?
    pub fn named(&self, node: Node<'_, '_>, name: &str) -> Result<(), XmlError> {
        if node.has_tag_name((NETD_NAMESPACE, name)) {
            return Ok(());
        }
        Err(self.refuse(
            node,
            format!("is not a <{name}> of {NETD_NAMESPACE}, which belongs here"),
        ))
    }

    /// Does the element hold nothing?
    pub fn childless(&self, node: Node<'_, '_>) -> Result<(), XmlError> {
        match self.children(node)?.first() {
            None => Ok(()),
            Some(child) => {
                let name = shown(child.tag_name().name());
                Err(self.refuse(node, format!("has no child <{name}>")))
            }
        }
    }

    /// No attribute but these.
    pub fn attributes(&self, node: Node<'_, '_>, known: &[&str]) -> Result<(), XmlError> {
        let unknown = |a: &roxmltree::Attribute<'_, '_>| {
            a.namespace().is_some() || !known.contains(&a.name())
        };
        match node.attributes().find(unknown) {
            None => Ok(()),
            Some(attribute) => {
                let name = shown(attribute.name());
                let known = enumeration(known);
                Err(self.refuse(node, format!("has no attribute '{name}'; it takes {known}")))
            }
        }
    }

    /// The child elements; text among them is an error.
    pub fn children<'a, 'i>(&self, node: Node<'a, 'i>) -> Result<Vec<Node<'a, 'i>>, XmlError> {
        let is_text = |n: &Node<'_, '_>| {
            let text = n.text().filter(|_| n.is_text()).unwrap_or_default();
            !text.trim().is_empty()
        };
        if node.children().any(|n| is_text(&n)) {
            return Err(self.refuse(node, "holds no text"));
        }
        Ok(node.children().filter(Node::is_element).collect())
    }
}

/// `a, b and c`, or `none`.
pub fn enumeration<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => "none".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
