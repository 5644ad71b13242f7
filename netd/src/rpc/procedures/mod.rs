//! Procedures of libvirt's remote program and of netd's own: their numbers, who answers them, and what
//! they do. What they carry is in `arguments.rs`.

mod arguments;
mod elsewhere;
mod flows;
mod ports;

pub use arguments::*;
pub use elsewhere::not_here;
pub use flows::*;
pub use ports::*;

/// When a procedure may be called, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The connection, before OPEN as well.
    Handshake,
    /// The connection, once it is open.
    Connection,
    /// The agent, once the connection is open.
    Agent,
}

/// What a procedure does to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It looks.
    Read,
    /// It changes something: read-only clients are refused.
    Write,
}

/// Procedures by number, with libvirt's function, who answers, and what it does. One that does not say
/// all four does not compile.
macro_rules! procedures {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$vmeta:meta])* $variant:ident = $number:literal $text:literal $scope:ident $access:ident,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum $name { $($(#[$vmeta])* $variant = $number,)* }

        impl $name {
            /// Every procedure.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The procedure with this number.
            #[must_use]
            pub fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Name of the function of libvirt's API that makes this call.
            #[must_use]
            pub fn function(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// When it may be called, and who answers.
            #[must_use]
            pub fn scope(self) -> Scope {
                match self {
                    $(Self::$variant => Scope::$scope,)*
                }
            }

            /// What it does to the agent.
            #[must_use]
            pub fn access(self) -> Access {
                match self {
                    $(Self::$variant => Access::$access,)*
                }
            }
        }
    };
}

procedures! {
    /// Procedures of libvirt's remote program.
    pub enum Procedure {
        /// `str? uri, u32 flags → ()`
        Open = 1 "virConnectOpen" Handshake Read,
        /// `() → ()`, then the server closes the connection
        Close = 2 "virConnectClose" Handshake Read,
        /// `() → str`
        GetType = 3 "virConnectGetType" Connection Read,
        /// Refused as not supported, as by libvirt's own network daemon
        GetVersion = 4 "virConnectGetVersion" Connection Read,
        /// Refused as not supported
        GetCapabilities = 7 "virConnectGetCapabilities" Connection Read,
        /// `i32 maxnames → str[]` of inactive networks
        ListDefinedNetworks = 36 "virConnectListDefinedNetworks" Agent Read,
        /// `i32 maxnames → str[]` of active networks
        ListNetworks = 38 "virConnectListNetworks" Agent Read,
        /// `NET → ()`
        NetworkCreate = 39 "virNetworkCreate" Agent Write,
        /// `str xml → NET`
        NetworkCreateXml = 40 "virNetworkCreateXML" Agent Write,
        /// `str xml → NET`
        NetworkDefineXml = 41 "virNetworkDefineXML" Agent Write,
        /// `NET → ()`
        NetworkDestroy = 42 "virNetworkDestroy" Agent Write,
        /// `NET, u32 flags → str`
        NetworkGetXmlDesc = 43 "virNetworkGetXMLDesc" Agent Read,
        /// `NET → i32`
        NetworkGetAutostart = 44 "virNetworkGetAutostart" Agent Read,
        /// `NET → str`
        NetworkGetBridgeName = 45 "virNetworkGetBridgeName" Agent Read,
        /// `str → NET`
        NetworkLookupByName = 46 "virNetworkLookupByName" Agent Read,
        /// `uuid → NET`
        NetworkLookupByUuid = 47 "virNetworkLookupByUUID" Agent Read,
        /// `NET, i32 → ()`
        NetworkSetAutostart = 48 "virNetworkSetAutostart" Agent Write,
        /// `NET → ()`
        NetworkUndefine = 49 "virNetworkUndefine" Agent Write,
        /// `() → i32`
        NumOfDefinedNetworks = 50 "virConnectNumOfDefinedNetworks" Agent Read,
        /// `() → i32`
        NumOfNetworks = 52 "virConnectNumOfNetworks" Agent Read,
        /// Refused as not supported
        GetHostname = 59 "virConnectGetHostname" Connection Read,
        /// `i32 feature → i32`
        SupportsFeature = 60 "virConnectSupportsFeature" Handshake Read,
        /// `() → i32[]`
        AuthList = 66 "virConnectAuthList" Handshake Read,
        /// `() → i32`
        AuthPolkit = 70 "virConnectAuthPolkit" Handshake Read,
        /// `() → str`
        GetUri = 110 "virConnectGetURI" Connection Read,
        /// `() → i32`
        IsSecure = 149 "virConnectIsSecure" Connection Read,
        /// `NET → i32`
        NetworkIsActive = 152 "virNetworkIsActive" Agent Read,
        /// `NET → i32`
        NetworkIsPersistent = 153 "virNetworkIsPersistent" Agent Read,
        /// `() → u64`
        GetLibVersion = 157 "virConnectGetLibVersion" Connection Read,
        /// `i32 need_results, u32 flags → NET[], u32`
        ListAllNetworks = 283 "virConnectListAllNetworks" Agent Read,
        /// `NET, u32 command, u32 section, i32 parentIndex, str xml, u32 flags → ()`
        NetworkUpdate = 291 "virNetworkUpdate" Agent Write,
        /// `i32 event, NET? → i32 callback`
        NetworkEventRegisterAny = 313 "virConnectNetworkEventRegisterAny" Connection Read,
        /// `i32 callback → ()`
        NetworkEventDeregisterAny = 314 "virConnectNetworkEventDeregisterAny" Connection Read,
        /// `NET, str? mac, i32 need_results, u32 flags → LEASE[], u32`
        NetworkGetDhcpLeases = 341 "virNetworkGetDHCPLeases" Agent Read,
        /// `() → ()`
        RegisterCloseCallback = 360 "virConnectRegisterCloseCallback" Connection Read,
        /// `() → ()`
        UnregisterCloseCallback = 361 "virConnectUnregisterCloseCallback" Connection Read,
        /// `NET, i32 need_results, u32 flags → PORT[], u32`
        NetworkListAllPorts = 404 "virNetworkListAllPorts" Agent Read,
        /// `NET, uuid → PORT`
        NetworkPortLookupByUuid = 405 "virNetworkPortLookupByUUID" Agent Read,
        /// `NET, str xml, u32 flags → PORT`
        NetworkPortCreateXml = 406 "virNetworkPortCreateXML" Agent Write,
        /// `PORT, i32 nparams, u32 flags → TYPED[], i32`
        NetworkPortGetParameters = 407 "virNetworkPortGetParameters" Agent Read,
        /// `PORT, TYPED[], u32 flags → ()`
        NetworkPortSetParameters = 408 "virNetworkPortSetParameters" Agent Write,
        /// `PORT, u32 flags → str`
        NetworkPortGetXmlDesc = 409 "virNetworkPortGetXMLDesc" Agent Read,
        /// `PORT, u32 flags → ()`
        NetworkPortDelete = 410 "virNetworkPortDelete" Agent Write,
        /// `TYPED[], u32 flags → ()`
        SetIdentity = 419 "virConnectSetIdentity" Connection Read,
        /// `str xml, u32 flags → NET`
        NetworkDefineXmlFlags = 432 "virNetworkDefineXMLFlags" Agent Write,
        /// `str xml, u32 flags → NET`
        NetworkCreateXmlFlags = 437 "virNetworkCreateXMLFlags" Agent Write,
        /// `NET, i32 type, str? metadata, str? key, str? uri, u32 flags → ()`
        NetworkSetMetadata = 444 "virNetworkSetMetadata" Agent Write,
        /// `NET, i32 type, str? uri, u32 flags → str`
        NetworkGetMetadata = 445 "virNetworkGetMetadata" Agent Read,
    }
}

procedures! {
    /// Procedures of netd's own program.
    pub enum NetdProcedure {
        /// `str? network → str[]`
        Plan = 1 "plan" Agent Read,
        /// `() → str`, the [`crate::api::Status`] as JSON
        Status = 2 "status" Agent Read,
        /// `str? network → str`, a [`crate::api::NetworkForwards`] each as JSON
        ForwardList = 3 "forward list" Agent Read,
        /// `str → str`, a [`crate::api::ForwardChange`] and the
        /// [`crate::api::Changed`] as JSON
        ForwardChange = 4 "forward change" Agent Write,
        /// `() → str[]`
        Reload = 5 "reload" Agent Write,
        /// `u64 since → str`, the [`crate::api::Drops`] as JSON
        Drops = 6 "drops" Agent Read,
        /// `str → ()`, a [`crate::api::Handover`] as JSON
        HandOver = 7 "hand over" Agent Write,
        /// `() → str[]`, a [`crate::api::Ban`] each as JSON
        BanList = 8 "ban list" Agent Read,
        /// `str → ()`, a [`crate::api::BanChange`] as JSON
        BanChange = 9 "ban change" Agent Write,
        /// `() → str`, a list of [`crate::api::Problem`]s as JSON
        Doctor = 10 "doctor" Agent Read,
        /// `NET → str`, the [`crate::api::Applied`] as JSON
        Apply = 11 "net-apply" Agent Write,
        /// `NET → str`, the same of what would be done
        ApplyDryRun = 12 "dry run" Agent Read,
        /// `str filter, u64 from → HALF[], u64 next`, a [`crate::api::FlowFilter`] as JSON; a
        /// [`crate::api::FlowHalf`] each
        FlowList = 13 "flows" Agent Read,
        /// `() → str, str[]`, the [`crate::api::FlowNames`] as JSON
        FlowNames = 14 "names of flows" Agent Read,
        /// `str → u64`, a [`crate::api::FlowKill`] as JSON
        FlowKill = 15 "flows kill" Agent Write,
        /// `str? network → str[]`, a [`crate::api::GuestPort`] each as JSON
        GuestPorts = 16 "ports" Agent Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_procedures_agree() {
        for procedure in Procedure::ALL {
            assert_eq!(Procedure::from_number(*procedure as i32), Some(*procedure));
        }
        assert_eq!(Procedure::from_number(EVENT_LIFECYCLE), None, "no call");
        assert_eq!(Procedure::from_number(-1), None);
    }
}
