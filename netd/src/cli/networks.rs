//! virsh's verbs on networks.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use uuid::Uuid;

use crate::api::{ErrorCode, WaitingNetwork};
use crate::cli::args::{AutostartArgs, DumpxmlArgs, FileArgs, InfoArgs, LeasesArgs, ListArgs};
use crate::cli::output::{Failure, Output};
use crate::cli::pending;
use crate::cli::table::Table;
use crate::model;
use crate::rpc::procedures::{
    LEASE_IPV4, LIST_ACTIVE, LIST_AUTOSTART, LIST_INACTIVE, LIST_NO_AUTOSTART, LIST_PERSISTENT,
    LIST_TRANSIENT, LeaseRecord, NetworkRef,
};
use crate::rpc::xdr::STRING_MAX;
use crate::rpc::{Client, ClientError};

/// Result of a verb.
type Result = std::result::Result<(), Failure>;

/// The network a user names by name or UUID. Like virsh: what looks like a UUID and is none of a
/// network may still be a name.
pub(super) async fn find(
    client: &mut Client,
    network: &str,
) -> std::result::Result<NetworkRef, Failure> {
    if let Some(uuid) = as_uuid(network) {
        match client.by_uuid(uuid).await {
            Err(ClientError::Remote(_)) => {}
            other => return other.map_err(|error| not_found(network, &error)),
        }
    }
    let found = client.by_name(network).await;
    found.map_err(|error| not_found(network, &error))
}

fn not_found(network: &str, error: &ClientError) -> Failure {
    Failure::new(format!("failed to get network '{network}'"), error)
}

fn as_uuid(text: &str) -> Option<Uuid> {
    let looks_like_one = text.len() == 36;
    looks_like_one.then(|| Uuid::try_parse(text).ok()).flatten()
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub(super) async fn list(client: &mut Client, output: &mut Output, args: &ListArgs) -> Result {
    if [args.table, args.name, args.uuid]
        .iter()
        .filter(|x| **x)
        .count()
        > 1
    {
        return Err("Only one argument from --table, --name and --uuid may be specified.".into());
    }
    let mut flags = if args.inactive {
        LIST_INACTIVE
    } else {
        LIST_ACTIVE
    };
    if args.all {
        flags = LIST_INACTIVE | LIST_ACTIVE;
    }
    for (wanted, flag) in [
        (args.persistent, LIST_PERSISTENT),
        (args.transient, LIST_TRANSIENT),
        (args.autostart, LIST_AUTOSTART),
        (args.no_autostart, LIST_NO_AUTOSTART),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let failed = |error| Failure::new("Failed to list networks", &error);
    let mut networks = client.list(flags).await.map_err(failed)?;
    networks.sort_by_cached_key(|network| network.name.to_ascii_lowercase());
    if args.name || args.uuid {
        for network in networks {
            if args.name {
                output.data(format!("{}\n", network.name));
            } else {
                output.data(format!("{}\n", network.uuid));
            }
        }
        return Ok(());
    }
    if args.json {
        return list_json(client, output, networks).await;
    }
    let mut table = Table::new(&["Name", "State", "Autostart", "Persistent"]);
    let mut may_wait = false;
    for network in networks {
        match row(client, &network).await {
            Ok([active, autostart, persistent]) => {
                may_wait |= autostart && !active;
                table.row(&[
                    network.name.as_str(),
                    if active { "active" } else { "inactive" },
                    yes_no(autostart),
                    yes_no(persistent),
                ]);
            }
            // It went away since the list was made.
            Err(ClientError::Remote(error)) if error.code == ErrorCode::NoNetwork as i32 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    table.print(output);
    if may_wait {
        for waiting in waiting(client).await {
            output.extra(format!(
                "{} waits to start: {}\n",
                waiting.name, waiting.reason
            ));
        }
    }
    Ok(())
}

async fn list_json(client: &mut Client, output: &mut Output, networks: Vec<NetworkRef>) -> Result {
    let waiting = waiting(client).await;
    let mut listed = Vec::new();
    for network in networks {
        match told(client, &network, &waiting).await {
            Ok(told) => listed.push(told),
            // It went away since the list was made.
            Err(ClientError::Remote(error)) if error.code == ErrorCode::NoNetwork as i32 => {}
            Err(error) => return Err(Failure::new("Failed to list networks", &error)),
        }
    }
    output.answer(&Listed { networks: listed })
}

/// What `net-list --json` prints.
#[derive(Serialize)]
struct Listed {
    networks: Vec<Told>,
}

/// A network as `net-list --json` and `net-info --json` print it.
#[derive(Serialize)]
struct Told {
    name: String,
    uuid: Uuid,
    active: bool,
    persistent: bool,
    autostart: bool,
    bridge: Option<String>,
    /// What keeps it from starting.
    waits: Option<String>,
}

async fn told(
    client: &mut Client,
    network: &NetworkRef,
    waiting: &[WaitingNetwork],
) -> std::result::Result<Told, ClientError> {
    let [active, autostart, persistent] = row(client, network).await?;
    let bridge = match client.bridge(network).await {
        Ok(bridge) => Some(bridge),
        // It has none.
        Err(ClientError::Remote(_)) => None,
        Err(error) => return Err(error),
    };
    let waits = waiting.iter().find(|other| other.uuid == network.uuid);
    let waits = waits.filter(|_| autostart && !active);
    Ok(Told {
        name: network.name.clone(),
        uuid: network.uuid,
        active,
        persistent,
        autostart,
        bridge,
        waits: waits.map(|waits| waits.reason.clone()),
    })
}

/// The networks that could not start with the agent. An agent of another version may not tell.
async fn waiting(client: &mut Client) -> Vec<WaitingNetwork> {
    let status = client.status().await;
    status.map(|status| status.waiting).unwrap_or_default()
}

async fn row(
    client: &mut Client,
    network: &NetworkRef,
) -> std::result::Result<[bool; 3], ClientError> {
    Ok([
        client.is_active(network).await?,
        client.autostart(network).await?,
        client.is_persistent(network).await?,
    ])
}

pub(super) async fn info(client: &mut Client, output: &mut Output, args: &InfoArgs) -> Result {
    let network = find(client, &args.network).await?;
    let failed = |error| Failure::new(format!("failed to get network '{}'", network.name), &error);
    let waiting = waiting(client).await;
    let told = told(client, &network, &waiting).await.map_err(failed)?;
    if args.json {
        return output.answer(&told);
    }
    let mut line = |label: &str, value: &str| output.data(format!("{label:<15} {value}\n"));
    line("Name:", &told.name);
    line("UUID:", &told.uuid.to_string());
    line("Active:", yes_no(told.active));
    line("Persistent:", yes_no(told.persistent));
    line("Autostart:", yes_no(told.autostart));
    if let Some(bridge) = told.bridge {
        line("Bridge:", &bridge);
    }
    if let Some(reason) = told.waits {
        line("Waits to start:", &reason);
    }
    Ok(())
}

/// The text of FILE, "-" being standard input; no network needs more than one string of the protocol holds.
pub(super) fn read_xml(file: &Path) -> std::result::Result<String, Failure> {
    let name = file.display();
    let mut bytes = Vec::new();
    let limit = STRING_MAX as u64 + 1;
    let result = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        let opened = std::fs::File::open(file).map_err(|error| {
            Failure::from(format!("Failed to open file '{name}': {}", plain(&error)))
        })?;
        opened.take(limit).read_to_end(&mut bytes)
    };
    result.map_err(|error| format!("Failed to read file '{name}': {}", plain(&error)))?;
    if bytes.len() > STRING_MAX {
        return Err(
            format!("Failed to read file '{name}': it has more than {STRING_MAX} bytes").into(),
        );
    }
    let text = model::decode(&bytes);
    text.map_err(|why| Failure::from(format!("Failed to read file '{name}': {why}")))
}

/// The words of the C library, without Rust's "(os error 2)".
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Tells of what a definition holds that nobody knows, since the agent takes it without that.
pub(super) fn warn_of_unknown(output: &Output, xml: &str) {
    if output.is_quiet() {
        return;
    }
    // What cannot be read the agent has refused.
    let unknown = model::parse_whole(xml).map(|parsed| parsed.unknown);
    for piece in unknown.unwrap_or_default() {
        eprintln!("warning: ignored, {piece}");
    }
}

pub(super) async fn define(client: &mut Client, output: &mut Output, args: &FileArgs) -> Result {
    let xml = read_xml(&args.file)?;
    let file = args.file.display();
    match client.define(&xml, args.validate).await {
        Ok(network) => {
            warn_of_unknown(output, &xml);
            output.extra(format!("Network {} defined from {file}\n", network.name));
            pending::tell(client, output, &network).await;
        }
        Err(error) => {
            return Err(Failure::new(
                format!("Failed to define network from {file}"),
                &error,
            ));
        }
    }
    Ok(())
}

pub(super) async fn create(client: &mut Client, output: &mut Output, args: &FileArgs) -> Result {
    let xml = read_xml(&args.file)?;
    let file = args.file.display();
    match client.create(&xml, args.validate).await {
        Ok(network) => {
            warn_of_unknown(output, &xml);
            output.extra(format!("Network {} created from {file}\n", network.name));
        }
        Err(error) => {
            return Err(Failure::new(
                format!("Failed to create network from {file}"),
                &error,
            ));
        }
    }
    Ok(())
}

pub(super) async fn undefine(client: &mut Client, output: &mut Output, network: &str) -> Result {
    let found = find(client, network).await?;
    client
        .undefine(&found)
        .await
        .map_err(|error| Failure::new(format!("Failed to undefine network {network}"), &error))?;
    output.extra(format!("Network {network} has been undefined\n"));
    Ok(())
}

pub(super) async fn start(client: &mut Client, output: &mut Output, network: &str) -> Result {
    let found = find(client, network).await?;
    client
        .start(&found)
        .await
        .map_err(|error| Failure::new(format!("Failed to start network {network}"), &error))?;
    output.extra(format!("Network {network} started\n"));
    Ok(())
}

pub(super) async fn destroy(client: &mut Client, output: &mut Output, network: &str) -> Result {
    let found = find(client, network).await?;
    client
        .destroy(&found)
        .await
        .map_err(|error| Failure::new(format!("Failed to destroy network {network}"), &error))?;
    output.extra(format!("Network {network} destroyed\n"));
    Ok(())
}

pub(super) async fn autostart(
    client: &mut Client,
    output: &mut Output,
    args: &AutostartArgs,
) -> Result {
    let network = &args.network;
    let mark = if args.disable { "unmark" } else { "mark" };
    let found = find(client, network).await?;
    client
        .set_autostart(&found, !args.disable)
        .await
        .map_err(|error| {
            Failure::new(
                format!("failed to {mark} network {network} as autostarted"),
                &error,
            )
        })?;
    output.extra(format!("Network {network} {mark}ed as autostarted\n"));
    Ok(())
}

pub(super) async fn dumpxml(
    client: &mut Client,
    output: &mut Output,
    args: &DumpxmlArgs,
) -> Result {
    let network = find(client, &args.network).await?;
    match client.xml(&network, args.inactive).await {
        Ok(xml) => output.data(xml),
        Err(error) => return Err(Failure::from(error.to_string())),
    }
    Ok(())
}

pub(super) async fn leases(client: &mut Client, output: &mut Output, args: &LeasesArgs) -> Result {
    let network = find(client, &args.network).await?;
    let mut leases = client
        .leases(&network, args.mac.as_deref())
        .await
        .map_err(|error| {
            Failure::new(
                format!("Failed to get leases info for {}", args.network),
                &error,
            )
        })?;
    leases.sort_by(|a, b| a.mac.cmp(&b.mac));
    if args.json {
        let leases = leases.iter().map(ToldLease::new).collect();
        return output.answer(&Leases { leases });
    }
    let mut table = Table::new(&[
        "Expiry Time",
        "MAC address",
        "Protocol",
        "IP address",
        "Hostname",
        "Client ID or DUID",
    ]);
    let zone = TimeZone::system();
    for lease in leases {
        table.row(&lease_row(&lease, &zone));
    }
    table.print(output);
    Ok(())
}

/// What `net-dhcp-leases --json` prints.
#[derive(Serialize)]
struct Leases<'a> {
    leases: Vec<ToldLease<'a>>,
}

/// A lease in it.
#[derive(Serialize)]
struct ToldLease<'a> {
    expiry: i64,
    mac: Option<&'a str>,
    iaid: Option<&'a str>,
    address: &'a str,
    prefix: u32,
    hostname: Option<&'a str>,
    client_id: Option<&'a str>,
}

impl<'a> ToldLease<'a> {
    fn new(lease: &'a LeaseRecord) -> Self {
        Self {
            expiry: lease.expiry,
            mac: lease.mac.as_deref(),
            iaid: lease.iaid.as_deref(),
            address: &lease.ip,
            prefix: lease.prefix,
            hostname: lease.hostname.as_deref(),
            client_id: lease.client_id.as_deref(),
        }
    }
}

fn lease_row(lease: &LeaseRecord, zone: &TimeZone) -> [String; 6] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let expiry = match Timestamp::from_second(lease.expiry) {
        Ok(time) => time
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => lease.expiry.to_string(),
    };
    let protocol = if lease.family == LEASE_IPV4 {
        "ipv4"
    } else {
        "ipv6"
    };
    [
        expiry,
        or_dash(&lease.mac),
        protocol.to_owned(),
        format!("{}/{}", lease.ip, lease.prefix),
        or_dash(&lease.hostname),
        or_dash(&lease.client_id),
    ]
}

pub(super) async fn uuid(client: &mut Client, output: &mut Output, network: &str) -> Result {
    let network = find(client, network).await?;
    output.data(format!("{}\n", network.uuid));
    Ok(())
}

pub(super) async fn name(client: &mut Client, output: &mut Output, network: &str) -> Result {
    let Some(uuid) = as_uuid(network) else {
        return Err(format!("failed to get network '{network}'").into());
    };
    let network = client
        .by_uuid(uuid)
        .await
        .map_err(|error| not_found(network, &error))?;
    output.data(format!("{}\n", network.name));
    Ok(())
}
