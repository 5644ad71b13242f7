//! libvirt's functions, looked up by name in the process that loaded the module.
//!
//! A module with undefined symbols would keep libvirtd from starting under a libvirt that lacks one of
//! them: libvirtd gives up when it cannot load a module. So nothing is linked.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};

use crate::abi::{
    CloseCallback, Conn, ConnectDriver, EventCallback, FreeCallback, IdentityRef, Net,
    NetworkDriver, Opaque, Port, RawUuid, Text, TypedParameter, VirError,
};

/// Looks up a symbol in all that the process has loaded. Where libvirt versions its symbols this finds
/// the default version, private ones included.
fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: dlsym only reads the name, which ends with a NUL.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

macro_rules! functions {
    ($(#[$outer:meta])* $table:ident:
        $( $name:ident $symbol:literal ($($argument:ident: $type:ty),*) $(-> $returned:ty)?; )*
    ) => {
        $(#[$outer])*
        pub struct $table {
            $( $name: unsafe extern "C" fn($($type),*) $(-> $returned)?, )*
        }

        #[allow(clippy::too_many_arguments, reason = "libvirt's own functions")]
        impl $table {
            /// Finds all of them.
            ///
            /// # Errors
            /// The name of the first that is missing.
            fn find() -> Result<Self, &'static CStr> {
                Ok(Self {
                    $( $name: {
                        let symbol = find($symbol).ok_or($symbol)?;
                        // SAFETY: the type is that of libvirt's function of that name, which has not
                        // changed in any version that `layout` lets through.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) $(-> $returned)?,
                            >(symbol)
                        }
                    }, )*
                })
            }

            $(
                pub fn $name(&self, $($argument: $type),*) $(-> $returned)? {
                    // SAFETY: the arguments are what libvirt gave this module for a function of the
                    // same parameters, objects that libvirt returned and nobody gave back yet, or
                    // memory of the caller that outlives the call.
                    unsafe { (self.$name)($($argument),*) }
                }
            )*
        }
    };
}

functions! {
    /// What every version has.
    Always:
    // The four that make a module of it, private.
    register_connect_driver c"virRegisterConnectDriver"
        (driver: *const ConnectDriver, shared: bool) -> c_int;
    set_shared_network_driver c"virSetSharedNetworkDriver"
        (driver: *const NetworkDriver) -> c_int;
    get_network c"virGetNetwork" (conn: Conn, name: Text, uuid: RawUuid) -> Option<Net>;
    get_network_port c"virGetNetworkPort" (net: Net, uuid: RawUuid) -> Option<Port>;
    // The one that has an error told, private.
    set_error c"virSetError" (error: *const VirError) -> c_int;

    save_last_error c"virSaveLastError" () -> *mut VirError;
    free_error c"virFreeError" (error: *mut VirError);
    get_last_error_message c"virGetLastErrorMessage" () -> Text;

    connect_open c"virConnectOpen" (uri: Text) -> Option<Conn>;
    connect_close c"virConnectClose" (conn: Conn) -> c_int;
    connect_ref c"virConnectRef" (conn: Conn) -> c_int;
    connect_is_alive c"virConnectIsAlive" (conn: Conn) -> c_int;
    connect_get_uri c"virConnectGetURI" (conn: Conn) -> *mut c_char;
    connect_set_keep_alive c"virConnectSetKeepAlive"
        (conn: Conn, interval: c_int, count: c_uint) -> c_int;
    connect_set_identity c"virConnectSetIdentity"
        (conn: Conn, params: *const TypedParameter, count: c_int, flags: c_uint) -> c_int;
    connect_register_close_callback c"virConnectRegisterCloseCallback"
        (conn: Conn, closed: CloseCallback, opaque: Opaque, free: Option<FreeCallback>) -> c_int;

    connect_num_of_networks c"virConnectNumOfNetworks" (conn: Conn) -> c_int;
    connect_list_networks c"virConnectListNetworks"
        (conn: Conn, names: *mut *mut c_char, max: c_int) -> c_int;
    connect_num_of_defined_networks c"virConnectNumOfDefinedNetworks" (conn: Conn) -> c_int;
    connect_list_defined_networks c"virConnectListDefinedNetworks"
        (conn: Conn, names: *mut *mut c_char, max: c_int) -> c_int;
    connect_list_all_networks c"virConnectListAllNetworks"
        (conn: Conn, nets: *mut *mut Net, flags: c_uint) -> c_int;
    connect_network_event_register_any c"virConnectNetworkEventRegisterAny"
        (conn: Conn, net: Option<Net>, event: c_int, callback: EventCallback, opaque: Opaque,
         free: Option<FreeCallback>) -> c_int;

    network_lookup_by_uuid c"virNetworkLookupByUUID" (conn: Conn, uuid: RawUuid) -> Option<Net>;
    network_lookup_by_name c"virNetworkLookupByName" (conn: Conn, name: Text) -> Option<Net>;
    network_create_xml c"virNetworkCreateXML" (conn: Conn, xml: Text) -> Option<Net>;
    network_create_xml_flags c"virNetworkCreateXMLFlags"
        (conn: Conn, xml: Text, flags: c_uint) -> Option<Net>;
    network_define_xml c"virNetworkDefineXML" (conn: Conn, xml: Text) -> Option<Net>;
    network_define_xml_flags c"virNetworkDefineXMLFlags"
        (conn: Conn, xml: Text, flags: c_uint) -> Option<Net>;
    network_free c"virNetworkFree" (net: Net) -> c_int;
    network_get_name c"virNetworkGetName" (net: Net) -> Text;
    network_get_uuid c"virNetworkGetUUID" (net: Net, uuid: *mut u8) -> c_int;
    network_undefine c"virNetworkUndefine" (net: Net) -> c_int;
    network_update c"virNetworkUpdate"
        (net: Net, command: c_uint, section: c_uint, parent: c_int, xml: Text, flags: c_uint)
        -> c_int;
    network_create c"virNetworkCreate" (net: Net) -> c_int;
    network_destroy c"virNetworkDestroy" (net: Net) -> c_int;
    network_get_xml_desc c"virNetworkGetXMLDesc" (net: Net, flags: c_uint) -> *mut c_char;
    network_get_bridge_name c"virNetworkGetBridgeName" (net: Net) -> *mut c_char;
    network_get_autostart c"virNetworkGetAutostart" (net: Net, autostart: *mut c_int) -> c_int;
    network_set_autostart c"virNetworkSetAutostart" (net: Net, autostart: c_int) -> c_int;
    network_is_active c"virNetworkIsActive" (net: Net) -> c_int;
    network_is_persistent c"virNetworkIsPersistent" (net: Net) -> c_int;
    network_get_dhcp_leases c"virNetworkGetDHCPLeases"
        (net: Net, mac: Text, leases: *mut *mut Opaque, flags: c_uint) -> c_int;

    network_port_lookup_by_uuid c"virNetworkPortLookupByUUID"
        (net: Net, uuid: RawUuid) -> Option<Port>;
    network_port_create_xml c"virNetworkPortCreateXML"
        (net: Net, xml: Text, flags: c_uint) -> Option<Port>;
    network_port_get_network c"virNetworkPortGetNetwork" (port: Port) -> Option<Net>;
    network_port_get_uuid c"virNetworkPortGetUUID" (port: Port, uuid: *mut u8) -> c_int;
    network_port_get_xml_desc c"virNetworkPortGetXMLDesc"
        (port: Port, flags: c_uint) -> *mut c_char;
    network_port_set_parameters c"virNetworkPortSetParameters"
        (port: Port, params: *mut TypedParameter, count: c_int, flags: c_uint) -> c_int;
    network_port_get_parameters c"virNetworkPortGetParameters"
        (port: Port, params: *mut *mut TypedParameter, count: *mut c_int, flags: c_uint) -> c_int;
    network_port_delete c"virNetworkPortDelete" (port: Port, flags: c_uint) -> c_int;
    network_port_free c"virNetworkPortFree" (port: Port) -> c_int;
    network_list_all_ports c"virNetworkListAllPorts"
        (net: Net, ports: *mut *mut Port, flags: c_uint) -> c_int;
}

functions! {
    /// What came with 9.7.
    Metadata:
    set c"virNetworkSetMetadata"
        (net: Net, kind: c_int, metadata: Text, key: Text, uri: Text, flags: c_uint) -> c_int;
    get c"virNetworkGetMetadata"
        (net: Net, kind: c_int, uri: Text, flags: c_uint) -> *mut c_char;
}

functions! {
    /// On whose behalf the thread works. Private, and not vital: without them netd takes every call as
    /// libvirtd's own.
    Caller:
    current c"virIdentityGetCurrent" () -> Option<IdentityRef>;
    user_name c"virIdentityGetUserName" (identity: IdentityRef, name: *mut Text) -> c_int;
    user_id c"virIdentityGetUNIXUserID" (identity: IdentityRef, id: *mut u32) -> c_int;
    group_name c"virIdentityGetGroupName" (identity: IdentityRef, name: *mut Text) -> c_int;
    group_id c"virIdentityGetUNIXGroupID" (identity: IdentityRef, id: *mut u32) -> c_int;
    process_id c"virIdentityGetProcessID" (identity: IdentityRef, id: *mut c_int) -> c_int;
    process_time c"virIdentityGetProcessTime" (identity: IdentityRef, time: *mut u64) -> c_int;
    unref c"g_object_unref" (identity: IdentityRef);
}

functions! {
    /// What tells the version.
    Asked:
    version c"virGetVersion" (version: *mut c_ulong, kind: Text, of_kind: *mut c_ulong) -> c_int;
}

/// libvirt's functions.
pub struct Libvirt {
    always: Always,
    /// None before 9.7.
    pub metadata: Option<Metadata>,
    /// None where libvirt has no such functions any more.
    pub caller: Option<Caller>,
}

impl Libvirt {
    /// Finds them.
    ///
    /// # Errors
    /// The name of a function that is missing.
    pub fn find() -> Result<Self, String> {
        let missing = |symbol: &CStr| symbol.to_string_lossy().into_owned();
        Ok(Self {
            always: Always::find().map_err(missing)?,
            metadata: Metadata::find().ok(),
            caller: Caller::find().ok(),
        })
    }
}

impl std::ops::Deref for Libvirt {
    type Target = Always;

    fn deref(&self) -> &Always {
        &self.always
    }
}

/// libvirt's version as it counts it; none where it does not tell.
pub fn version() -> Option<u64> {
    let asked = Asked::find().ok()?;
    let mut version: c_ulong = 0;
    let null = std::ptr::null_mut();
    (asked.version(&raw mut version, std::ptr::null(), null) == 0).then_some(version)
}
