//! Arguments and results of the procedures, and the numbers in them.

use uuid::Uuid;

use crate::api::{Lease, NetworkInfo};
use crate::rpc::xdr::{self, Decode, Decoder, Encode, Encoder, List, XdrError, xdr_struct};

/// Most networks in one list.
pub const NETWORKS_MAX: usize = 16_384;
/// Most leases in one list.
pub const LEASES_MAX: usize = 65_536;
/// Most parameters of a client's identity.
pub const IDENTITY_MAX: usize = 20;

/// OPEN: refuse every change over this connection.
pub const OPEN_READ_ONLY: u32 = 1;
/// DEFINE and CREATE: check the XML against the schema.
pub const XML_VALIDATE: u32 = 1;
/// GET_XML_DESC: the definition of the next start.
pub const XML_INACTIVE: u32 = 1;

/// GET_METADATA, SET_METADATA and UPDATE: what runs.
pub const AFFECT_LIVE: u32 = 1;
/// GET_METADATA, SET_METADATA and UPDATE: the definition of the next start.
pub const AFFECT_CONFIG: u32 = 2;
/// Type of metadata: `<description>`.
pub const METADATA_DESCRIPTION: i32 = 0;
/// Type of metadata: `<title>`.
pub const METADATA_TITLE: i32 = 1;
/// Type of metadata: an element under `<metadata>`.
pub const METADATA_ELEMENT: i32 = 2;

/// LIST_ALL_NETWORKS: inactive ones.
pub const LIST_INACTIVE: u32 = 1;
/// LIST_ALL_NETWORKS: active ones.
pub const LIST_ACTIVE: u32 = 2;
/// LIST_ALL_NETWORKS: those with a definition.
pub const LIST_PERSISTENT: u32 = 4;
/// LIST_ALL_NETWORKS: those without.
pub const LIST_TRANSIENT: u32 = 8;
/// LIST_ALL_NETWORKS: those that start with the agent.
pub const LIST_AUTOSTART: u32 = 16;
/// LIST_ALL_NETWORKS: those that do not.
pub const LIST_NO_AUTOSTART: u32 = 32;
/// Every flag LIST_ALL_NETWORKS has.
pub const LIST_ALL_FLAGS: u32 = 63;

/// SUPPORTS_FEATURE: the server answers and sends pings.
pub const FEATURE_KEEPALIVE: i32 = 10;
/// SUPPORTS_FEATURE: typed parameters may be strings.
pub const FEATURE_TYPED_STRINGS: i32 = 9;
/// SUPPORTS_FEATURE: events carry callback ids.
pub const FEATURE_EVENT_CALLBACKS: i32 = 14;
/// SUPPORTS_FEATURE: procedures 360 and 361 exist.
pub const FEATURE_CLOSE_CALLBACK: i32 = 15;
/// SUPPORTS_FEATURE: NETWORK_UPDATE takes its arguments in the documented order.
pub const FEATURE_NETWORK_UPDATE_ORDER: i32 = 16;

xdr_struct! {
    /// NET: how networks are named in calls. Only the UUID counts.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct NetworkRef {
        /// Its name when the client looked it up.
        pub name: String,
        /// What it is found by.
        pub uuid: Uuid,
    }
}

xdr_struct! {
    /// Arguments of OPEN.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OpenArgs {
        /// URI.
        pub name: Option<String>,
        /// [`OPEN_READ_ONLY`] and bits that do not matter here.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of LIST_ALL_NETWORKS.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ListArgs {
        /// 0 asks for the count alone.
        pub need_results: i32,
        /// `LIST_` bits.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Result of LIST_ALL_NETWORKS.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ListReply {
        /// The networks, empty when only the count was asked for.
        pub networks: List<NetworkRef, NETWORKS_MAX>,
        /// How many there are.
        pub count: u32,
    }
}

xdr_struct! {
    /// Arguments of DEFINE_XML_FLAGS and CREATE_XML_FLAGS.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct XmlArgs {
        /// The network.
        pub xml: String,
        /// [`XML_VALIDATE`].
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of GET_XML_DESC.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct XmlDescArgs {
        /// Which network.
        pub network: NetworkRef,
        /// [`XML_INACTIVE`].
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of SET_AUTOSTART.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AutostartArgs {
        /// Which network.
        pub network: NetworkRef,
        /// 0 is off.
        pub autostart: i32,
    }
}

xdr_struct! {
    /// Arguments of UPDATE.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct UpdateArgs {
        /// Which network.
        pub network: NetworkRef,
        /// A number of [`crate::model::UpdateCommand`].
        pub command: u32,
        /// A number of [`crate::model::Section`].
        pub section: u32,
        /// Which `<ip>`; -1 leaves it to the agent.
        pub parent_index: i32,
        /// The entry.
        pub xml: String,
        /// `AFFECT_` bits.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of SET_METADATA.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SetMetadataArgs {
        /// Which network.
        pub network: NetworkRef,
        /// `METADATA_` type.
        pub kind: i32,
        /// The new text or element; nothing deletes.
        pub metadata: Option<String>,
        /// Prefix of an element's namespace.
        pub key: Option<String>,
        /// Namespace of an element.
        pub uri: Option<String>,
        /// `AFFECT_` bits.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of GET_METADATA.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct GetMetadataArgs {
        /// Which network.
        pub network: NetworkRef,
        /// `METADATA_` type.
        pub kind: i32,
        /// Namespace of an element.
        pub uri: Option<String>,
        /// `AFFECT_` bits.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of GET_DHCP_LEASES.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LeasesArgs {
        /// Which network.
        pub network: NetworkRef,
        /// Only leases of this MAC address.
        pub mac: Option<String>,
        /// 0 asks for the count alone.
        pub need_results: i32,
        /// None exist.
        pub flags: u32,
    }
}

/// Address family of a lease: IPv4.
pub const LEASE_IPV4: i32 = 0;
/// Address family of a lease: IPv6.
pub const LEASE_IPV6: i32 = 1;

xdr_struct! {
    /// LEASE.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LeaseRecord {
        /// Bridge.
        pub interface: String,
        /// Seconds since the epoch, 0 never ends.
        pub expiry: i64,
        /// [`LEASE_IPV4`] or [`LEASE_IPV6`].
        pub family: i32,
        /// MAC address.
        pub mac: Option<String>,
        /// IAID.
        pub iaid: Option<String>,
        /// Address.
        pub ip: String,
        /// Prefix length.
        pub prefix: u32,
        /// Host name.
        pub hostname: Option<String>,
        /// Client identifier or DUID.
        pub client_id: Option<String>,
    }
}

xdr_struct! {
    /// Result of GET_DHCP_LEASES.
    #[derive(Clone, Debug, PartialEq)]
    pub struct LeasesReply {
        /// The leases, empty when only the count was asked for.
        pub leases: List<LeaseRecord, LEASES_MAX>,
        /// How many there are.
        pub count: u32,
    }
}

/// Message: the state of a network changed ([`LifecycleMessage`]).
pub const EVENT_LIFECYCLE: i32 = 315;
/// Message: metadata of a network changed ([`MetadataMessage`]).
pub const EVENT_METADATA_CHANGE: i32 = 446;
/// NETWORK_EVENT_REGISTER_ANY: the event of [`EVENT_LIFECYCLE`].
pub const EVENT_ID_LIFECYCLE: i32 = 0;
/// NETWORK_EVENT_REGISTER_ANY: the event of [`EVENT_METADATA_CHANGE`].
pub const EVENT_ID_METADATA_CHANGE: i32 = 1;

xdr_struct! {
    /// Arguments of NETWORK_EVENT_REGISTER_ANY.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct EventRegisterArgs {
        /// An `EVENT_ID_`.
        pub event: i32,
        /// Only of this network.
        pub network: Option<NetworkRef>,
    }
}

xdr_struct! {
    /// Body of [`EVENT_LIFECYCLE`].
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LifecycleMessage {
        /// The registration that it is sent for.
        pub callback: i32,
        /// Which network.
        pub network: NetworkRef,
        /// A number of [`crate::api::Lifecycle`].
        pub event: i32,
        /// None exist: 0.
        pub detail: i32,
    }
}

xdr_struct! {
    /// Body of [`EVENT_METADATA_CHANGE`].
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct MetadataMessage {
        /// The registration that it is sent for.
        pub callback: i32,
        /// Which network.
        pub network: NetworkRef,
        /// `METADATA_` type.
        pub kind: i32,
        /// Namespace of an element.
        pub uri: Option<String>,
    }
}

xdr_struct! {
    /// Arguments of SET_IDENTITY.
    #[derive(Clone, Debug, PartialEq)]
    pub struct IdentityArgs {
        /// Who the daemon in front of us speaks for.
        pub parameters: List<TypedParameter, IDENTITY_MAX>,
        /// None exist.
        pub flags: u32,
    }
}

xdr_struct! {
    /// A named value.
    #[derive(Clone, Debug, PartialEq)]
    pub struct TypedParameter {
        /// Its name.
        pub field: String,
        /// Its value.
        pub value: TypedValue,
    }
}

/// The value of a [`TypedParameter`].
#[derive(Clone, Debug, PartialEq)]
pub enum TypedValue {
    /// Tag 1.
    Int(i32),
    /// Tag 2.
    Uint(u32),
    /// Tag 3.
    Llong(i64),
    /// Tag 4.
    Ullong(u64),
    /// Tag 5.
    Double(f64),
    /// Tag 6.
    Boolean(i32),
    /// Tag 7.
    String(String),
}

impl TypedValue {
    /// libvirt's name of its type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Llong(_) => "llong",
            Self::Ullong(_) => "ullong",
            Self::Double(_) => "double",
            Self::Boolean(_) => "boolean",
            Self::String(_) => "string",
        }
    }
}

impl Encode for TypedValue {
    fn encode(&self, out: &mut Encoder) {
        let (tag, value): (i32, &dyn Encode) = match self {
            Self::Int(value) => (1, value),
            Self::Uint(value) => (2, value),
            Self::Llong(value) => (3, value),
            Self::Ullong(value) => (4, value),
            Self::Double(value) => (5, value),
            Self::Boolean(value) => (6, value),
            Self::String(value) => (7, value),
        };
        tag.encode(out);
        value.encode(out);
    }
}

impl Decode for TypedValue {
    fn decode(from: &mut Decoder) -> xdr::Result<Self> {
        Ok(match i32::decode(from)? {
            1 => Self::Int(Decode::decode(from)?),
            2 => Self::Uint(Decode::decode(from)?),
            3 => Self::Llong(Decode::decode(from)?),
            4 => Self::Ullong(Decode::decode(from)?),
            5 => Self::Double(Decode::decode(from)?),
            6 => Self::Boolean(Decode::decode(from)?),
            7 => Self::String(Decode::decode(from)?),
            tag => return Err(XdrError::BadTag(tag)),
        })
    }
}

impl From<NetworkInfo> for NetworkRef {
    fn from(info: NetworkInfo) -> Self {
        Self {
            name: info.name,
            uuid: info.uuid,
        }
    }
}

impl From<Lease> for LeaseRecord {
    fn from(lease: Lease) -> Self {
        Self {
            interface: lease.interface,
            expiry: lease.expiry,
            family: if lease.ip.is_ipv4() {
                LEASE_IPV4
            } else {
                LEASE_IPV6
            },
            mac: lease.mac,
            iaid: lease.iaid,
            ip: lease.ip.to_string(),
            prefix: lease.prefix,
            hostname: lease.hostname,
            client_id: lease.client_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::xdr::{from_bytes, to_bytes};

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn a_network_is_a_name_and_sixteen_bytes() {
        let network = NetworkRef {
            name: "n1".into(),
            uuid: Uuid::from_u128(0x11111111_2222_3333_4444_555555555555),
        };
        let mut expected = words(&[2]);
        expected.extend_from_slice(b"n1\0\0");
        expected.extend(words(&[0x11111111, 0x22223333, 0x44445555, 0x55555555]));
        assert_eq!(to_bytes(&network).unwrap(), expected);
    }

    #[test]
    fn a_lease_has_the_documented_layout() {
        let lease = LeaseRecord::from(Lease {
            interface: "br".into(),
            expiry: 0x1_0000_0002,
            mac: None,
            iaid: Some("1".into()),
            ip: "fd00::1".parse().unwrap(),
            prefix: 64,
            hostname: None,
            client_id: Some("ab:cd".into()),
        });
        let mut expected = words(&[2]);
        expected.extend_from_slice(b"br\0\0");
        expected.extend(words(&[1, 2, 1, 0, 1, 1]));
        expected.extend_from_slice(b"1\0\0\0");
        expected.extend(words(&[7]));
        expected.extend_from_slice(b"fd00::1\0");
        expected.extend(words(&[64, 0, 1, 5]));
        expected.extend_from_slice(b"ab:cd\0\0\0");
        assert_eq!(to_bytes(&lease).unwrap(), expected);
        assert_eq!(from_bytes::<LeaseRecord>(expected.into()).unwrap(), lease);
    }

    #[test]
    fn a_typed_parameter_is_a_name_and_a_tagged_value() {
        let parameter = TypedParameter {
            field: "id".into(),
            value: TypedValue::Ullong(5),
        };
        let mut expected = words(&[2]);
        expected.extend_from_slice(b"id\0\0");
        expected.extend(words(&[4, 0, 5]));
        assert_eq!(to_bytes(&parameter).unwrap(), expected);
        let unknown = words(&[0, 8, 0]);
        assert_eq!(
            from_bytes::<TypedParameter>(unknown.into()),
            Err(XdrError::BadTag(8))
        );
    }

    #[test]
    fn an_identity_has_twenty_parameters_at_most() {
        assert_eq!(
            from_bytes::<IdentityArgs>(words(&[21]).into()),
            Err(XdrError::ListTooLong { count: 21, max: 20 })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_arguments_never_panic(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            let raw = Bytes::from(raw);
            let _ = from_bytes::<OpenArgs>(raw.clone());
            let _ = from_bytes::<ListReply>(raw.clone());
            let _ = from_bytes::<LeasesArgs>(raw.clone());
            let _ = from_bytes::<LeasesReply>(raw.clone());
            let _ = from_bytes::<UpdateArgs>(raw.clone());
            let _ = from_bytes::<SetMetadataArgs>(raw.clone());
            let _ = from_bytes::<GetMetadataArgs>(raw.clone());
            let _ = from_bytes::<EventRegisterArgs>(raw.clone());
            let _ = from_bytes::<LifecycleMessage>(raw.clone());
            let _ = from_bytes::<MetadataMessage>(raw.clone());
            let _ = from_bytes::<IdentityArgs>(raw);
        }
    }
}
