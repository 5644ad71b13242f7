//! Forwards for tests.

use super::types::{ForwardProtocol, ForwardRange, PortForward};

/// A range; `to` is the guest's port for its first one.
pub(crate) fn range(start: u16, end: u16, to: Option<u16>, exclude: bool) -> ForwardRange {
    ForwardRange {
        start,
        end,
        to,
        exclude,
    }
}

/// Ports of TCP at all addresses.
pub(crate) fn forward(guest: &str, ranges: &[ForwardRange]) -> PortForward {
    PortForward {
        protocol: ForwardProtocol::Tcp,
        address: None,
        dev: None,
        guest: guest.to_owned().into(),
        ranges: ranges.to_vec(),
    }
}
