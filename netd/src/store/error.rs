//! Why a file could not be read or written.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::model::{PortError, XmlError};

/// Longest file that is read: the longest definition, and what netd writes before it.
pub const MAX_FILE: u64 = 3 << 20;

/// Longest file of bans that is read: as many as there may be, each with the longest names.
pub const MAX_BANS_FILE: u64 = 64 << 20;

/// What went wrong, with which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {reason}", path.display())]
pub struct StoreError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub reason: Reason,
}

/// Why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The definition in the file cannot be read, or the network's name cannot be a file's.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// The agent's own data in the file cannot be read, or cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The file is larger than anything the agent wrote.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// The file is not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It is a directory or a special file.
    #[error("it is not a regular file")]
    NotAFile,
    /// The name inside and the name of the file differ.
    #[error("it defines network '{0}', whose file has another name")]
    OtherName(String),
    /// The host's identity is none.
    #[error("it holds no UUID; remove it, and servers will take this host for a new one")]
    NoIdentity,
    /// The port in the file cannot be read.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The port inside and the name of the file differ.
    #[error("it holds port {0}, whose file has another name")]
    OtherPort(Uuid),
}

impl From<StoreError> for crate::api::ApiError {
    fn from(error: StoreError) -> Self {
        use crate::api::ErrorCode;
        match error.reason {
            Reason::Io(_) => Self::new(ErrorCode::System, error),
            _ => Self::internal(error),
        }
    }
}
