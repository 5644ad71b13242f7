//! Why the kernel does not take a program.

use crate::datapath::error::chain;

/// Why the kernel does not take a program.
pub struct Refusal {
    /// The device has gone that the link belonged to.
    pub dead: bool,
    /// What the kernel said.
    pub message: String,
}

impl Refusal {
    /// One in netd's own words.
    pub fn saying(message: &str) -> Self {
        Self {
            dead: false,
            message: message.to_owned(),
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self {
            dead: is_dead(&error),
            message: chain(&error),
        }
    }
}

/// Has the device gone that the link belonged to (and its number is in use again)?
/// `tcx_link_update` says ENOLINK then.
fn is_dead(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::ENOLINK)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
