//! Masquerading: a guest's flow goes behind an address of the host's, or of its network's range.

use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, FLOW_SNAT};
use netd_common::checksum::difference;
use netd_common::port::Range;

use crate::context::{AVOID_RESERVED, AVOID_SOCKETS, Decision, Ingress, Packet};
use crate::family::Family;
use crate::parse::transport::has_ports;
use crate::records;
use crate::route::source;

/// Put the flow of the scratch map behind an address of the host's or of its network's range.
#[inline(always)]
pub fn snat<F: Family>(
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    decision: &Decision<F::Addr>,
) -> Result<(), Reason> {
    let Some(scratch) = F::scratch() else {
        return Err(Reason::NoMemory);
    };
    let key = &packet.key;
    let mut range = Range::new(0, 0);
    let address = if ingress.bridge == 0 {
        // A packet of the host's own, whose port a guest's flow has: another port will do.
        key.src
    } else {
        if let Some(network) = records::network(ingress.bridge) {
            range = Range::new(network.first_port, network.last_port);
        }
        source::choose::<F>(key.src, ingress.bridge, &decision.route)
    };
    if address == F::ZERO {
        return Err(Reason::NoAddress);
    }
    if key.proto == F::ICMP {
        range = Range::ALL;
    }
    scratch.flow.flags |= FLOW_NAT | FLOW_SNAT;
    scratch.back.flags |= FLOW_NAT;
    scratch.flow.new_src = address;
    scratch.flow.addr_diff = difference(F::sum(&key.src), F::sum(&address));
    scratch.back.addr_diff = difference(F::sum(&address), F::sum(&key.src));
    scratch.request.first = range.first;
    scratch.request.last = range.last;
    scratch.request.translate = u32::from(has_ports(key.proto) || key.proto == F::ICMP);
    scratch.request.avoid = AVOID_RESERVED;
    if ingress.bridge != 0 {
        scratch.request.avoid |= AVOID_SOCKETS;
    }
    Ok(())
}
