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
    /// The definition is right, but asks for what this version does not do.
    #[error("{0}")]
    Unsupported(String),
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
