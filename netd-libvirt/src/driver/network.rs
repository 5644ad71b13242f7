//! What is done with networks.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::null_mut;

use crate::abi::{Conn, Net, Opaque, RawUuid, Text};
use crate::error::{Code, Error, checked};
use crate::libvirt::{Libvirt, Metadata};
use crate::memory::{self, Owned};
use crate::module::Access::{Read, Write};
use crate::module::{Access, Module, answer};

pub unsafe extern "C" fn number(_: Conn) -> c_int {
    answer(|m| m.ask_for(Read, |conn| m.libvirt.connect_num_of_networks(conn)))
}

pub unsafe extern "C" fn list(_: Conn, names: *mut *mut c_char, max: c_int) -> c_int {
    answer(|m| {
        m.ask_for(Read, |conn| {
            m.libvirt.connect_list_networks(conn, names, max)
        })
    })
}

pub unsafe extern "C" fn number_of_inactive(_: Conn) -> c_int {
    answer(|m| m.ask_for(Read, |conn| m.libvirt.connect_num_of_defined_networks(conn)))
}

pub unsafe extern "C" fn list_inactive(_: Conn, names: *mut *mut c_char, max: c_int) -> c_int {
    answer(|m| {
        m.ask_for(Read, |conn| {
            m.libvirt.connect_list_defined_networks(conn, names, max)
        })
    })
}

/// Without a place for the networks they are only counted.
pub unsafe extern "C" fn list_all(local: Conn, place: *mut *mut Net, flags: c_uint) -> c_int {
    answer(|m| {
        m.ask(Read, |conn| {
            let mut array = null_mut();
            let asked = if place.is_null() {
                null_mut()
            } else {
                &raw mut array
            };
            let count = m.libvirt.connect_list_all_networks(conn, asked, flags);
            checked(m.libvirt, count)?;
            if place.is_null() {
                return Ok(count);
            }
            let found = usize::try_from(count).unwrap_or(0);
            let networks = memory::adopt(array, found, m.libvirt)
                .iter()
                .map(|network| m.local(local, network.get()))
                .collect::<Result<Vec<_>, _>>()?;
            if !memory::hand_over(networks, place) {
                return Err(Error::internal("no memory for a list of networks"));
            }
            Ok(count)
        })
    })
}

/// A network that netd finds or makes, for a client's connection.
fn found(local: Conn, access: Access, work: impl Fn(&Libvirt, Conn) -> Option<Net>) -> Option<Net> {
    answer(|m: &'static Module| {
        m.ask(access, |conn| {
            let network = work(m.libvirt, conn);
            let network = network.ok_or_else(|| Error::last(m.libvirt))?;
            let network = Owned::new(network, m.libvirt);
            Ok(Some(m.local(local, network.get())?.into_inner()))
        })
    })
}

pub unsafe extern "C" fn lookup_by_uuid(local: Conn, uuid: RawUuid) -> Option<Net> {
    found(local, Read, |libvirt, conn| {
        libvirt.network_lookup_by_uuid(conn, uuid)
    })
}

pub unsafe extern "C" fn lookup_by_name(local: Conn, name: Text) -> Option<Net> {
    found(local, Read, |libvirt, conn| {
        libvirt.network_lookup_by_name(conn, name)
    })
}

pub unsafe extern "C" fn create_xml(local: Conn, xml: Text) -> Option<Net> {
    found(local, Write, |libvirt, conn| {
        libvirt.network_create_xml(conn, xml)
    })
}

pub unsafe extern "C" fn create_xml_flags(local: Conn, xml: Text, flags: c_uint) -> Option<Net> {
    found(local, Write, |libvirt, conn| {
        libvirt.network_create_xml_flags(conn, xml, flags)
    })
}

pub unsafe extern "C" fn define_xml(local: Conn, xml: Text) -> Option<Net> {
    found(local, Write, |libvirt, conn| {
        libvirt.network_define_xml(conn, xml)
    })
}

pub unsafe extern "C" fn define_xml_flags(local: Conn, xml: Text, flags: c_uint) -> Option<Net> {
    found(local, Write, |libvirt, conn| {
        libvirt.network_define_xml_flags(conn, xml, flags)
    })
}

pub unsafe extern "C" fn undefine(network: Net) -> c_int {
    answer(|m| m.on_network(Write, network, |net| m.libvirt.network_undefine(net)))
}

pub unsafe extern "C" fn update(
    network: Net,
    command: c_uint,
    section: c_uint,
    parent: c_int,
    xml: Text,
    flags: c_uint,
) -> c_int {
    answer(|m| {
        m.on_network(Write, network, |net| {
            m.libvirt
                .network_update(net, command, section, parent, xml, flags)
        })
    })
}

pub unsafe extern "C" fn create(network: Net) -> c_int {
    answer(|m| m.on_network(Write, network, |net| m.libvirt.network_create(net)))
}

pub unsafe extern "C" fn destroy(network: Net) -> c_int {
    answer(|m| m.on_network(Write, network, |net| m.libvirt.network_destroy(net)))
}

pub unsafe extern "C" fn get_xml_desc(network: Net, flags: c_uint) -> *mut c_char {
    answer(|m| {
        m.on_network(Read, network, |net| {
            m.libvirt.network_get_xml_desc(net, flags)
        })
    })
}

pub unsafe extern "C" fn get_bridge_name(network: Net) -> *mut c_char {
    answer(|m| m.on_network(Read, network, |net| m.libvirt.network_get_bridge_name(net)))
}

pub unsafe extern "C" fn get_autostart(network: Net, autostart: *mut c_int) -> c_int {
    answer(|m| {
        m.on_network(Read, network, |net| {
            m.libvirt.network_get_autostart(net, autostart)
        })
    })
}

pub unsafe extern "C" fn set_autostart(network: Net, autostart: c_int) -> c_int {
    answer(|m| {
        m.on_network(Write, network, |net| {
            m.libvirt.network_set_autostart(net, autostart)
        })
    })
}

pub unsafe extern "C" fn is_active(network: Net) -> c_int {
    answer(|m| m.on_network(Read, network, |net| m.libvirt.network_is_active(net)))
}

pub unsafe extern "C" fn is_persistent(network: Net) -> c_int {
    answer(|m| m.on_network(Read, network, |net| m.libvirt.network_is_persistent(net)))
}

/// Leases name no connection, so they go to the client as netd's came.
pub unsafe extern "C" fn get_dhcp_leases(
    network: Net,
    mac: Text,
    leases: *mut *mut Opaque,
    flags: c_uint,
) -> c_int {
    answer(|m| {
        m.on_network(Read, network, |net| {
            m.libvirt.network_get_dhcp_leases(net, mac, leases, flags)
        })
    })
}

/// Only a libvirt that has these functions calls the two below.
fn metadata(module: &'static Module) -> Result<&'static Metadata, Error> {
    let functions = module.libvirt.metadata.as_ref();
    functions.ok_or_else(|| {
        let message = "this libvirt has no metadata of networks".to_owned();
        Error::Own(Code::NoSupport, message)
    })
}

pub unsafe extern "C" fn set_metadata(
    network: Net,
    kind: c_int,
    text: Text,
    key: Text,
    uri: Text,
    flags: c_uint,
) -> c_int {
    answer(|m| {
        let metadata = metadata(m)?;
        m.on_network(Write, network, |net| {
            metadata.set(net, kind, text, key, uri, flags)
        })
    })
}

pub unsafe extern "C" fn get_metadata(
    network: Net,
    kind: c_int,
    uri: Text,
    flags: c_uint,
) -> *mut c_char {
    answer(|m| {
        let metadata = metadata(m)?;
        m.on_network(Read, network, |net| metadata.get(net, kind, uri, flags))
    })
}
