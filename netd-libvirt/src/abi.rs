//! C types as libvirt has them. What is private to libvirt is marked so: [`crate::layout`] knows the
//! versions it is right for, and a test compares it with libvirt's headers.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr::NonNull;

/// A `virConnectPtr` that is not null.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn(NonNull<c_void>);

/// A `virNetworkPtr` that is not null. libvirt checks what clients give it before it calls a driver.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net(NonNull<c_void>);

/// A `virNetworkPortPtr` that is not null.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(NonNull<c_void>);

/// A `virIdentity *` that is not null.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRef(NonNull<c_void>);

/// A string that belongs to somebody else, or null.
pub type Text = *const c_char;
/// 16 bytes, or room for them.
pub type RawUuid = *const c_uchar;
/// A UUID of our own.
pub type Uuid = [u8; 16];
/// What libvirt hands through to a callback.
pub type Opaque = *mut c_void;
/// Any callback of network events; its real type goes by the event.
pub type EventCallback = unsafe extern "C" fn();
/// `virConnectNetworkEventLifecycleCallback`.
pub type LifecycleCallback = unsafe extern "C" fn(Conn, Net, c_int, c_int, Opaque);
/// `virConnectNetworkEventMetadataChangeCallback`.
pub type MetadataCallback = unsafe extern "C" fn(Conn, Net, c_int, Text, Opaque);
/// `virFreeCallback`.
pub type FreeCallback = unsafe extern "C" fn(Opaque);
/// `virConnectCloseFunc`.
pub type CloseCallback = unsafe extern "C" fn(Conn, c_int, Opaque);

/// `virError`.
#[repr(C)]
pub struct VirError {
    pub code: c_int,
    pub domain: c_int,
    pub message: *mut c_char,
    pub level: c_int,
    pub conn: Opaque,
    pub dom: Opaque,
    pub str1: *mut c_char,
    pub str2: *mut c_char,
    pub str3: *mut c_char,
    pub int1: c_int,
    pub int2: c_int,
    pub net: Opaque,
}

/// `virTypedParameter`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TypedParameter {
    pub field: [c_char; 80],
    pub kind: c_int,
    pub value: ParameterValue,
}

/// The value of a `virTypedParameter`.
#[repr(C)]
#[derive(Clone, Copy)]
pub union ParameterValue {
    pub llong: i64,
    pub ullong: u64,
    pub string: *const c_char,
}

/// `virConnectDriver`, private: which connections a driver serves, and its tables.
#[repr(C)]
pub struct ConnectDriver {
    pub local_only: bool,
    pub remote_only: bool,
    pub embeddable: bool,
    pub uri_schemes: *const Text,
    pub hypervisor: *const HypervisorDriver,
    pub interface: Opaque,
    pub network: *const NetworkDriver,
    pub node_device: Opaque,
    pub nwfilter: Opaque,
    pub secret: Opaque,
    pub storage: Opaque,
}

/// Members of a `virHypervisorDriver`, all of them pointers: more than any version has, so that those
/// behind the last one that is set are null.
pub const HYPERVISOR_MEMBERS: usize = 512;

/// `virHypervisorDriver`, private: a name and functions, which [`crate::layout`] has the places of.
#[repr(C)]
pub struct HypervisorDriver(pub [*const c_void; HYPERVISOR_MEMBERS]);

/// `virDrvConnectOpen`.
pub type ConnectOpen = unsafe extern "C" fn(Conn, Opaque, Opaque, c_uint) -> c_int;
/// A function of a connection alone.
pub type ConnectAsk = unsafe extern "C" fn(Conn) -> c_int;
/// `virDrvConnectSupportsFeature`.
pub type SupportsFeature = unsafe extern "C" fn(Conn, c_int) -> c_int;

/// `virNetworkDriver`, private. The last two members came with 9.7; an older libvirt does not look that far.
#[repr(C)]
pub struct NetworkDriver {
    pub name: Text,
    pub connect_num_of_networks: unsafe extern "C" fn(Conn) -> c_int,
    pub connect_list_networks: unsafe extern "C" fn(Conn, *mut *mut c_char, c_int) -> c_int,
    pub connect_num_of_defined_networks: unsafe extern "C" fn(Conn) -> c_int,
    pub connect_list_defined_networks: unsafe extern "C" fn(Conn, *mut *mut c_char, c_int) -> c_int,
    pub connect_list_all_networks: unsafe extern "C" fn(Conn, *mut *mut Net, c_uint) -> c_int,
    pub connect_network_event_register_any: unsafe extern "C" fn(
        Conn,
        Option<Net>,
        c_int,
        EventCallback,
        Opaque,
        Option<FreeCallback>,
    ) -> c_int,
    pub connect_network_event_deregister_any: unsafe extern "C" fn(Conn, c_int) -> c_int,
    pub network_lookup_by_uuid: unsafe extern "C" fn(Conn, RawUuid) -> Option<Net>,
    pub network_lookup_by_name: unsafe extern "C" fn(Conn, Text) -> Option<Net>,
    pub network_create_xml: unsafe extern "C" fn(Conn, Text) -> Option<Net>,
    pub network_create_xml_flags: unsafe extern "C" fn(Conn, Text, c_uint) -> Option<Net>,
    pub network_define_xml: unsafe extern "C" fn(Conn, Text) -> Option<Net>,
    pub network_define_xml_flags: unsafe extern "C" fn(Conn, Text, c_uint) -> Option<Net>,
    pub network_undefine: unsafe extern "C" fn(Net) -> c_int,
    pub network_update: unsafe extern "C" fn(Net, c_uint, c_uint, c_int, Text, c_uint) -> c_int,
    pub network_create: unsafe extern "C" fn(Net) -> c_int,
    pub network_destroy: unsafe extern "C" fn(Net) -> c_int,
    pub network_get_xml_desc: unsafe extern "C" fn(Net, c_uint) -> *mut c_char,
    pub network_get_bridge_name: unsafe extern "C" fn(Net) -> *mut c_char,
    pub network_get_autostart: unsafe extern "C" fn(Net, *mut c_int) -> c_int,
    pub network_set_autostart: unsafe extern "C" fn(Net, c_int) -> c_int,
    pub network_is_active: unsafe extern "C" fn(Net) -> c_int,
    pub network_is_persistent: unsafe extern "C" fn(Net) -> c_int,
    pub network_get_dhcp_leases: unsafe extern "C" fn(Net, Text, *mut *mut Opaque, c_uint) -> c_int,
    pub network_port_lookup_by_uuid: unsafe extern "C" fn(Net, RawUuid) -> Option<Port>,
    pub network_port_create_xml: unsafe extern "C" fn(Net, Text, c_uint) -> Option<Port>,
    pub network_port_get_xml_desc: unsafe extern "C" fn(Port, c_uint) -> *mut c_char,
    pub network_port_set_parameters:
        unsafe extern "C" fn(Port, *mut TypedParameter, c_int, c_uint) -> c_int,
    pub network_port_get_parameters:
        unsafe extern "C" fn(Port, *mut *mut TypedParameter, *mut c_int, c_uint) -> c_int,
    pub network_port_delete: unsafe extern "C" fn(Port, c_uint) -> c_int,
    pub network_list_all_ports: unsafe extern "C" fn(Net, *mut *mut Port, c_uint) -> c_int,
    pub network_set_metadata: unsafe extern "C" fn(Net, c_int, Text, Text, Text, c_uint) -> c_int,
    pub network_get_metadata: unsafe extern "C" fn(Net, c_int, Text, c_uint) -> *mut c_char,
}
