//! The rules' form: what an element may hold.

use roxmltree::Node;

use super::kind::Kind;

/// An attribute, what its value looks like, and whether it has to be there.
pub struct Attribute(pub &'static str, pub Kind, pub Needed);

/// Does something have to be there?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Yes.
    Always,
    /// No.
    Optional,
}

/// How often a child may stand in its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// Once, always.
    Once,
    /// Once at most.
    Maybe,
    /// Any number of times.
    Any,
    /// One at least.
    AtLeastOne,
}

/// A child, how often it may stand there, and what it looks like.
pub struct Child(pub &'static str, pub Often, pub &'static Shape);

/// What is wrong with an element, if anything is.
pub type Rule = fn(Node<'_, '_>) -> Result<(), &'static str>;

/// What an element looks like.
pub struct Shape {
    /// Its attributes; it may have no others.
    pub attributes: &'static [Attribute],
    /// What stands in it.
    pub content: Content,
    /// What attributes and children say about each other; the words are for the user.
    pub rule: Option<Rule>,
}

/// What stands in an element.
pub enum Content {
    /// Other elements, in any order.
    Children(&'static [Child]),
    /// Text.
    Text(Kind),
    /// Whatever elements somebody put there.
    Elements,
}
