//! What calls about networks' ports carry.

use uuid::Uuid;

use super::{NetworkRef, TypedParameter};
use crate::api::PortId;
use crate::model::MAX_PORTS;
use crate::rpc::xdr::{List, xdr_struct};

/// Most parameters of a port.
pub const PORT_PARAMETERS_MAX: usize = 16;

/// Most ports of bridges in one list.
pub const GUEST_PORTS_MAX: usize = 65_536;

/// PORT_CREATE_XML: the guest is connected already.
pub const PORT_RECLAIM: u32 = 1;
/// PORT_CREATE_XML: check the XML against the schema.
pub const PORT_VALIDATE: u32 = 2;

xdr_struct! {
    /// PORT: how ports are named in calls. Only the UUIDs count.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PortRef {
        /// Its network.
        pub network: NetworkRef,
        /// Its own UUID.
        pub uuid: Uuid,
    }
}

xdr_struct! {
    /// Arguments of LIST_ALL_PORTS.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ListPortsArgs {
        /// Which network.
        pub network: NetworkRef,
        /// 0 asks for the count alone.
        pub need_results: i32,
        /// None exist.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Result of LIST_ALL_PORTS.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ListPortsReply {
        /// The ports, empty when only the count was asked for.
        pub ports: List<PortRef, MAX_PORTS>,
        /// How many there are.
        pub count: u32,
    }
}

xdr_struct! {
    /// Arguments of PORT_CREATE_XML.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct CreatePortArgs {
        /// Which network.
        pub network: NetworkRef,
        /// The port.
        pub xml: String,
        /// [`PORT_RECLAIM`] and [`PORT_VALIDATE`].
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of PORT_GET_PARAMETERS.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct GetPortParametersArgs {
        /// Which port.
        pub port: PortRef,
        /// How many the client has room for; clients say 0 and get all.
        pub count: i32,
        /// None exist.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Result of PORT_GET_PARAMETERS.
    #[derive(Clone, Debug, PartialEq)]
    pub struct PortParametersReply {
        /// Its limits.
        pub parameters: List<TypedParameter, PORT_PARAMETERS_MAX>,
        /// 0 beside a list.
        pub count: i32,
    }
}

xdr_struct! {
    /// Arguments of PORT_SET_PARAMETERS.
    #[derive(Clone, Debug, PartialEq)]
    pub struct SetPortParametersArgs {
        /// Which port.
        pub port: PortRef,
        /// Its new limits.
        pub parameters: List<TypedParameter, PORT_PARAMETERS_MAX>,
        /// None exist.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of PORT_GET_XML_DESC and PORT_DELETE.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PortArgs {
        /// Which port.
        pub port: PortRef,
        /// None exist.
        pub flags: u32,
    }
}

xdr_struct! {
    /// Arguments of PORT_LOOKUP_BY_UUID.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LookupPortArgs {
        /// Its network.
        pub network: NetworkRef,
        /// Its own UUID.
        pub uuid: Uuid,
    }
}

impl From<&PortRef> for PortId {
    fn from(port: &PortRef) -> Self {
        Self {
            network: port.network.uuid,
            port: port.uuid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::xdr::{XdrError, from_bytes, to_bytes};

    #[test]
    fn a_port_has_sixteen_parameters_at_most() {
        let port = PortRef {
            network: NetworkRef {
                name: "n1".to_owned(),
                uuid: Uuid::nil(),
            },
            uuid: Uuid::nil(),
        };
        let mut raw = to_bytes(&port).unwrap().to_vec();
        assert_eq!(raw.len(), 40);
        raw.extend(17_u32.to_be_bytes());
        assert_eq!(
            from_bytes::<SetPortParametersArgs>(raw.into()),
            Err(XdrError::ListTooLong { count: 17, max: 16 })
        );
    }
}
