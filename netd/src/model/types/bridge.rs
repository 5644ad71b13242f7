//! `<bridge>` and `<mac>`.

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
