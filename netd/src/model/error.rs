//! Why a definition was refused.

use crate::error::{ApiError, ErrorCode};

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

impl From<XmlError> for ApiError {
    fn from(error: XmlError) -> Self {
        let code = match error {
            XmlError::Malformed(_) => ErrorCode::XmlDetail,
            XmlError::Invalid(_) => ErrorCode::Xml,
            XmlError::Unsupported(_) => ErrorCode::ConfigUnsupported,
        };
        Self::new(code, error)
    }
}
