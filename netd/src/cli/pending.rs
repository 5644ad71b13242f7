//! What a new definition of a running network changes, and when: told to people alone, since programs
//! get what virsh prints.

use std::io::IsTerminal as _;

use crate::cli::output::Output;
use crate::model::{self, FormatOptions};
use crate::plan;
use crate::rpc::Client;
use crate::rpc::procedures::NetworkRef;

/// Tells on a terminal what of a network's definition waits for `netd net-apply`, `netd reload` or its
/// next start.
pub(super) async fn tell(client: &mut Client, output: &mut Output, network: &NetworkRef) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    // A question that fails costs a hint; the definition is stored.
    if let (Ok(stored), Ok(live)) = (
        client.xml(network, true).await,
        client.xml(network, false).await,
    ) {
        for sentence in sentences(&stored, &live) {
            output.extra(format!("{sentence}\n"));
        }
    }
}

/// The differences of the stored definition from the one that a network runs with; none for one that
/// does not run, which the agent gives the stored one for.
fn sentences(stored: &str, live: &str) -> Vec<String> {
    // Written in the same way: what runs is told with devices that a definition leaves out.
    let inactive = FormatOptions {
        inactive: true,
        connections: None,
    };
    let live = model::parse(live).map(|live| model::format(&live, inactive));
    let live = live.and_then(|live| model::parse(&live));
    match (model::parse(stored), live) {
        (Ok(stored), Ok(live)) => plan::pending(&stored, &live),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(inside: &str) -> String {
        format!("<network><name>default</name>{inside}</network>")
    }

    #[test]
    fn what_waits_is_told() {
        let live = network("<ip address='10.0.0.1' prefix='24'/>");
        let stored = network("<mtu size='1400'/><ip address='10.0.1.1' prefix='24'/>");
        assert_eq!(
            sentences(&stored, &live),
            [
                "network 'default': definition changed, applied by 'netd net-apply default' or at next \
                 start: <mtu>, <ip>"
            ]
        );
        assert!(sentences(&stored, &stored).is_empty());
    }

    #[test]
    fn what_only_a_running_network_tells_is_no_change() {
        let with = |pool: &str| {
            network(&format!(
                "<forward mode='passthrough'><pf dev='eth0'/>{pool}</forward>"
            ))
        };
        let live = with("<interface dev='eth1'/>");
        assert!(sentences(&with(""), &live).is_empty());
    }
}
