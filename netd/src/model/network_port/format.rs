//! The canonical text of a port: what net-port-dumpxml prints and what is kept on disk.

use super::{BridgePlug, NetworkPort, Plug};
use crate::model::element::bridge::mac_table_manager_name;
use crate::model::element::forward::write_forward_driver;
use crate::model::element::port::{write_port_bandwidth, write_virtual_port, write_vlan};
use crate::model::write::{Tag, Writer};

/// Prints the canonical text, with a newline at its end.
#[must_use]
pub fn format_port(port: &NetworkPort) -> String {
    let mut w = Writer::default();
    w.start(Tag::new("networkport"));
    w.text("uuid", &port.uuid.to_string());
    w.start(Tag::new("owner"));
    w.text("name", &port.owner.name);
    w.text("uuid", &port.owner.uuid.to_string());
    w.end("owner");
    if let Some(group) = &port.group {
        w.text("group", group);
    }
    w.empty(Tag::new("mac").attr("address", port.mac));
    write_virtual_port(&mut w, port.virtualport.as_ref());
    write_port_bandwidth(&mut w, port.bandwidth.as_ref(), port.class_id);
    write_vlan(&mut w, port.vlan.as_ref());
    if port.isolated.is_some() {
        w.empty(Tag::new("port").yes_no("isolated", port.isolated));
    }
    if port.trust_guest_rx_filters.is_some() {
        w.empty(Tag::new("rxfilters").yes_no("trustGuest", port.trust_guest_rx_filters));
    }
    if let Some(plug) = &port.plug {
        write_plug(&mut w, plug);
    }
    w.end("networkport");
    w.out
}

fn write_plug(w: &mut Writer, plug: &Plug) {
    let on_bridge = |kind: &str, plug: &BridgePlug| {
        let manager = plug.mac_table_manager.map(mac_table_manager_name);
        Tag::new("plug")
            .attr("type", kind)
            .attr("bridge", &plug.bridge)
            .opt("macTableManager", manager)
    };
    match plug {
        Plug::Network(plug) => w.empty(on_bridge("network", plug)),
        Plug::Bridge(plug) => w.empty(on_bridge("bridge", plug)),
        Plug::Direct { dev, mode } => w.empty(
            Tag::new("plug")
                .attr("type", "direct")
                .attr("dev", dev)
                .attr("mode", mode.name()),
        ),
        Plug::HostdevPci {
            managed,
            driver,
            address,
        } => {
            w.start(
                Tag::new("plug")
                    .attr("type", "hostdev-pci")
                    .yes_no("managed", *managed),
            );
            if let Some(driver) = driver {
                write_forward_driver(w, driver);
            }
            w.empty(
                Tag::new("address")
                    .attr("domain", format_args!("0x{:04x}", address.domain))
                    .attr("bus", format_args!("0x{:02x}", address.bus))
                    .attr("slot", format_args!("0x{:02x}", address.slot))
                    .attr("function", format_args!("0x{:x}", address.function)),
            );
            w.end("plug");
        }
    }
}
