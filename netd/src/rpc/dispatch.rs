//! Calls about networks: arguments in, the driver asked, results out.

mod flows;
mod ports;

use bytes::Bytes;
use netd_common::abi::BANS;
use serde::Serialize;

use crate::api::{
    Affect, ApiError, Driver, ErrorCode, Metadata, NetworkInfo, NewMetadata, Unknown,
};
use crate::model::{Section, Update, UpdateCommand};
use crate::rpc::answer::{
    Answer, arguments, from_json, not_supported, only_flags, result, to_json,
};
use crate::rpc::procedures::{
    AFFECT_CONFIG, AFFECT_LIVE, Access, AutostartArgs, GUEST_PORTS_MAX, GetMetadataArgs,
    LEASES_MAX, LIST_ACTIVE, LIST_ALL_FLAGS, LIST_AUTOSTART, LIST_INACTIVE, LIST_NO_AUTOSTART,
    LIST_PERSISTENT, LIST_TRANSIENT, LeaseRecord, LeasesArgs, LeasesReply, ListArgs, ListReply,
    METADATA_DESCRIPTION, METADATA_ELEMENT, METADATA_TITLE, NETWORKS_MAX, NetdProcedure,
    NetworkRef, Procedure, SetMetadataArgs, UpdateArgs, XML_INACTIVE, XML_VALIDATE, XmlArgs,
    XmlDescArgs,
};
use crate::rpc::remote_error::RemoteError;
use crate::rpc::xdr::{self, List};

/// Longest namespace of a metadata element in a call, in bytes.
const NAMESPACE_MAX: usize = 4096;

/// Most steps in a plan.
pub const PLAN_MAX: usize = 65_536;

/// Answers a call about networks.
pub(super) async fn network<D: Driver>(driver: &D, procedure: Procedure, payload: Bytes) -> Answer {
    let arguments = payload.clone();
    let answer = match procedure.access() {
        Access::Read => look(driver, procedure, payload).await,
        Access::Write => change(driver, procedure, payload).await,
    };
    answer.map_err(|error| match procedure {
        Procedure::NetworkLookupByName | Procedure::NetworkLookupByUuid => error,
        _ => with_name(error, arguments),
    })
}

/// A network that is not there was named by its UUID, and the client told its name, too.
fn with_name(error: RemoteError, arguments: Bytes) -> RemoteError {
    match xdr::from_bytes::<NetworkRef>(arguments) {
        Ok(network) if error.code == ErrorCode::NoNetwork as i32 => {
            error.append(&format!(" ({})", network.name))
        }
        _ => error,
    }
}

/// Answers a call that changes nothing.
async fn look<D: Driver>(driver: &D, procedure: Procedure, payload: Bytes) -> Answer {
    match procedure {
        Procedure::NumOfNetworks => count(driver, LIST_ACTIVE).await,
        Procedure::NumOfDefinedNetworks => count(driver, LIST_INACTIVE).await,
        Procedure::ListNetworks => names(driver, LIST_ACTIVE, arguments(payload)?).await,
        Procedure::ListDefinedNetworks => names(driver, LIST_INACTIVE, arguments(payload)?).await,
        Procedure::ListAllNetworks => list_all(driver, arguments(payload)?).await,
        Procedure::NetworkLookupByName => {
            let name: String = arguments(payload)?;
            result(&NetworkRef::from(driver.by_name(&name).await?))
        }
        Procedure::NetworkLookupByUuid => result(&NetworkRef::from(
            driver.by_uuid(arguments(payload)?).await?,
        )),
        Procedure::NetworkGetXmlDesc => {
            let XmlDescArgs { network, flags } = arguments(payload)?;
            only_flags(flags, XML_INACTIVE, "networkGetXMLDesc")?;
            let inactive = flags & XML_INACTIVE != 0;
            result(&driver.xml(network.uuid, inactive).await?)
        }
        Procedure::NetworkGetAutostart => {
            result(&i32::from(info(driver, payload).await?.autostart))
        }
        Procedure::NetworkIsActive => result(&i32::from(info(driver, payload).await?.active)),
        Procedure::NetworkIsPersistent => {
            result(&i32::from(info(driver, payload).await?.persistent))
        }
        Procedure::NetworkGetBridgeName => {
            let network = info(driver, payload).await?;
            let bridge = network.bridge.ok_or_else(|| {
                ApiError::internal(format!(
                    "network '{}' does not have a bridge name.",
                    network.name
                ))
            })?;
            result(&bridge)
        }
        Procedure::NetworkGetDhcpLeases => leases(driver, arguments(payload)?).await,
        Procedure::NetworkGetMetadata => {
            let GetMetadataArgs {
                network,
                kind,
                uri,
                flags,
            } = arguments(payload)?;
            let affect = affect(flags, "virNetworkObjGetMetadata")?;
            let what = metadata(kind, uri)?;
            result(&driver.metadata(network.uuid, &what, affect).await?)
        }
        other => ports::look(driver, other, payload).await,
    }
}

/// Answers a call that changes something. Only those whose declaration says so get here.
async fn change<D: Driver>(driver: &D, procedure: Procedure, payload: Bytes) -> Answer {
    match procedure {
        Procedure::NetworkDefineXml => {
            let xml: String = arguments(payload)?;
            result(&NetworkRef::from(
                driver.define(&xml, Unknown::Ignore).await?,
            ))
        }
        Procedure::NetworkDefineXmlFlags => {
            let XmlArgs { xml, flags } = arguments(payload)?;
            let unknown = unknown(flags, "networkDefineXMLFlags")?;
            result(&NetworkRef::from(driver.define(&xml, unknown).await?))
        }
        Procedure::NetworkCreateXml => {
            let xml: String = arguments(payload)?;
            result(&NetworkRef::from(
                driver.create(&xml, Unknown::Ignore).await?,
            ))
        }
        Procedure::NetworkCreateXmlFlags => {
            let XmlArgs { xml, flags } = arguments(payload)?;
            let unknown = unknown(flags, "networkCreateXMLFlags")?;
            result(&NetworkRef::from(driver.create(&xml, unknown).await?))
        }
        Procedure::NetworkCreate => {
            let network: NetworkRef = arguments(payload)?;
            result(&driver.start(network.uuid).await?)
        }
        Procedure::NetworkDestroy => {
            let network: NetworkRef = arguments(payload)?;
            result(&driver.destroy(network.uuid).await?)
        }
        Procedure::NetworkUndefine => {
            let network: NetworkRef = arguments(payload)?;
            result(&driver.undefine(network.uuid).await?)
        }
        Procedure::NetworkSetAutostart => {
            let AutostartArgs { network, autostart } = arguments(payload)?;
            result(&driver.set_autostart(network.uuid, autostart != 0).await?)
        }
        Procedure::NetworkUpdate => update(driver, arguments(payload)?).await,
        Procedure::NetworkSetMetadata => set_metadata(driver, arguments(payload)?).await,
        other => ports::change(driver, other, payload).await,
    }
}

/// Answers a call of netd's own program.
pub(super) async fn netd<D: Driver>(
    driver: &D,
    procedure: NetdProcedure,
    payload: Bytes,
) -> Answer {
    match procedure.access() {
        Access::Read => netd_look(driver, procedure, payload).await,
        Access::Write => netd_change(driver, procedure, payload).await,
    }
}

/// Answers a call of netd's own program that changes nothing.
async fn netd_look<D: Driver>(driver: &D, procedure: NetdProcedure, payload: Bytes) -> Answer {
    match procedure {
        NetdProcedure::Plan => {
            let network: Option<String> = arguments(payload)?;
            let steps = driver.plan(network.as_deref()).await?;
            result(&List::<_, PLAN_MAX>(steps))
        }
        NetdProcedure::ApplyDryRun => {
            let network: NetworkRef = arguments(payload)?;
            json(&driver.apply(network.uuid, true).await?)
        }
        NetdProcedure::Status => json(&driver.status().await?),
        NetdProcedure::ForwardList => {
            let network: Option<String> = arguments(payload)?;
            json(&driver.forwards(network.as_deref()).await?)
        }
        NetdProcedure::BanList => {
            let bans = driver.bans().await?;
            let bans = bans.iter().map(to_json).collect::<Result<_, _>>()?;
            result(&List::<String, BANS>(bans))
        }
        NetdProcedure::Doctor => json(&driver.doctor().await?),
        NetdProcedure::Drops => json(&driver.drops(arguments(payload)?).await?),
        NetdProcedure::FlowList => flows::list(driver, arguments(payload)?).await,
        NetdProcedure::FlowNames => flows::names(driver).await,
        NetdProcedure::GuestPorts => {
            let network: Option<String> = arguments(payload)?;
            let ports = driver.guest_ports(network.as_deref()).await?;
            let ports = ports.iter().map(to_json).collect::<Result<_, _>>()?;
            result(&List::<String, GUEST_PORTS_MAX>(ports))
        }
        other => not_supported(other.function()),
    }
}

/// Answers a call of netd's own program that changes something.
async fn netd_change<D: Driver>(driver: &D, procedure: NetdProcedure, payload: Bytes) -> Answer {
    match procedure {
        NetdProcedure::ForwardChange => {
            let change = from_json(&arguments::<String>(payload)?, "the change of a forward")?;
            json(&driver.change_forward(&change).await?)
        }
        NetdProcedure::BanChange => {
            let change = from_json(&arguments::<String>(payload)?, "the change of bans")?;
            result(&driver.change_bans(&change).await?)
        }
        NetdProcedure::HandOver => {
            let handover = from_json(&arguments::<String>(payload)?, "what is to be handed over")?;
            result(&driver.hand_over(&handover).await?)
        }
        NetdProcedure::FlowKill => {
            let which = from_json(
                &arguments::<String>(payload)?,
                "which connections are to end",
            )?;
            result(&driver.kill_flows(&which).await?)
        }
        NetdProcedure::Reload => json(&driver.reload().await?),
        NetdProcedure::Apply => {
            let network: NetworkRef = arguments(payload)?;
            json(&driver.apply(network.uuid, false).await?)
        }
        other => not_supported(other.function()),
    }
}

/// A result that goes as JSON.
fn json<T: Serialize>(value: &T) -> Answer {
    result(&to_json(value)?)
}

/// What a definition may hold that nobody knows.
fn unknown(flags: u32, function: &'static str) -> Result<Unknown, ApiError> {
    only_flags(flags, XML_VALIDATE, function)?;
    Ok(match flags & XML_VALIDATE {
        0 => Unknown::Ignore,
        _ => Unknown::Refuse,
    })
}

fn affect(flags: u32, function: &'static str) -> Result<Affect, ApiError> {
    only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG, function)?;
    Ok(Affect {
        live: flags & AFFECT_LIVE != 0,
        config: flags & AFFECT_CONFIG != 0,
    })
}

/// Which piece of metadata a call is about.
fn metadata(kind: i32, uri: Option<String>) -> Result<Metadata, ApiError> {
    let refuse = |detail: String| ApiError::new(ErrorCode::InvalidArg, detail);
    match (kind, uri) {
        (METADATA_DESCRIPTION, None) => Ok(Metadata::Description),
        (METADATA_TITLE, None) => Ok(Metadata::Title),
        (METADATA_DESCRIPTION | METADATA_TITLE, Some(_)) => {
            Err(refuse("a title or description has no uri".to_owned()))
        }
        // Whoever listens to events is sent it, and what is not taken yet is kept.
        (METADATA_ELEMENT, Some(uri)) if uri.len() > NAMESPACE_MAX => Err(refuse(format!(
            "the uri of a metadata element has {} bytes; {NAMESPACE_MAX} is the most",
            uri.len()
        ))),
        (METADATA_ELEMENT, Some(uri)) => Ok(Metadata::Element(uri)),
        (METADATA_ELEMENT, None) => Err(refuse("a metadata element needs a uri".to_owned())),
        (other, _) => Err(refuse(format!("unknown metadata type '{other}'"))),
    }
}

async fn set_metadata<D: Driver>(driver: &D, args: SetMetadataArgs) -> Answer {
    let SetMetadataArgs {
        network,
        kind,
        metadata: text,
        key,
        uri,
        flags,
    } = args;
    let affect = affect(flags, "networkSetMetadata")?;
    let what = metadata(kind, uri)?;
    let new = NewMetadata { text, key };
    result(
        &driver
            .set_metadata(network.uuid, &what, &new, affect)
            .await?,
    )
}

async fn update<D: Driver>(driver: &D, args: UpdateArgs) -> Answer {
    let UpdateArgs {
        network,
        command,
        section,
        parent_index,
        xml,
        flags,
    } = args;
    let affect = affect(flags, "networkUpdate")?;
    let refuse = |detail: String| ApiError::new(ErrorCode::OperationUnsupported, detail);
    let update = Update {
        command: UpdateCommand::from_number(command).ok_or_else(|| {
            refuse(format!(
                "unrecognized network update command code {command}"
            ))
        })?,
        section: Section::from_number(section)
            .ok_or_else(|| refuse("can't update unrecognized section of network".to_owned()))?,
        // libvirt takes any negative one for none.
        parent_index: usize::try_from(parent_index).ok(),
        xml,
    };
    result(&driver.update(network.uuid, &update, affect).await?)
}

async fn info<D: Driver>(driver: &D, payload: Bytes) -> Result<NetworkInfo, RemoteError> {
    let network: NetworkRef = arguments(payload)?;
    Ok(driver.by_uuid(network.uuid).await?)
}

/// The networks the flags ask for, by name.
async fn filtered<D: Driver>(driver: &D, flags: u32) -> Result<Vec<NetworkInfo>, ApiError> {
    // Of each pair, none and both mean all.
    let pair = |yes: u32, no: u32, value: bool| {
        let asked = (flags & yes != 0, flags & no != 0);
        asked.0 == asked.1 || asked.0 == value
    };
    let mut networks = driver.list().await?;
    networks.retain(|network| {
        pair(LIST_ACTIVE, LIST_INACTIVE, network.active)
            && pair(LIST_PERSISTENT, LIST_TRANSIENT, network.persistent)
            && pair(LIST_AUTOSTART, LIST_NO_AUTOSTART, network.autostart)
    });
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

async fn count<D: Driver>(driver: &D, flags: u32) -> Answer {
    result(&(filtered(driver, flags).await?.len() as i32))
}

async fn names<D: Driver>(driver: &D, flags: u32, max: i32) -> Answer {
    let max = usize::try_from(max).map_err(|_| {
        ApiError::new(
            ErrorCode::InvalidArg,
            format!("maxnames must not be negative: {max}"),
        )
    })?;
    let networks = filtered(driver, flags).await?;
    let names = networks.into_iter().take(max).map(|network| network.name);
    result(&List::<_, NETWORKS_MAX>(names.collect()))
}

async fn list_all<D: Driver>(driver: &D, args: ListArgs) -> Answer {
    only_flags(args.flags, LIST_ALL_FLAGS, "networkConnectListAllNetworks")?;
    let networks = filtered(driver, args.flags).await?;
    let count = networks.len() as u32;
    let networks = match args.need_results {
        0 => Vec::new(),
        _ => networks.into_iter().map(NetworkRef::from).collect(),
    };
    result(&ListReply {
        networks: List(networks),
        count,
    })
}

async fn leases<D: Driver>(driver: &D, args: LeasesArgs) -> Answer {
    only_flags(args.flags, 0, "networkGetDHCPLeases")?;
    let leases = driver
        .leases(args.network.uuid, args.mac.as_deref())
        .await?;
    let count = leases.len() as u32;
    let leases = match args.need_results {
        0 => Vec::new(),
        _ => leases.into_iter().map(LeaseRecord::from).collect(),
    };
    result(&LeasesReply {
        leases: List::<_, LEASES_MAX>(leases),
        count,
    })
}
