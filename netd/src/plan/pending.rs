//! What a definition says and its running network does not do yet.

use crate::model::Network;

/// A sentence for each way in which a changed definition takes effect; none where the network runs
/// as it is defined.
#[must_use]
pub fn pending(config: &Network, live: &Network) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut say = |when: &str, elements: &[&str]| {
        if !elements.is_empty() {
            sentences.push(format!(
                "network '{}': definition changed, applied {when}: {}",
                live.name.escape_debug(),
                elements.join(", ")
            ));
        }
    };
    let adoptable = (config.netd != live.netd).then_some("<metadata>");
    say("by 'netd reload' or at next start", adoptable.as_slice());
    say("at next start", &changed(config, live));
    sentences
}

/// The elements, by name, that differ and wait for the next start.
fn changed(config: &Network, live: &Network) -> Vec<&'static str> {
    // The same ports for translation may be given or implied.
    let (config, live) = (&config.as_running(), &live.as_running());
    let elements = [
        ("ipv6='yes'", config.ipv6 != live.ipv6),
        ("<forward>", config.forward != live.forward),
        ("<bridge>", config.bridge != live.bridge),
        ("<mac>", config.mac != live.mac),
        ("<mtu>", config.mtu != live.mtu),
        ("<domain>", config.domain != live.domain),
        ("<dns>", config.dns != live.dns),
        ("<vlan>", config.vlan != live.vlan),
        ("<bandwidth>", config.bandwidth != live.bandwidth),
        ("<port>", config.port_isolated != live.port_isolated),
        ("<ip>", config.ips != live.ips),
        ("<route>", config.routes != live.routes),
        ("<virtualport>", config.virtualport != live.virtualport),
        ("<portgroup>", config.portgroups != live.portgroups),
        (
            "<dnsmasq:options>",
            config.dnsmasq_options != live.dnsmasq_options,
        ),
    ];
    let changed = elements.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn network(inside: &str) -> Network {
        parse(&format!(
            "<network><name>default</name>\
             <uuid>00000000-0000-0000-0000-000000000001</uuid>{inside}</network>"
        ))
        .unwrap()
    }

    #[test]
    fn what_waits_is_named_by_its_elements() {
        let live = network("<bridge name='br' stp='on' delay='0'/><ip address='10.0.0.1'/>");
        assert!(pending(&live, &live).is_empty());
        let config = network(
            "<bridge name='br' stp='off' delay='0'/><port isolated='yes'/>\
             <ip address='10.0.9.1'/>",
        );
        assert_eq!(
            pending(&config, &live),
            [
                "network 'default': definition changed, applied at next start: <bridge>, <port>, <ip>"
            ]
        );
        let config = network(
            "<metadata><n:host xmlns:n='urn:netd:network:1' access='none'/></metadata>\
             <bridge name='br' stp='on' delay='0'/><ip address='10.0.0.1'/>",
        );
        let said = pending(&config, &live);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("by 'netd reload' or at next start: <metadata>"));
    }
}
