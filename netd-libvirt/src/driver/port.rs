//! What is done with the ports of networks: a port is the place of a guest's interface.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::null_mut;

use crate::abi::{Net, Port, RawUuid, Text, TypedParameter};
use crate::error::{Error, checked};
use crate::libvirt::Libvirt;
use crate::memory::{self, Owned};
use crate::module::Access::{Read, Write};
use crate::module::{Access, Module, answer};

/// A port that netd finds or makes, for a client's network.
fn found(local: Net, access: Access, work: impl Fn(&Libvirt, Net) -> Option<Port>) -> Option<Port> {
    answer(|m: &'static Module| {
        m.with_network(access, local, |net| {
            let port = work(m.libvirt, net);
            let port = port.ok_or_else(|| Error::last(m.libvirt))?;
            let port = Owned::new(port, m.libvirt);
            Ok(Some(m.local_port(local, port.get())?.into_inner()))
        })
    })
}

pub unsafe extern "C" fn lookup_by_uuid(local: Net, uuid: RawUuid) -> Option<Port> {
    found(local, Read, |libvirt, net| {
        libvirt.network_port_lookup_by_uuid(net, uuid)
    })
}

pub unsafe extern "C" fn create_xml(local: Net, xml: Text, flags: c_uint) -> Option<Port> {
    found(local, Write, |libvirt, net| {
        libvirt.network_port_create_xml(net, xml, flags)
    })
}

pub unsafe extern "C" fn get_xml_desc(port: Port, flags: c_uint) -> *mut c_char {
    answer(|m| {
        m.on_port(Read, port, |port| {
            m.libvirt.network_port_get_xml_desc(port, flags)
        })
    })
}

pub unsafe extern "C" fn set_parameters(
    port: Port,
    params: *mut TypedParameter,
    count: c_int,
    flags: c_uint,
) -> c_int {
    answer(|m| {
        m.on_port(Write, port, |port| {
            m.libvirt
                .network_port_set_parameters(port, params, count, flags)
        })
    })
}

pub unsafe extern "C" fn get_parameters(
    port: Port,
    params: *mut *mut TypedParameter,
    count: *mut c_int,
    flags: c_uint,
) -> c_int {
    answer(|m| {
        m.on_port(Read, port, |port| {
            m.libvirt
                .network_port_get_parameters(port, params, count, flags)
        })
    })
}

pub unsafe extern "C" fn delete(port: Port, flags: c_uint) -> c_int {
    answer(|m| {
        m.on_port(Write, port, |port| {
            m.libvirt.network_port_delete(port, flags)
        })
    })
}

/// Without a place for the ports they are only counted.
pub unsafe extern "C" fn list_all(local: Net, place: *mut *mut Port, flags: c_uint) -> c_int {
    answer(|m| {
        m.with_network(Read, local, |net| {
            let mut array = null_mut();
            let asked = if place.is_null() {
                null_mut()
            } else {
                &raw mut array
            };
            let count = m.libvirt.network_list_all_ports(net, asked, flags);
            checked(m.libvirt, count)?;
            if place.is_null() {
                return Ok(count);
            }
            let found = usize::try_from(count).unwrap_or(0);
            let ports = memory::adopt(array, found, m.libvirt)
                .iter()
                .map(|port| m.local_port(local, port.get()))
                .collect::<Result<Vec<_>, _>>()?;
            if !memory::hand_over(ports, place) {
                return Err(Error::internal("no memory for a list of ports"));
            }
            Ok(count)
        })
    })
}
