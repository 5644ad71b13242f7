//! What canaries are known by.

use super::cast::Family;
use super::header::{Header, UDP};

/// Numbers of nobody else's; ports of conversations end below.
const PORT: u16 = 64_100;
const LARGE: u16 = 64_150;

/// The port that the canaries of a guest come from and go to.
#[must_use]
pub fn port(guest: usize, family: Family) -> u16 {
    PORT + (guest as u16) * 2 + family as u16
}

/// The same of those that are too big for their way: netd looks at the way of each such packet's flow,
/// whatever has changed.
#[must_use]
pub fn large_port(guest: usize, family: Family) -> u16 {
    LARGE + (guest as u16) * 2 + family as u16
}

/// Is a packet a canary, or an error about one? All else has a tag.
#[must_use]
pub fn is_canary(packet: &[u8]) -> bool {
    let Some(header) = Header::read(packet) else {
        return false;
    };
    let at = header.quote(packet).unwrap_or_default();
    let inner = packet.get(at..).and_then(Header::read);
    inner.is_some_and(|inner| inner.protocol == UDP && inner.tag == 0 && inner.fragment.is_none())
}
