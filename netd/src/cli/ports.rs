//! virsh's verbs on networks' ports.

use serde::Serialize;
use uuid::Uuid;

use crate::cli::args::{PortArgs, PortCreateArgs, PortListArgs};
use crate::cli::networks::{find, read_xml};
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::rpc::Client;
use crate::rpc::procedures::PortRef;

/// Result of a verb.
type Result<T = ()> = std::result::Result<T, Failure>;

/// What `net-port-list --json` prints.
#[derive(Serialize)]
struct Listed {
    ports: Vec<Uuid>,
}

pub(super) async fn list(client: &mut Client, output: &mut Output, args: &PortListArgs) -> Result {
    if args.uuid && args.table {
        return Err("Only one argument from --table and --uuid may be specified.".into());
    }
    let network = find(client, &args.network).await?;
    let ports = client.ports(&network).await;
    let mut ports = ports.map_err(|error| Failure::from(error.to_string()))?;
    ports.sort_by_key(|port| port.uuid);
    if args.uuid {
        for port in ports {
            output.data(format!("{}\n", port.uuid));
        }
        return Ok(());
    }
    if args.json {
        let uuids = ports.iter().map(|port| port.uuid).collect();
        return output.answer(&Listed { ports: uuids });
    }
    let mut table = Table::new(&["UUID"]);
    for port in ports {
        table.row(&[port.uuid.to_string()]);
    }
    table.print(output);
    Ok(())
}

/// The port that a user names.
async fn find_port(client: &mut Client, args: &PortArgs) -> Result<PortRef> {
    let network = find(client, &args.network).await?;
    let failed = format!("failed to get network port '{}'", args.port);
    let Ok(uuid) = Uuid::try_parse(&args.port) else {
        return Err(failed.into());
    };
    let found = client.port(&network, uuid).await;
    found.map_err(|error| Failure::new(failed, &error))
}

pub(super) async fn dumpxml(client: &mut Client, output: &mut Output, args: &PortArgs) -> Result {
    let port = find_port(client, args).await?;
    match client.port_xml(port).await {
        Ok(xml) => output.data(xml),
        Err(error) => return Err(Failure::from(error.to_string())),
    }
    Ok(())
}

pub(super) async fn create(
    client: &mut Client,
    output: &mut Output,
    args: &PortCreateArgs,
) -> Result {
    let network = find(client, &args.network).await?;
    let xml = read_xml(&args.file)?;
    let file = args.file.display();
    let created = client.create_port(&network, &xml, args.validate).await;
    let port = created
        .map_err(|error| Failure::new(format!("Failed to create network from {file}"), &error))?;
    output.extra(format!("Network port {} created from {file}\n", port.uuid));
    Ok(())
}

pub(super) async fn delete(client: &mut Client, output: &mut Output, args: &PortArgs) -> Result {
    let port = find_port(client, args).await?;
    let uuid = port.uuid;
    client
        .delete_port(port)
        .await
        .map_err(|error| Failure::new(format!("Failed to delete network port {uuid}"), &error))?;
    output.extra(format!("Network port {uuid} deleted\n"));
    Ok(())
}
