//! Writing elements as libvirt lays them out.

use std::fmt::Display;

use super::xml;

/// A start tag on its way: its name and the text so far, without the end.
pub struct Tag {
    pub name: &'static str,
    pub text: String,
}

impl Tag {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            text: format!("<{name}"),
        }
    }

    pub fn attr(mut self, name: &str, value: impl Display) -> Self {
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push_str("='");
        xml::escape_attribute(&mut self.text, &value.to_string());
        self.text.push('\'');
        self
    }

    pub fn opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    pub fn yes_no(self, name: &str, value: Option<bool>) -> Self {
        self.opt(name, value.map(|value| if value { "yes" } else { "no" }))
    }
}

/// The text so far and how deep it is indented.
#[derive(Default)]
pub struct Writer {
    pub out: String,
    pub level: usize,
}

impl Writer {
    pub fn line(&mut self, text: &str) {
        self.out.extend(std::iter::repeat_n("  ", self.level));
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub fn empty(&mut self, tag: Tag) {
        self.line(&(tag.text + "/>"));
    }

    pub fn start(&mut self, tag: Tag) {
        self.line(&(tag.text + ">"));
        self.level += 1;
    }

    pub fn end(&mut self, name: &str) {
        self.level -= 1;
        self.line(&format!("</{name}>"));
    }

    pub fn text(&mut self, name: &str, text: &str) {
        let mut escaped = String::with_capacity(text.len());
        xml::escape(&mut escaped, text);
        self.line(&format!("<{name}>{escaped}</{name}>"));
    }
}
