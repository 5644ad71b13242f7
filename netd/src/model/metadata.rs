//! Elements under `<metadata>`: in a definition, and as clients hand them over one by one, without their
//! namespace, which goes beside them.

use std::collections::HashSet;

use roxmltree::Node;

use super::error::XmlError;
use super::xml::{self, Names};

/// Longest prefix of a namespace.
const MAX_PREFIX: usize = 64;

/// One element kept under `<metadata>`, with its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataElement {
    /// Namespace URI of the element itself.
    pub namespace: String,
    /// The element as XML text, its namespace declared on it, formatted canonically for its place
    /// in a definition, with no indentation before its first line.
    pub xml: String,
}

/// The child elements of `<metadata>` that libvirt keeps: those with a namespace, and the first
/// only of each namespace.
pub(super) fn kept(node: Node<'_, '_>) -> Vec<MetadataElement> {
    let mut seen = HashSet::new();
    node.children()
        .filter(Node::is_element)
        .filter_map(|child| {
            let namespace = xml::namespace(child)?;
            seen.insert(namespace).then(|| MetadataElement {
                namespace: namespace.to_owned(),
                xml: xml::renamed_text(child, xml::METADATA_LEVEL, Names::AsWritten),
            })
        })
        .collect()
}

impl MetadataElement {
    /// An element from text of its own.
    ///
    /// # Errors
    /// The text is not one element with a namespace.
    pub(super) fn from_xml(text: &str) -> Result<Self, XmlError> {
        let document = xml::open(text)?;
        let root = document.root_element();
        match xml::namespace(root) {
            Some(namespace) => Ok(Self {
                namespace: namespace.to_owned(),
                xml: xml::renamed_text(root, xml::METADATA_LEVEL, Names::AsWritten),
            }),
            None => Err(XmlError::Invalid(format!(
                "<{}> under <metadata> has no namespace",
                root.tag_name().name()
            ))),
        }
    }

    /// An element from a client's text, whose elements without a namespace get this one.
    ///
    /// # Errors
    /// The text is not one element, its namespace is another, or the prefix cannot be one.
    pub fn with_namespace(text: &str, prefix: &str, uri: &str) -> Result<Self, XmlError> {
        let refuse = |detail: String| {
            Err(XmlError::Invalid(format!(
                "the element for <metadata>: {detail}"
            )))
        };
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let any = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let is_reserved = prefix.to_ascii_lowercase().starts_with("xml");
        if !prefix.starts_with(first)
            || !prefix.chars().all(any)
            || prefix.len() > MAX_PREFIX
            || is_reserved
        {
            let shown: String = prefix.chars().take(MAX_PREFIX).collect();
            return refuse(format!(
                "'{}' cannot be the prefix of a namespace",
                shown.escape_debug()
            ));
        }
        let document = xml::open(text)?;
        let root = document.root_element();
        if xml::namespace(root).is_some_and(|own| own != uri) {
            return refuse("its namespace is not the one it is to be kept under".to_owned());
        }
        let stolen = |n: &roxmltree::Namespace<'_>| n.name() == Some(prefix) && n.uri() != uri;
        if document
            .descendants()
            .any(|node| node.namespaces().any(stolen))
        {
            return refuse(format!("'{prefix}' is the prefix of two namespaces"));
        }
        let xml = xml::renamed_text(root, 0, Names::Add { prefix, uri });
        // Neither the prefix nor the URI may have made something else of it.
        let element = Self::from_xml(&xml)?;
        if element.namespace != uri {
            return refuse("its namespace cannot be written".to_owned());
        }
        Ok(element)
    }

    /// The element's text without its namespace.
    #[must_use]
    pub fn without_namespace(&self) -> String {
        match xml::open(&self.xml) {
            Ok(document) => {
                let uri = &self.namespace;
                xml::renamed_text(document.root_element(), 0, Names::Remove { uri })
            }
            // Only text that was not made by the parser gets here; it stays as it is.
            Err(_) => self.xml.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<MetadataElement, XmlError> {
        MetadataElement::with_namespace(text, "k", "urn:x")
    }

    #[test]
    fn elements_get_the_namespace_and_lose_it() {
        for (given, kept, given_back) in [
            ("<a/>", "<k:a xmlns:k=\"urn:x\"/>", "<a/>"),
            (
                "<a b='c'><d>e</d><f/></a>",
                "<k:a xmlns:k=\"urn:x\" b=\"c\">\n      <k:d>e</k:d>\n      <k:f/>\n    </k:a>",
                "<a b=\"c\">\n  <d>e</d>\n  <f/>\n</a>",
            ),
            (
                "<n:a xmlns:n='urn:x'><n:b/></n:a>",
                "<n:a xmlns:n=\"urn:x\" xmlns:k=\"urn:x\">\n      <n:b/>\n    </n:a>",
                "<a>\n  <b/>\n</a>",
            ),
            (
                "<a><b xmlns='urn:o'><c/></b></a>",
                "<k:a xmlns:k=\"urn:x\">\n      <b xmlns=\"urn:o\">\n        <c/>\n      </b>\n    </k:a>",
                "<a>\n  <b xmlns=\"urn:o\">\n    <c/>\n  </b>\n</a>",
            ),
        ] {
            let element = taken(given).unwrap();
            assert_eq!(
                (element.namespace.as_str(), element.xml.as_str()),
                ("urn:x", kept)
            );
            assert_eq!(element.without_namespace(), given_back);
        }
    }

    #[test]
    fn what_is_no_element_of_the_namespace_is_refused() {
        for (text, words) in [
            ("", "cannot be read"),
            ("<a/><b/>", "cannot be read"),
            ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "document type"),
            (
                "<a xmlns='urn:other'/>",
                "not the one it is to be kept under",
            ),
            (
                "<a><k:b xmlns:k='urn:other'/></a>",
                "the prefix of two namespaces",
            ),
        ] {
            let error = taken(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        for prefix in [
            "",
            "1",
            "a b",
            "a:b",
            "xmlns",
            "XML1",
            "a'",
            &"a".repeat(65),
        ] {
            let error = MetadataElement::with_namespace("<a/>", prefix, "urn:x").unwrap_err();
            assert!(
                error.to_string().contains("cannot be the prefix"),
                "{error}"
            );
        }
        MetadataElement::with_namespace("<a/>", "n", "urn:'<&\"").unwrap();
    }
}
