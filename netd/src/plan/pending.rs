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
    let name = live.name.escape_debug();
    let adoptable = [
        ("<metadata>", config.netd != live.netd),
        ("<bandwidth>", config.bandwidth != live.bandwidth),
    ];
    let adoptable = adoptable.into_iter().filter(|(_, differs)| *differs);
    let adoptable: Vec<&str> = adoptable.map(|(name, _)| name).collect();
    say("by 'netd reload' or at next start", &adoptable);
    let when = match needs_new_bridge(config, live).is_empty() {
        true => format!("by 'netd net-apply {name}' or at next start"),
        false => "at next start".to_owned(),
    };
    say(&when, &changed(config, live));
    sentences
}

/// What differs, by name, that an active network cannot change: its guests' ports would have to go to
/// another bridge, or its guests know the bridge by it.
#[must_use]
pub fn needs_new_bridge(config: &Network, live: &Network) -> Vec<&'static str> {
    if config.is_managed() != live.is_managed() {
        return vec!["<forward mode>"];
    }
    if !live.is_managed() {
        return Vec::new();
    }
    let elements = [
        ("<bridge name>", config.bridge.name != live.bridge.name),
        ("<mac>", config.mac != live.mac),
    ];
    let changed = elements.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(name, _)| name).collect()
}

/// The elements, by name, that differ, but for metadata.
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
                "network 'default': definition changed, applied by 'netd net-apply default' or at next \
                 start: <bridge>, <port>, <ip>"
            ]
        );
        let config = network("<bridge name='other' stp='on' delay='0'/><ip address='10.0.0.1'/>");
        assert_eq!(
            pending(&config, &live),
            ["network 'default': definition changed, applied at next start: <bridge>"]
        );
        let config = network(
            "<metadata><n:host xmlns:n='urn:netd:network:1' access='none'/></metadata>\
             <bridge name='br' stp='on' delay='0'/><ip address='10.0.0.1'/>",
        );
        let said = pending(&config, &live);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("by 'netd reload' or at next start: <metadata>"));
        let config = network(
            "<bandwidth><inbound average='5'/></bandwidth><bridge name='br' stp='on' delay='0'/>\
             <ip address='10.0.0.1'/>",
        );
        let said = pending(&config, &live);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("by 'netd reload' or at next start: <bandwidth>"));
    }
}
