//! What can go wrong with a device, in words that name it.

use std::io;

/// A failed look at, or change of, the host's network devices.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket, so nothing about devices can be known or changed.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel would not list its devices, addresses or routes.
    #[error("cannot list the host's {what}: {source}")]
    Dump {
        /// What was asked for, in the plural.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A change was refused.
    #[error("cannot {action} {device}: {source}")]
    Refused {
        /// The operation, worded to stand before the device's name.
        action: String,
        /// The device's name, or its index where it has none any more.
        device: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A bridge was to be created under a name that is taken.
    #[error(
        "cannot create bridge {0}: a network device of that name already exists; choose another \
         bridge name or remove that device"
    )]
    Exists(String),
    /// A name no network device can have.
    #[error("cannot create bridge '{0}': not a valid name for a network device ({1})")]
    InvalidName(String, &'static str),
}

impl LinkError {
    /// The kernel's error number, where the kernel was asked.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Socket(source) | Self::Dump { source, .. } | Self::Refused { source, .. } => {
                source.raw_os_error()
            }
            Self::Exists(_) => Some(libc::EEXIST),
            Self::InvalidName(..) => Some(libc::EINVAL),
        }
    }

    /// Whether the device is gone, which ends most work on it without being a failure.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.raw_os_error() == Some(libc::ENODEV)
    }
}
