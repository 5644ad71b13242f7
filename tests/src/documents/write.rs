//! From elements to text, in as many ways of writing as XML has.

use super::tree::{Element, Node};
use crate::differential::random::Random;

/// How the elements of a document are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// As libvirt writes them.
    Lines,
    /// All in one line.
    Dense,
    /// Blanks wherever they may stand, and comments.
    Loose,
}

/// The text of a document.
#[must_use]
pub fn text(root: &Element, random: &mut Random) -> String {
    let layout = *random.weighted(&[(5, Layout::Lines), (3, Layout::Dense), (2, Layout::Loose)]);
    let mut writer = Writer {
        out: String::new(),
        layout,
        random,
    };
    writer.prologue();
    writer.element(root, 0);
    if writer.layout == Layout::Loose {
        writer.out.push('\n');
    }
    writer.out
}

/// The text of an element that is handed over alone.
#[must_use]
pub fn plain(element: &Element) -> String {
    let mut random = Random::new(0);
    let mut writer = Writer {
        out: String::new(),
        layout: Layout::Dense,
        random: &mut random,
    };
    writer.element(element, 0);
    writer.out
}

struct Writer<'a> {
    out: String,
    layout: Layout,
    random: &'a mut Random,
}

impl Writer<'_> {
    /// What may stand before the first element.
    fn prologue(&mut self) {
        if self.random.chance(10) {
            let declarations = [
                "<?xml version='1.0'?>\n",
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
                "<?xml version='1.0' encoding='utf-8' standalone='yes'?>",
            ];
            self.out += self.random.pick::<&str>(&declarations);
        }
        if self.random.chance(3) {
            self.out += "<!-- written by a tool, do not change -->\n";
        }
        if self.random.chance(1) {
            self.out += "<!DOCTYPE network>\n";
        }
        if self.random.chance(1) {
            self.out += "<?tool made='this'?>\n";
        }
    }

    fn element(&mut self, element: &Element, depth: usize) {
        self.out.push('<');
        self.out += &element.name;
        for (name, value) in &element.attributes {
            self.attribute(name, value);
        }
        if element.content.is_empty() && !self.loose(10) {
            let end = if self.loose(30) { " />" } else { "/>" };
            self.out += end;
            return;
        }
        self.out.push('>');
        let is_element = |node: &Node| matches!(node, Node::Element(_));
        let has_text = !element.content.iter().all(is_element);
        for node in &element.content {
            match node {
                Node::Element(child) => {
                    if !has_text {
                        self.between(depth + 1);
                    }
                    self.element(child, depth + 1);
                }
                Node::Text(text) => self.character_data(text),
                Node::Raw(text) => self.out += text,
            }
        }
        if !has_text && !element.content.is_empty() {
            self.between(depth);
        }
        self.out += "</";
        self.out += &element.name;
        if self.loose(10) {
            self.out.push(' ');
        }
        self.out.push('>');
    }

    fn attribute(&mut self, name: &str, value: &str) {
        let blank = match self.loose(20) {
            true => *self.random.pick(&["\n    ", "  ", "\t"]),
            false => " ",
        };
        self.out += blank;
        self.out += name;
        let sign = if self.loose(5) { " = " } else { "=" };
        self.out += sign;
        let quote = match self.layout {
            Layout::Lines => '\'',
            _ => *self.random.pick(&['\'', '"']),
        };
        self.out.push(quote);
        for c in value.chars() {
            match c {
                '<' => self.out += "&lt;",
                '&' => self.out += "&amp;",
                '\'' if quote == c => self.out += "&apos;",
                '"' if quote == c => self.out += "&quot;",
                // Otherwise they would be read as blanks.
                '\n' | '\t' | '\r' => self.out += &format!("&#{};", u32::from(c)),
                c if self.layout == Layout::Loose && self.random.chance(2) => {
                    self.out += &format!("&#x{:x};", u32::from(c));
                }
                c => self.out.push(c),
            }
        }
        self.out.push(quote);
    }

    fn character_data(&mut self, text: &str) {
        if self.loose(10) && !text.contains("]]>") {
            self.out += &format!("<![CDATA[{text}]]>");
            return;
        }
        for c in text.chars() {
            match c {
                '<' => self.out += "&lt;",
                '>' => self.out += "&gt;",
                '&' => self.out += "&amp;",
                '\r' => self.out += "&#13;",
                c => self.out.push(c),
            }
        }
        if self.loose(2) {
            self.out += "<!-- aside -->";
        }
    }

    fn between(&mut self, depth: usize) {
        match self.layout {
            Layout::Dense => return,
            Layout::Lines => {}
            Layout::Loose => {
                if self.random.chance(5) {
                    self.out += "\n<!-- a note -->";
                }
                if self.random.chance(20) {
                    self.out += self.random.pick::<&str>(&["\n\n", "\t", "  ", "\r\n"]);
                    return;
                }
            }
        }
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n("  ", depth));
    }

    /// In so many of a hundred cases, where the layout is a loose one.
    fn loose(&mut self, percent: usize) -> bool {
        self.layout == Layout::Loose && self.random.chance(percent)
    }
}
