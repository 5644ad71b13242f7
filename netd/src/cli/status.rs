//! What only netd has: the plan and the status.

use serde::Serialize;

use crate::api::{HookStatus, KernelStatus, LackStatus, Status};
use crate::cli::args::{PlanArgs, StatusArgs};
use crate::cli::details::details;
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::rpc::Client;

/// What `plan --json` prints.
#[derive(Serialize)]
struct Steps {
    steps: Vec<String>,
}

pub(super) async fn plan(
    client: &mut Client,
    output: &mut Output,
    args: &PlanArgs,
) -> Result<(), Failure> {
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let steps = client
        .plan(network.as_deref())
        .await
        .map_err(|error| Failure::new("Failed to make a plan", &error))?;
    if args.json {
        return output.answer(&Steps { steps });
    }
    if steps.is_empty() {
        output.extra("Nothing to do: the kernel is as the definitions ask.\n");
    }
    for step in steps {
        output.data(format!("{step}\n"));
    }
    Ok(())
}

pub(super) async fn status(
    client: &mut Client,
    output: &mut Output,
    args: &StatusArgs,
) -> Result<(), Failure> {
    let failed = |error| Failure::new("Failed to get the status", &error);
    if let Some(network) = &args.network {
        return details(client, output, network, args.json).await;
    }
    if args.json {
        let json = client.status_json().await.map_err(failed)?;
        output.data(format!("{json}\n"));
        return Ok(());
    }
    let status = client.status().await.map_err(failed)?;
    if args.maps {
        print_maps(&status, output);
    } else {
        print(&status, output);
    }
    Ok(())
}

fn print(status: &Status, output: &mut Output) {
    output.extra(format!("netd {}\n", status.version));
    if let Some(kernel) = &status.kernel {
        print_kernel(kernel, output);
    }
    output.extra("\n");
    print_drops(status, output);
    output.extra("\n");
    print_networks(status, output);
    output.extra("\n");
    print_programs(&status.hooks, output);
}

fn print_drops(status: &Status, output: &mut Output) {
    if status.drops.is_empty() {
        output.extra("No packet was dropped.\n");
        return;
    }
    let mut table = Table::new(&["Dropped because", "Packets", "Bytes", "Meaning"]);
    for drop in &status.drops {
        table.row(&[
            drop.reason.clone(),
            drop.packets.to_string(),
            drop.bytes.to_string(),
            drop.explanation.clone(),
        ]);
    }
    table.print(output);
}

fn print_networks(status: &Status, output: &mut Output) {
    let mut table = Table::new(&[
        "Network", "Mode", "Bridge", "dnsmasq", "IPv4", "IPv6", "Ports",
    ]);
    let mut networks: Vec<_> = status.networks.iter().collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut flows_ipv4, mut flows_ipv6) = (0, 0);
    for network in networks {
        flows_ipv4 += u64::from(network.flows_ipv4);
        flows_ipv6 += u64::from(network.flows_ipv6);
        let dnsmasq = network.dnsmasq.map(|pid| format!("pid {pid}"));
        table.row(&[
            network.name.clone(),
            network.mode.clone(),
            network.bridge.clone(),
            dnsmasq.unwrap_or_else(|| "-".to_owned()),
            network.flows_ipv4.to_string(),
            network.flows_ipv6.to_string(),
            or_dash(network.ports.join(" ")),
        ]);
    }
    table.print(output);
    let max = status.max_flows;
    output.extra(format!(
        "\nTracked connections: IPv4 {flows_ipv4} of {max}, IPv6 {flows_ipv6} of {max}\n"
    ));
}

fn print_programs(hooks: &[HookStatus], output: &mut Output) {
    let mut table = Table::new(&["Device", "Index", "Hook", "Order", "Program", "Id", "Owner"]);
    for hook in hooks {
        for (number, program) in hook.programs.iter().enumerate() {
            table.row(&[
                hook.device.clone(),
                hook.ifindex.to_string(),
                hook.hook.clone(),
                (number + 1).to_string(),
                program.name.clone(),
                program.id.to_string(),
                if program.ours { "netd" } else { "foreign" }.to_owned(),
            ]);
        }
    }
    table.print(output);
}

fn print_maps(status: &Status, output: &mut Output) {
    let mut table = Table::new(&["Map", "Capacity", "Pinned at"]);
    for map in &status.maps {
        table.row(&[
            map.name.clone(),
            map.max_entries.to_string(),
            map.path.clone(),
        ]);
    }
    table.print(output);
}

fn print_kernel(kernel: &KernelStatus, output: &mut Output) {
    let KernelStatus {
        release,
        attach,
        lacks,
    } = kernel;
    output.extra(format!("Linux {release}, programs attached by {attach}\n"));
    for LackStatus { feature, cost } in lacks {
        output.extra(format!("It lacks {feature}: {cost}.\n"));
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DropStatus, HookStatus, MapStatus, NetworkStatus, ProgramStatus};

    #[test]
    fn status_shows_programs_in_order_and_whose_they_are() {
        let program = |id, name: &str, ours| ProgramStatus {
            id,
            name: name.into(),
            ours,
        };
        let status = Status {
            waiting: Vec::new(),
            schema: 1,
            version: "1.2.3".into(),
            max_flows: 1000,
            kernel: None,
            networks: vec![NetworkStatus {
                name: "default".into(),
                mode: "nat".into(),
                bridge: "virbr0".into(),
                ports: vec!["vnet0".into(), "vnet1".into()],
                dnsmasq: None,
                flows_ipv4: 12,
                flows_ipv6: 0,
            }],
            hooks: vec![HookStatus {
                device: "eth0".into(),
                ifindex: 2,
                hook: "tcx ingress".into(),
                programs: vec![
                    program(7, "other", false),
                    program(5, "uplink_ingress", true),
                ],
            }],
            maps: vec![MapStatus {
                name: "flows4".into(),
                path: "/sys/fs/bpf/netd/flows4".into(),
                max_entries: 65536,
            }],
            drops: vec![DropStatus {
                reason: "spoof".into(),
                explanation: "a source that is not the guest's".into(),
                packets: 3,
                bytes: 180,
            }],
        };
        let mut output = Output::new(true);
        print(&status, &mut output);
        assert_eq!(
            output.text(),
            " spoof   3   180   a source that is not the guest's\n \
             default   nat   virbr0   -   12   0   vnet0 vnet1\n \
             eth0   2   tcx ingress   1   other            7   foreign\n \
             eth0   2   tcx ingress   2   uplink_ingress   5   netd\n"
        );
        let mut output = Output::new(false);
        print(&status, &mut output);
        let text = output.text();
        assert!(text.starts_with("netd 1.2.3\n\n Dropped because"), "{text}");
        assert!(text.contains("IPv4 12 of 1000, IPv6 0 of 1000"), "{text}");
        let mut output = Output::new(true);
        print_maps(&status, &mut output);
        assert_eq!(output.text(), " flows4   65536   /sys/fs/bpf/netd/flows4\n");
    }

    #[test]
    fn status_tells_what_the_kernel_lacks() {
        let status = Status {
            version: "1.2.3".into(),
            kernel: Some(KernelStatus {
                release: "6.1.0".into(),
                attach: "clsact".into(),
                lacks: vec![LackStatus {
                    feature: "TCX".into(),
                    cost: "programs are filters".into(),
                }],
            }),
            ..Status::default()
        };
        let mut output = Output::new(false);
        print(&status, &mut output);
        let head = "netd 1.2.3\nLinux 6.1.0, programs attached by clsact\n\
                    It lacks TCX: programs are filters.\n\nNo packet was dropped.\n";
        assert!(output.text().starts_with(head), "{}", output.text());
    }
}
