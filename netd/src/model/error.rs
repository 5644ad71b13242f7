//! Why a definition, or a change of it, was refused.

/// A definition that cannot be read, stored or started. Every message but the first kind's names
/// the network and the element.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// The text is not XML, or breaks a limit that keeps reading it cheap.
    #[error("the network's XML cannot be read: {0}")]
    Malformed(String),
    /// The XML says something that is wrong or contradictory.
    #[error("{0}")]
    Invalid(String),
    /// The definition contradicts itself, or asks for what this version does not do.
    #[error("{0}")]
    Unsupported(String),
    /// An attribute has a value that its kind does not have, or the root is another element.
    #[error("{0}")]
    Value(String),
    /// A DNS record, or ports for translation, that nobody can use.
    #[error("{0}")]
    Record(String),
    /// A range of addresses that is none, or is not within its subnet.
    #[error("{0}")]
    Range(String),
    /// What should be an address is none.
    #[error("{0}")]
    Address(String),
    /// `<network>` has no `<name>`.
    #[error("")]
    NoName,
    /// A name that cannot be that of a file, by the character in it.
    #[error("invalid char in name: {0}")]
    Name(char),
    /// libvirt's schema has no such definition (`--validate`).
    #[error("{0}")]
    Schema(String),
    /// What should be a UUID is none.
    #[error("malformed uuid element")]
    Uuid,
}

impl XmlError {
    /// The same, told as an error of another kind: those with a text alone can be.
    #[must_use]
    pub fn of_kind(self, kind: fn(String) -> Self) -> Self {
        kind(self.to_string())
    }
}

/// A change that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The entry cannot be read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It is there already, is not there, or is not the only one.
    #[error("{0}")]
    Invalid(String),
    /// The section does not change so.
    #[error("{0}")]
    Unsupported(String),
}
