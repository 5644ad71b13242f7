//! The functions that libvirt calls, and the tables they stand in.

mod connect;
mod network;
mod notify;
mod port;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use crate::abi::{
    ConnectAsk, ConnectDriver, ConnectOpen, HYPERVISOR_MEMBERS, HypervisorDriver, NetworkDriver,
    SupportsFeature, Text,
};
use crate::layout::Members;

/// The table of networks.
pub fn networks() -> NetworkDriver {
    NetworkDriver {
        name: c"netd".as_ptr(),
        connect_num_of_networks: network::number,
        connect_list_networks: network::list,
        connect_num_of_defined_networks: network::number_of_inactive,
        connect_list_defined_networks: network::list_inactive,
        connect_list_all_networks: network::list_all,
        connect_network_event_register_any: notify::register,
        connect_network_event_deregister_any: notify::deregister,
        network_lookup_by_uuid: network::lookup_by_uuid,
        network_lookup_by_name: network::lookup_by_name,
        network_create_xml: network::create_xml,
        network_create_xml_flags: network::create_xml_flags,
        network_define_xml: network::define_xml,
        network_define_xml_flags: network::define_xml_flags,
        network_undefine: network::undefine,
        network_update: network::update,
        network_create: network::create,
        network_destroy: network::destroy,
        network_get_xml_desc: network::get_xml_desc,
        network_get_bridge_name: network::get_bridge_name,
        network_get_autostart: network::get_autostart,
        network_set_autostart: network::set_autostart,
        network_is_active: network::is_active,
        network_is_persistent: network::is_persistent,
        network_get_dhcp_leases: network::get_dhcp_leases,
        network_port_lookup_by_uuid: port::lookup_by_uuid,
        network_port_create_xml: port::create_xml,
        network_port_get_xml_desc: port::get_xml_desc,
        network_port_set_parameters: port::set_parameters,
        network_port_get_parameters: port::get_parameters,
        network_port_delete: port::delete,
        network_list_all_ports: port::list_all,
        network_set_metadata: network::set_metadata,
        network_get_metadata: network::get_metadata,
    }
}

/// The table of connections of the scheme `network`, as this libvirt lays it out.
pub fn hypervisor(members: Members) -> HypervisorDriver {
    let mut table = [null::<c_void>(); HYPERVISOR_MEMBERS];
    table[members.name] = c"network".as_ptr().cast();
    table[members.open] = connect::open as ConnectOpen as *const c_void;
    table[members.close] = connect::close as ConnectAsk as *const c_void;
    table[members.supports_feature] = connect::supports_feature as SupportsFeature as *const c_void;
    table[members.is_encrypted] = connect::is_encrypted as ConnectAsk as *const c_void;
    table[members.is_secure] = connect::is_secure as ConnectAsk as *const c_void;
    table[members.is_alive] = connect::is_alive as ConnectAsk as *const c_void;
    HypervisorDriver(table)
}

/// Which connections the driver serves. The tables and the list of schemes, which ends with null, stay
/// as long as the process.
pub fn connections(
    schemes: &'static [Text; 2],
    hypervisor: &'static HypervisorDriver,
    network: &'static NetworkDriver,
) -> ConnectDriver {
    ConnectDriver {
        local_only: true,
        remote_only: false,
        embeddable: false,
        uri_schemes: schemes.as_ptr(),
        hypervisor,
        interface: null_mut(),
        network,
        node_device: null_mut(),
        nwfilter: null_mut(),
        secret: null_mut(),
        storage: null_mut(),
    }
}
