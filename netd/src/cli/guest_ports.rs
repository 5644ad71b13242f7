//! `netd ports`: who is behind the ports of bridges.

use serde::Serialize;

use crate::api::{GuestPort, PortAddress, PortGuest};
use crate::cli::args::PortsArgs;
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::rpc::Client;

/// What `--json` prints.
#[derive(Serialize)]
struct Listed {
    ports: Vec<GuestPort>,
}

pub(super) async fn ports(
    client: &mut Client,
    output: &mut Output,
    args: &PortsArgs,
) -> Result<(), Failure> {
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let ports = client.guest_ports(network.as_deref()).await;
    let ports = ports.map_err(|error| Failure::new("Failed to list ports", &error))?;
    if args.json {
        return output.answer(&Listed { ports });
    }
    print(&ports, output);
    Ok(())
}

fn print(ports: &[GuestPort], output: &mut Output) {
    let mut table = Table::new(&[
        "Network",
        "Bridge",
        "Port",
        "Link",
        "MAC",
        "Domain",
        "Host name",
        "Seen",
        "Leased",
        "Packets",
        "Dropped",
        "By netd",
    ]);
    // A port at which nobody was seen has its row all the same.
    let nobody = PortGuest::default();
    for port in ports {
        let guests = if port.guests.is_empty() {
            std::slice::from_ref(&nobody)
        } else {
            &port.guests
        };
        for guest in guests {
            let addresses = |is_shown: fn(&PortAddress) -> bool| {
                let shown = guest.addresses.iter().filter(|it| is_shown(it));
                let shown: Vec<String> = shown.map(|it| it.address.to_string()).collect();
                or_dash(&shown.join(" "))
            };
            table.row(&[
                port.network.clone(),
                port.bridge.clone(),
                port.device.clone(),
                port.link.clone(),
                or_dash(&guest.mac),
                or_dash(guest.domain.as_deref().unwrap_or_default()),
                or_dash(guest.hostname.as_deref().unwrap_or_default()),
                addresses(|it| it.seen.is_some()),
                addresses(|it| it.lease.is_some()),
                format!("{}/{}", port.sent.packets, port.received.packets),
                format!("{}/{}", port.sent.dropped, port.received.dropped),
                port.recent_drops.to_string(),
            ]);
        }
    }
    table.print(output);
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Carried;

    #[test]
    fn whoever_is_behind_a_port_has_a_row() {
        let address = |address: &str, lease, seen| PortAddress {
            address: address.parse().unwrap(),
            lease,
            seen,
        };
        let carried = |packets, dropped| Carried {
            packets,
            bytes: 0,
            dropped,
        };
        let port = GuestPort {
            network: "default".to_owned(),
            bridge: "virbr0".to_owned(),
            device: "vnet0".to_owned(),
            ifindex: 7,
            link: "forwarding".to_owned(),
            isolated: false,
            guests: vec![
                PortGuest {
                    mac: "52:54:00:00:00:01".to_owned(),
                    domain: Some("vm-web".to_owned()),
                    hostname: Some("web".to_owned()),
                    addresses: vec![
                        address("10.0.0.2", Some(0), Some(3)),
                        address("fd00::2", None, Some(3)),
                        address("10.0.0.3", Some(1), None),
                        address("10.0.0.4", None, None),
                    ],
                },
                PortGuest {
                    mac: "52:54:00:00:00:02".to_owned(),
                    ..PortGuest::default()
                },
            ],
            sent: carried(10, 1),
            received: carried(20, 2),
            recent_drops: 3,
        };
        let empty = GuestPort {
            device: "vnet1".to_owned(),
            link: "down".to_owned(),
            guests: Vec::new(),
            ..port.clone()
        };
        let mut output = Output::new(true);
        print(&[port, empty], &mut output);
        let rows: Vec<Vec<&str>> = output
            .text()
            .lines()
            .map(|line| {
                line.trim()
                    .split("   ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        let wanted = [
            "default virbr0 vnet0 forwarding 52:54:00:00:00:01 vm-web web 10.0.0.2+fd00::2 10.0.0.2+10.0.0.3 10/20 1/2 3",
            "default virbr0 vnet0 forwarding 52:54:00:00:00:02 - - - - 10/20 1/2 3",
            "default virbr0 vnet1 down - - - - - 10/20 1/2 3",
        ];
        for (row, wanted) in rows.iter().zip(wanted) {
            assert_eq!(row.join("|").replace(' ', "+").replace('|', " "), wanted);
        }
        assert_eq!(rows.len(), wanted.len());
    }
}
