//! Reading XML from strangers, and writing it.

use std::collections::HashSet;
use std::fmt::Write as _;

use roxmltree::{Document, Node, NodeType, ParsingOptions};

use super::error::XmlError;

/// Longest text that is read. The largest definitions people write are tens of kilobytes, but ten
/// thousand port forwards are more than one megabyte.
const MAX_TEXT: usize = 5 << 19;
/// Deepest nesting; a network needs six levels, the rest is for metadata.
const MAX_DEPTH: usize = 128;
/// Most nodes of a document.
const MAX_NODES: u32 = 200_000;
/// Most attributes of one element: the parser compares each with each.
const MAX_ATTRIBUTES: usize = 256;
/// Longest piece of a definition that a message repeats, in characters.
const SHOWN: usize = 64;
/// Most namespace declarations: the parser copies those in scope for each new one.
const MAX_NAMESPACES: usize = 1000;

/// Reads a document within the limits above. A document type may be named before its first element, with
/// no declarations in it: entities are not read, nor is any file.
pub fn open(text: &str) -> Result<Document<'_>, XmlError> {
    if text.len() > MAX_TEXT {
        return Err(XmlError::Malformed(format!(
            "{} bytes are more than the {MAX_TEXT} allowed",
            text.len()
        )));
    }
    check_limits(text)?;
    let options = ParsingOptions {
        // What it declares was refused before.
        allow_dtd: true,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options)
        .map_err(|error| XmlError::Malformed(printable(&error.to_string())))
}

/// Is this the element that the whole text should be?
pub fn expect_root(root: Node<'_, '_>, name: &str) -> Result<(), XmlError> {
    match root.tag_name().name() {
        found if found == name => Ok(()),
        other => Err(XmlError::Value(format!(
            "expecting root element of '{name}', not '{}'",
            shown(other)
        ))),
    }
}

/// Is a text that netd has written within the limits of what is read, as far as a glance shows? Every
/// tag is followed by one text at most.
pub fn fits(text: &str) -> bool {
    text.len() <= MAX_TEXT && text.matches('<').count() < MAX_NODES as usize / 2
}

/// A piece of a definition for a message: no more of it than can be read, and nothing in it that
/// a terminal would obey.
pub fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The parser's messages show characters of the text as they are. A client of libvirt's cannot
/// hold a NUL, and a terminal would obey what is meant for it.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// One pass over the markup before it is parsed. It agrees with the parser up to the first
/// mistake in the text, and there the parser stops anyway.
fn check_limits(text: &str) -> Result<(), XmlError> {
    let refuse = |what: String| Err(XmlError::Malformed(what));
    if text.matches("xmlns").nth(MAX_NAMESPACES).is_some() {
        return refuse(format!("more than {MAX_NAMESPACES} namespace declarations"));
    }
    let mut depth = 0_usize;
    let mut begun = false;
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        check_references(&rest[..at])?;
        rest = &rest[at..];
        let end = if rest.starts_with("<!--") {
            rest.find("-->")
        } else if rest.starts_with("<![CDATA[") {
            rest.find("]]>")
        } else if rest.starts_with("<?") {
            rest.find("?>")
        } else if rest.starts_with("<!DOCTYPE") && !begun {
            begun = true;
            match doctype_end(rest) {
                Some(end) => Some(end),
                None => {
                    return refuse(
                        "a document type with declarations (entities, say) is not accepted; take out \
                         what stands between [ and ]"
                            .to_owned(),
                    );
                }
            }
        } else if rest.starts_with("<!") {
            return refuse("a document type is not accepted here".to_owned());
        } else {
            begun = true;
            let tag = Tag::scan(rest);
            check_references(&rest[..tag.end.unwrap_or(rest.len())])?;
            if tag.attributes > MAX_ATTRIBUTES {
                return refuse(format!(
                    "more than {MAX_ATTRIBUTES} attributes on one element"
                ));
            }
            if rest.starts_with("</") {
                depth = depth.saturating_sub(1);
            } else if !tag.empty {
                depth += 1;
                if depth > MAX_DEPTH {
                    return refuse(format!("elements nested more than {MAX_DEPTH} deep"));
                }
            }
            tag.end
        };
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Refuses references to characters that there are not: the parser would take another one instead.
fn check_references(text: &str) -> Result<(), XmlError> {
    for reference in text.split("&#").skip(1) {
        let (number, radix) = match reference.strip_prefix('x') {
            Some(number) => (number, 16),
            None => (reference, 10),
        };
        let digits = number.split(|c: char| !c.is_digit(radix)).next();
        let digits = digits.unwrap_or_default();
        // No number, or too many digits, is for the parser to refuse.
        if u32::from_str_radix(digits, radix).is_ok_and(|number| char::from_u32(number).is_none()) {
            return Err(XmlError::Malformed(format!(
                "'&#{}' is no character",
                shown(&reference[..reference.len() - number.len() + digits.len()])
            )));
        }
    }
    Ok(())
}

/// Offset of the `>` that ends a document type without declarations; none for one with.
fn doctype_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'[') => return None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// What a start or end tag looks like from outside.
struct Tag {
    /// Offset of the closing `>`.
    end: Option<usize>,
    attributes: usize,
    /// Ends in `/>`.
    empty: bool,
}

impl Tag {
    fn scan(text: &str) -> Self {
        let mut quote = None;
        let mut attributes = 0;
        let mut previous = 0;
        for (at, byte) in text.bytes().enumerate() {
            match (quote, byte) {
                (None, b'>') => {
                    return Self {
                        end: Some(at),
                        attributes,
                        empty: previous == b'/',
                    };
                }
                (None, b'"' | b'\'') => {
                    quote = Some(byte);
                    attributes += 1;
                }
                (Some(open), _) if open == byte => quote = None,
                _ => {}
            }
            previous = byte;
        }
        Self {
            end: None,
            attributes,
            empty: false,
        }
    }
}

/// The namespace of an element; an empty one, as of `xmlns=''`, is none (Namespaces in XML, section 6.2).
pub fn namespace<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    node.tag_name().namespace().filter(|uri| !uri.is_empty())
}

/// All text below a node, comments left out, and without the blanks between elements.
pub fn content(node: Node<'_, '_>) -> String {
    let mut out = String::new();
    // Depth was bounded when the text was read.
    append_content(&mut out, node);
    out
}

fn append_content(out: &mut String, node: Node<'_, '_>) {
    for child in children_that_count(node) {
        match child.node_type() {
            NodeType::Text => out.push_str(child.text().unwrap_or_default()),
            NodeType::Element => append_content(out, child),
            _ => {}
        }
    }
}

/// What stands in a node without the blanks between elements, as libxml2 reads it for libvirt
/// (`XML_PARSE_NOBLANKS`): blanks count alone, beside text, and where the first thing is text.
fn children_that_count<'a, 'i>(node: Node<'a, 'i>) -> Vec<Node<'a, 'i>> {
    let mut counting: Vec<Node<'a, 'i>> = Vec::new();
    for child in node.children() {
        let is_only = counting.is_empty() && child.next_sibling().is_none();
        let beside_text = counting.first().is_some_and(Node::is_text)
            || counting.last().is_some_and(Node::is_text);
        if !is_layout(child) || is_only || beside_text {
            counting.push(child);
        }
    }
    counting
}

/// Is it text, of blanks alone, that was not written as a section of characters?
fn is_layout(node: Node<'_, '_>) -> bool {
    let is_blank = |text: &str| text.bytes().all(|b| b.is_ascii_whitespace());
    node.is_text() && node.text().is_some_and(is_blank) && character_section(node).is_none()
}

/// Appends text so that reading it gives the same text again, in attributes too.
pub fn escape(out: &mut String, text: &str) {
    text.chars().for_each(|c| escape_char(out, c));
}

fn escape_char(out: &mut String, c: char) {
    match c {
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '&' => out.push_str("&amp;"),
        '\'' => out.push_str("&apos;"),
        '"' => out.push_str("&quot;"),
        '\r' => out.push_str("&#13;"),
        c => out.push(c),
    }
}

/// Appends an attribute's value: as [`escape`], and blanks other than the space survive.
pub fn escape_attribute(out: &mut String, text: &str) {
    text.chars().for_each(|c| escape_attribute_char(out, c));
}

fn escape_attribute_char(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("&#10;"),
        '\t' => out.push_str("&#9;"),
        c => escape_char(out, c),
    }
}

/// The child elements of one namespace.
pub fn children_in<'a, 'i>(
    node: Node<'a, 'i>,
    namespace: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |n| n.is_element() && self::namespace(*n) == Some(namespace))
}

/// How deep the elements under `<metadata>` stand in a definition.
pub const METADATA_LEVEL: usize = 2;

/// What becomes of elements' names when they are written.
#[derive(Clone, Copy)]
pub enum Names<'a> {
    /// They stay.
    AsWritten,
    /// Those without a namespace get this one.
    Add {
        /// Its prefix.
        prefix: &'a str,
        /// Its URI.
        uri: &'a str,
    },
    /// Those of this namespace lose it.
    Remove {
        /// Its URI.
        uri: &'a str,
    },
}

impl Names<'_> {
    fn of(self, node: Node<'_, '_>) -> String {
        let tag = node.tag_name();
        match (self, namespace(node)) {
            (Self::Add { prefix, .. }, None) => format!("{prefix}:{}", tag.name()),
            (Self::Remove { uri }, Some(own)) if own == uri => tag.name().to_owned(),
            _ => element_qname(node).to_owned(),
        }
    }

    /// Is the namespace still declared?
    fn keeps(self, namespace: &roxmltree::Namespace<'_>) -> bool {
        !matches!(self, Self::Remove { uri } if uri == namespace.uri())
    }
}

/// An element as text of its own, with those names: every namespace that it uses is declared on it.
pub fn renamed_text(node: Node<'_, '_>, level: usize, names: Names<'_>) -> String {
    let mut out = String::new();
    let mut used = HashSet::new();
    for element in node.descendants().filter(Node::is_element) {
        used.insert(prefix(element_qname(element)));
        used.extend(element.attributes().filter_map(|a| {
            let name = &node.document().input_text()[a.range_qname()];
            name.contains(':').then(|| prefix(name))
        }));
    }
    let own: Vec<_> = own_namespaces(node).collect();
    let wanted = |n: &roxmltree::Namespace<'_>| {
        n.name() != Some("xml") && (own.contains(&n) || used.contains(n.name().unwrap_or_default()))
    };
    let declared = node.namespaces().filter(|n| wanted(n) && names.keeps(n));
    let mut namespaces: Vec<_> = declared.map(|n| (n.name(), n.uri())).collect();
    if let Names::Add { prefix, uri } = names
        && !namespaces.contains(&(Some(prefix), uri))
    {
        namespaces.push((Some(prefix), uri));
    }
    write_element(&mut out, node, &namespaces, names, level, true);
    out
}

/// Writes one element the way libxml2 does: an element that holds text is kept as it was written,
/// any other has its children on lines of their own. Depth was bounded when the text was read.
fn write_element(
    out: &mut String,
    node: Node<'_, '_>,
    namespaces: &[(Option<&str>, &str)],
    names: Names<'_>,
    level: usize,
    pretty: bool,
) {
    let source = node.document().input_text();
    let name = names.of(node);
    out.push('<');
    out.push_str(&name);
    for &(prefix, value) in namespaces {
        match prefix {
            Some(prefix) => write_attribute(out, &format!("xmlns:{prefix}"), value),
            None => write_attribute(out, "xmlns", value),
        }
    }
    for attribute in node.attributes() {
        write_attribute(out, &source[attribute.range_qname()], attribute.value());
    }

    let children = children_that_count(node);
    let pretty = pretty && !children.iter().any(Node::is_text);
    if children.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for child in children {
        if pretty {
            line(out, level + 1);
        }
        match child.node_type() {
            NodeType::Element => {
                let own = own_namespaces(child).filter(|n| names.keeps(n));
                let own: Vec<_> = own.map(|n| (n.name(), n.uri())).collect();
                write_element(out, child, &own, names, level + 1, pretty);
            }
            NodeType::Text => match character_section(child) {
                Some(section) => out.push_str(section),
                None => write_text(out, child.text().unwrap_or_default()),
            },
            // Writing to a String cannot fail.
            NodeType::Comment => {
                let _ = write!(out, "<!--{}-->", child.text().unwrap_or_default());
            }
            NodeType::PI => out.push_str(&source[child.range()]),
            NodeType::Root => {}
        }
    }
    if pretty {
        line(out, level);
    }
    out.push_str("</");
    out.push_str(&name);
    out.push('>');
}

/// Begins a line at that depth.
pub fn line(out: &mut String, level: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", level));
}

/// Appends an attribute.
pub fn write_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            // Double quotes are around it.
            '\'' => out.push(c),
            c => escape_attribute_char(out, c),
        }
    }
    out.push('"');
}

fn write_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\'' | '"' => out.push(c),
            c => escape_char(out, c),
        }
    }
}

/// A text that was written as one section of characters, `<![CDATA[…]]>`, as it was written.
fn character_section<'i>(node: Node<'_, 'i>) -> Option<&'i str> {
    let source = &node.document().input_text()[node.range()];
    let inside = source.strip_prefix("<![CDATA[")?.strip_suffix("]]>")?;
    (node.text() == Some(inside)).then_some(source)
}

/// Namespaces an element declares that its parent does not have in scope.
fn own_namespaces<'a, 'i>(
    node: Node<'a, 'i>,
) -> impl Iterator<Item = &'a roxmltree::Namespace<'i>> {
    node.namespaces().filter(move |n| {
        node.parent_element()
            .is_none_or(|p| !p.namespaces().any(|other| other == *n))
    })
}

/// The name of an element as written, prefix included.
fn element_qname<'i>(node: Node<'_, 'i>) -> &'i str {
    let tag = &node.document().input_text()[node.range()][1..];
    let end = tag
        .find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/')
        .unwrap_or(tag.len());
    &tag[..end]
}

fn prefix(qname: &str) -> &str {
    qname.split_once(':').map_or("", |(prefix, _)| prefix)
}
