//! `<bridge>` and `<mac>`.

use std::str::FromStr;

use uuid::Uuid;

use crate::model::error::XmlError;
use crate::model::read::Element;
use crate::model::write::{Tag, Writer};

/// A MAC address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// `<bridge>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// `name`; may hold one `%d`, absent until one was chosen.
    pub name: Option<String>,
    /// `zone` of firewalld.
    pub zone: Option<String>,
    /// `stp`; on unless it says "off".
    pub stp: bool,
    /// `delay` in seconds.
    pub delay: u32,
    /// `macTableManager`.
    pub mac_table_manager: Option<MacTableManager>,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            name: None,
            zone: None,
            stp: true,
            delay: 0,
            mac_table_manager: None,
        }
    }
}

/// `macTableManager`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacTableManager {
    /// The kernel learns addresses.
    Kernel,
    /// Static entries per guest.
    Libvirt,
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address (six hexadecimal bytes with ':' between them)")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    /// Reads `52:54:00:0a:0b:0c`; a leading zero of a byte may be missing, as libvirt allows.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError)?;
            if !(1..=2).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(MacError),
        }
    }
}

impl Mac {
    /// A new address for a bridge: random below the prefix 52:54:00.
    #[must_use]
    pub fn random_bridge() -> Self {
        let [.., a, b, c] = *Uuid::new_v4().as_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// Does the address name a group rather than one interface?
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

pub fn read_bridge(element: Element<'_>) -> Result<Bridge, XmlError> {
    Ok(Bridge {
        name: element.non_empty("name").map(str::to_owned),
        zone: element.non_empty("zone").map(str::to_owned),
        stp: element.attr("stp") != Some("off"),
        delay: element
            .number("delay")
            .map_err(|error| error.of_kind(XmlError::Invalid))?
            .unwrap_or(0),
        mac_table_manager: read_mac_table_manager(element)?,
    })
}

/// Reads `macTableManager` of any element.
pub fn read_mac_table_manager(element: Element<'_>) -> Result<Option<MacTableManager>, XmlError> {
    match element.attr("macTableManager") {
        None => Ok(None),
        Some("kernel") => Ok(Some(MacTableManager::Kernel)),
        Some("libvirt") => Ok(Some(MacTableManager::Libvirt)),
        Some(_) => Err(element.bad("macTableManager", "'kernel' or 'libvirt'")),
    }
}

/// How `macTableManager` is written.
pub fn mac_table_manager_name(manager: MacTableManager) -> &'static str {
    match manager {
        MacTableManager::Kernel => "kernel",
        MacTableManager::Libvirt => "libvirt",
    }
}

pub fn read_mac(element: Element<'_>) -> Result<Option<Mac>, XmlError> {
    let mac: Option<Mac> = element.parsed("address", "a MAC address")?;
    match mac {
        Some(mac) if mac.is_multicast() => {
            Err(element.bad("address", "a unicast MAC address, not multicast"))
        }
        mac => Ok(mac),
    }
}

pub fn write_bridge(w: &mut Writer, bridge: &Bridge, managed: bool) {
    if !managed && bridge.name.is_none() && bridge.mac_table_manager.is_none() {
        return;
    }
    let manager = bridge.mac_table_manager.map(mac_table_manager_name);
    w.empty(
        Tag::new("bridge")
            .opt("name", bridge.name.as_ref())
            .opt("zone", bridge.zone.as_ref())
            .opt(
                "stp",
                managed.then_some(if bridge.stp { "on" } else { "off" }),
            )
            .opt("delay", managed.then_some(bridge.delay))
            .opt("macTableManager", manager),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text() {
        for (text, bytes) in [
            ("52:54:00:17:3F:37", Some([0x52, 0x54, 0, 0x17, 0x3f, 0x37])),
            ("0:1:2:3:4:5", Some([0, 1, 2, 3, 4, 5])),
            ("0:1:2:3:4", None),
            ("0:1:2:3:4:5:6", None),
            ("0:1:2:3:4:", None),
            ("0:1:2:3:4:+5", None),
            ("0:1:2:3:4:100", None),
            ("0:1:2:3:4:é", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Mac>().ok().map(|m| m.0), bytes, "{text}");
        }
        assert_eq!(
            "52:54:0:a:B:cC".parse::<Mac>().unwrap().to_string(),
            "52:54:00:0a:0b:cc"
        );
    }

    #[test]
    fn random_macs_are_unicast_and_differ() {
        let (a, b) = (Mac::random_bridge(), Mac::random_bridge());
        assert_eq!(a.0[..3], [0x52, 0x54, 0]);
        assert!(!a.is_multicast());
        // Three chances in 2^24 each: a failure here means the source is not random.
        assert!(a != b || Mac::random_bridge() != a);
    }
}
