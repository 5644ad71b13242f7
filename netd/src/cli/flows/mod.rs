//! Connections: `netd flows` and `netd flows kill`.

mod follow;
mod told;

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::api::{Flow, FlowFilter, FlowKill, FlowNames, GuestAddress, SCHEMA};
use crate::cli::args::{FlowFilterArgs, FlowSort, FlowsArgs, FlowsCommand, FlowsKillArgs};
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::rpc::{Client, ClientError};
use told::{HEADINGS, Names, Told};

/// Result of a verb.
type Result<T = ()> = std::result::Result<T, Failure>;

/// How many are listed in an order, unless somebody says otherwise.
const SORTED: usize = 100;

pub(super) async fn flows(client: &mut Client, output: &mut Output, args: &FlowsArgs) -> Result {
    if let Some(FlowsCommand::Kill(args)) = &args.command {
        return kill(client, output, args).await;
    }
    let filter = filter(client, &args.which).await?;
    if args.follow {
        return follow::follow(client, output, &filter, args.json).await;
    }
    let names = Names::from(client.flow_names().await.map_err(failed)?);
    let limit = args.limit.map(|limit| limit as usize);
    let mut printer = Printer::new(args.json, output);
    match args.sort {
        None => list(client, output, &filter, limit, &names, &mut printer).await?,
        Some(key) => {
            let limit = limit.unwrap_or(SORTED);
            let flows = sorted(client, &filter, key, limit).await?;
            printer.print(&flows, &names, output)?;
        }
    }
    printer.end(output);
    Ok(())
}

/// Print them piece by piece: there may be millions.
async fn list(
    client: &mut Client,
    output: &mut Output,
    filter: &FlowFilter,
    limit: Option<usize>,
    names: &Names,
    printer: &mut Printer,
) -> Result {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut pieces = client.flows(filter).await.map_err(failed)?;
    while let Some(mut flows) = pieces.next().await.map_err(failed)? {
        flows.truncate(left);
        left -= flows.len();
        printer.print(&flows, names, output)?;
        if left == 0 || !output.flush_to_reader()? {
            break;
        }
    }
    Ok(())
}

/// The first ones in an order, of which never many more are held.
async fn sorted(
    client: &mut Client,
    filter: &FlowFilter,
    key: FlowSort,
    limit: usize,
) -> Result<Vec<Flow>> {
    let mut best: Vec<Flow> = Vec::new();
    let mut pieces = client.flows(filter).await.map_err(failed)?;
    while let Some(flows) = pieces.next().await.map_err(failed)? {
        best.extend(flows);
        best.sort_by_key(|flow| match key {
            FlowSort::Packets => Reverse(flow.sent.packets.saturating_add(flow.received.packets)),
            FlowSort::Bytes => Reverse(flow.sent.bytes.saturating_add(flow.received.bytes)),
            FlowSort::Idle => Reverse(u64::from(u32::MAX - flow.idle)),
        });
        best.truncate(limit);
    }
    Ok(best)
}

async fn kill(client: &mut Client, output: &mut Output, args: &FlowsKillArgs) -> Result {
    let which = match args.all {
        true => FlowKill::All,
        false => FlowKill::Matching(filter(client, &args.which).await?),
    };
    let killed = client.kill_flows(&which).await;
    let killed = killed.map_err(|error| Failure::new("Failed to end connections", &error))?;
    output.extra(match killed {
        0 => "There is no such connection.\n".to_owned(),
        1 => "Ended 1 connection.\n".to_owned(),
        more => format!("Ended {more} connections.\n"),
    });
    Ok(())
}

fn failed(error: ClientError) -> Failure {
    Failure::new("Failed to list connections", &error)
}

/// What an administrator means, as the agent takes it.
async fn filter(client: &mut Client, args: &FlowFilterArgs) -> Result<FlowFilter> {
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let guests = match &args.guest {
        None => Vec::new(),
        Some(guest) => match guest.parse() {
            Ok(address) => vec![address],
            Err(_) => addresses(&client.flow_names().await.map_err(failed)?, guest)?,
        },
    };
    Ok(FlowFilter {
        network,
        guests,
        protocol: args.proto.map(|protocol| protocol.0),
        port: args.port,
        address: args.address,
    })
}

/// The addresses of a guest that goes by a name of some kind.
fn addresses(names: &FlowNames, guest: &str) -> Result<Vec<IpAddr>> {
    let is_name = |name: &Option<String>| {
        name.as_deref()
            .is_some_and(|it| it.eq_ignore_ascii_case(guest))
    };
    let is_meant = |known: &&GuestAddress| {
        let device = known.seen_at.and_then(|at| names.devices.get(&at));
        [&known.domain, &known.hostname, &known.mac]
            .into_iter()
            .any(is_name)
            || device.is_some_and(|device| device == guest)
    };
    let found = names.guests.iter().filter(is_meant);
    let found: Vec<IpAddr> = found.map(|known| known.address).collect();
    if found.is_empty() {
        return Err(format!(
            "no address of a guest '{guest}' is known: neither a lease nor a definition nor a domain's \
             interface says one; give its address"
        )
        .into());
    }
    Ok(found)
}

/// A list in the making: a table, or JSON.
enum Printer {
    Table(Table),
    Json {
        /// Is one printed already?
        any: bool,
    },
}

impl Printer {
    fn new(json: bool, output: &mut Output) -> Self {
        if !json {
            return Self::Table(Table::new(&HEADINGS));
        }
        output.data(format!("{{\"schema\":{SCHEMA},\"flows\":["));
        Self::Json { any: false }
    }

    fn print(&mut self, flows: &[Flow], names: &Names, output: &mut Output) -> Result {
        match self {
            Self::Table(table) => {
                for flow in flows {
                    table.row_of(Told::new(flow, names).cells());
                }
                table.print_on(output);
            }
            Self::Json { any } => {
                for flow in flows {
                    if std::mem::replace(any, true) {
                        output.data(",\n");
                    }
                    output.json(&Told::new(flow, names))?;
                }
            }
        }
        Ok(())
    }

    fn end(self, output: &mut Output) {
        if matches!(self, Self::Json { .. }) {
            output.data("]}\n");
        }
    }
}

#[cfg(test)]
mod tests;
