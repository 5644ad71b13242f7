//! Why a dnsmasq could not be run.

use std::io;
use std::path::{Path, PathBuf};

use super::values::ConfigError;
use super::version::{MIN_VERSION, Version};
use crate::api::{ApiError, ErrorCode};
use crate::model::Network;

/// Why a dnsmasq could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No binary.
    #[error(
        "dnsmasq was not found in {searched}; install it (Debian: dnsmasq-base) or set NETD_DNSMASQ to its path"
    )]
    Missing {
        /// The directories searched, or the value of NETD_DNSMASQ.
        searched: String,
    },
    /// The binary does not say which version it is.
    #[error("cannot find out the version of {}: {problem}", path.display())]
    UnknownVersion {
        /// The binary.
        path: PathBuf,
        /// What it did instead.
        problem: String,
    },
    /// Too old.
    #[error("{} is dnsmasq {found}, but netd needs {MIN_VERSION} or newer; install a newer one or set NETD_DNSMASQ to its path", path.display())]
    TooOld {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The definition cannot be given to dnsmasq.
    #[error("network '{network}': {source}")]
    Config {
        /// Name of the network.
        network: String,
        /// Element and problem.
        source: ConfigError,
    },
    /// The state directory cannot hold dnsmasq's script.
    #[error("{} cannot be dnsmasq's script: {problem}; choose another --state-dir", path.display())]
    HelperPath {
        /// The script.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file or process operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// dnsmasq refused to start.
    #[error("dnsmasq for network '{network}' did not start: {problem}")]
    NotStarted {
        /// Name of the network.
        network: String,
        /// Its own words, or its exit status.
        problem: String,
    },
    /// A signal could not be sent, or did not end the process.
    #[error("{name} with process number {pid} could not be {action}: {source}")]
    Signal {
        /// What it is.
        name: &'static str,
        /// Process number.
        pid: u32,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

pub(super) type Result<T> = std::result::Result<T, Error>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Config { .. } => Self::new(ErrorCode::ConfigUnsupported, error),
            Error::Missing { .. } | Error::TooOld { .. } | Error::HelperPath { .. } => {
                Self::new(ErrorCode::OperationFailed, error)
            }
            _ => Self::internal(error),
        }
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

pub(super) fn config_error(network: &Network, source: ConfigError) -> Error {
    Error::Config {
        network: network.name.clone(),
        source,
    }
}
