//! What a port of a guest gets: `<portgroup>`, `<bandwidth>`, `<vlan>` and `<virtualport>`.

/// `<bandwidth>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards the guests.
    pub inbound: Option<Rate>,
    /// From the guests.
    pub outbound: Option<Rate>,
}

/// One direction of `<bandwidth>`: rates in kilobytes per second, burst in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// `average`.
    pub average: u64,
    /// `peak`.
    pub peak: Option<u64>,
    /// `burst`.
    pub burst: Option<u64>,
    /// `floor` (ports only).
    pub floor: Option<u64>,
}

/// `<vlan>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// `trunk` as printed: given, or implied by several tags.
    pub trunk: bool,
    /// `<tag>` list.
    pub tags: Vec<VlanTag>,
}

/// `<tag>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTag {
    /// `id`.
    pub id: u16,
    /// `nativeMode`.
    pub native: Option<NativeVlan>,
}

/// `nativeMode` of a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeVlan {
    /// `tagged`.
    Tagged,
    /// `untagged`.
    Untagged,
}

/// `<virtualport>`: its type and parameters as written, in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// `type`.
    pub kind: Option<String>,
    /// Attributes of `<parameters>` in the order of the canonical text.
    pub parameters: Vec<(String, String)>,
}

/// `<portgroup>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortGroup {
    /// `name`.
    pub name: String,
    /// `default='yes'`.
    pub default: bool,
    /// `trustGuestRxFilters`.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<vlan>`.
    pub vlan: Option<Vlan>,
    /// `<virtualport>`.
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`.
    pub bandwidth: Option<Bandwidth>,
}
