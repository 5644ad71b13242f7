//! Ports that need not wait: STP without four seconds of silence for every guest.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoData, LinkAttribute, LinkInfo,
};
use rtnetlink::{LinkBridgePort, LinkUnspec};

use super::error::LinkError;
use super::requests::{Links, bridge_message};
use super::snapshot::{Link, Snapshot, port_state};

/// Devices a guest hangs on. Hardware, bonds and tunnels lead to other switches, where a loop is
/// likely enough to be worth the wait.
const GUEST_KINDS: [&str; 2] = ["tun", "veth"];

/// Bounds how long one datagram keeps the kernel's network configuration lock.
const PORTS_PER_DATAGRAM: usize = 64;

impl Snapshot {
    /// The ports of `bridge` to be handed to [`Links::forward_ports_now`]: guests' ports that wait
    /// in listening or learning. None while STP holds any port shut, for then there is a loop and
    /// the tree is left to itself.
    #[must_use]
    pub fn edge_ports(&self, bridge: u32) -> Vec<u32> {
        let stp = self
            .links
            .get(&bridge)
            .and_then(|link| link.bridge)
            .is_some_and(|bridge| bridge.stp);
        let blocked = self
            .ports_of(bridge)
            .any(|port| port.port_state == Some(port_state::BLOCKING));
        if !stp || blocked {
            return Vec::new();
        }
        self.ports_of(bridge)
            .filter(|port| is_guest(port) && is_waiting(port))
            .map(|port| port.index)
            .collect()
    }
}

fn is_guest(link: &Link) -> bool {
    link.kind
        .as_deref()
        .is_some_and(|kind| GUEST_KINDS.contains(&kind))
}

fn is_waiting(link: &Link) -> bool {
    matches!(
        link.port_state,
        Some(port_state::LISTENING | port_state::LEARNING)
    )
}

impl Links {
    /// Makes waiting ports of an STP bridge forward at once, as RSTP does with edge ports.
    ///
    /// The definition `stp='on' delay='0'`, libvirt's default, asks for STP without a wait. The
    /// kernel's STP does not know that: `br_stp_start` raises a forward delay below
    /// `BR_MIN_FORWARD_DELAY` to 2 s, and `br_forward_delay_timer_expired` takes a new port through
    /// listening and learning at that pace, 4 s in which a guest's DHCP requests are lost. A
    /// shorter delay is refused while STP runs (`br_set_forward_delay`: ERANGE), and so is setting
    /// a port's state (`br_set_port_state`: EBUSY).
    ///
    /// So STP is switched off, the ports are set to forwarding, and STP is switched on again.
    /// `br_stp_start` leaves forwarding ports as they are (`br_make_forwarding` acts on blocked
    /// ports only), and switching off leaves all port states and what is known of other bridges
    /// (`br_stp_stop` changes nothing but the mode). From then on the tree works as ever:
    /// `br_received_config_bpdu` still blocks a port that turns out to close a loop, at the latest
    /// after one hello time, 2 s, in which frames go round. That is the price of every edge port.
    ///
    /// The messages go in one datagram. `netlink_rcv_skb` works through it within the one
    /// sendmsg call and goes on after an error, so STP is off for microseconds and comes on again
    /// even where a port has vanished or the agent is killed. Each switch restarts the bridge's
    /// hello timer: pass all waiting ports of a bridge together.
    ///
    /// A bridge whose STP is off, or run by a daemon of its own, is left alone.
    pub async fn forward_ports_now(&self, bridge: u32, ports: &[u32]) -> Result<(), LinkError> {
        if ports.is_empty() || !self.runs_kernel_stp(bridge).await? {
            return Ok(());
        }
        for some in ports.chunks(PORTS_PER_DATAGRAM) {
            self.forward_some_now(bridge, some).await?;
        }
        Ok(())
    }

    async fn forward_some_now(&self, bridge: u32, ports: &[u32]) -> Result<(), LinkError> {
        let stp =
            |state| RouteNetlinkMessage::NewLink(bridge_message(bridge).stp_state(state).build());
        let mut batch = vec![(stp(BridgeStpState::Disabled), 0)];
        batch.extend(ports.iter().map(|port| {
            let message = LinkBridgePort::new(*port)
                .state(BridgePortState::Forwarding)
                .build();
            (RouteNetlinkMessage::NewLink(message), 0)
        }));
        batch.push((stp(BridgeStpState::KernelStp), 0));

        let answers = self.requests.batch(batch).await;
        let answers = self
            .named(bridge, "forward waiting ports of", answers)
            .await?;
        let last = answers.len().saturating_sub(1);
        let mut first_error = Ok(());
        for (step, answer) in answers.into_iter().enumerate() {
            let result = if step == 0 {
                self.named(bridge, "suspend STP of", answer).await
            } else if step == last {
                self.named(bridge, "resume STP of", answer).await
            } else {
                self.named(ports[step - 1], "set to forwarding the port", answer)
                    .await
            };
            match result {
                // The port went down or away meanwhile; whoever brings it back starts anew.
                Err(error) if is_lost_port(&error) && step != 0 && step != last => {
                    tracing::debug!("{error}");
                }
                result => first_error = first_error.and(result),
            }
        }
        first_error
    }

    /// Whether the kernel itself runs STP on the bridge, not a daemon (`BR_USER_STP`).
    async fn runs_kernel_stp(&self, bridge: u32) -> Result<bool, LinkError> {
        let request = LinkUnspec::new_with_index(bridge).build();
        let answer = self.get_link_message(request).await;
        let message = self.named(bridge, "read the STP state of", answer).await?;
        Ok(message.attributes.iter().any(|attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else {
                return false;
            };
            infos.iter().any(|info| {
                let LinkInfo::Data(InfoData::Bridge(attributes)) = info else {
                    return false;
                };
                attributes.contains(&InfoBridge::StpState(BridgeStpState::KernelStp))
            })
        }))
    }
}

/// Gone (ENODEV), down (ENETDOWN), or no bridge's port any more (EINVAL, EOPNOTSUPP).
fn is_lost_port(error: &LinkError) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENETDOWN | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{BridgeAttrs, Dump};

    fn bridge(stp: bool) -> Link {
        Link {
            index: 1,
            name: "br".to_owned(),
            kind: Some("bridge".to_owned()),
            bridge: Some(BridgeAttrs {
                stp,
                forward_delay_ms: 2_000,
                ..BridgeAttrs::default()
            }),
            ..Link::default()
        }
    }

    fn port(index: u32, kind: Option<&str>, state: u8) -> Link {
        Link {
            index,
            name: format!("p{index}"),
            kind: kind.map(str::to_owned),
            controller: Some(1),
            port_state: Some(state),
            ..Link::default()
        }
    }

    fn edge_ports(links: Vec<Link>) -> Vec<u32> {
        let mut dump = Dump::default();
        for link in links {
            dump.links.insert(link.index, link);
        }
        Snapshot::from(dump).edge_ports(1)
    }

    #[test]
    fn waiting_ports_of_guests_are_edge_ports() {
        let ports = edge_ports(vec![
            bridge(true),
            port(2, Some("tun"), port_state::LISTENING),
            port(3, Some("veth"), port_state::LEARNING),
            port(4, Some("tun"), port_state::FORWARDING),
            port(5, Some("tun"), port_state::DISABLED),
        ]);
        assert_eq!(ports, [2, 3]);
    }

    #[test]
    fn what_leads_to_other_switches_waits() {
        let ports = edge_ports(vec![
            bridge(true),
            port(2, None, port_state::LISTENING),
            port(3, Some("vxlan"), port_state::LISTENING),
            port(4, Some("bond"), port_state::LEARNING),
        ]);
        assert!(ports.is_empty(), "{ports:?}");
    }

    #[test]
    fn a_blocked_port_means_a_loop_and_no_edge_ports() {
        let ports = edge_ports(vec![
            bridge(true),
            port(2, Some("tun"), port_state::LISTENING),
            port(3, Some("veth"), port_state::BLOCKING),
        ]);
        assert!(ports.is_empty(), "{ports:?}");
    }

    #[test]
    fn without_stp_nothing_is_done() {
        let ports = edge_ports(vec![
            bridge(false),
            port(2, Some("tun"), port_state::LISTENING),
        ]);
        assert!(ports.is_empty(), "{ports:?}");
    }
}
