//! Calls about networks' ports.

use bytes::Bytes;

use crate::api::{ApiError, Driver, ErrorCode, PortId, PortPurpose, Unknown};
use crate::model::{Bandwidth, Rate};
use crate::rpc::answer::{Answer, arguments, not_supported, only_flags, result};
use crate::rpc::procedures::{
    CreatePortArgs, GetPortParametersArgs, ListPortsArgs, ListPortsReply, LookupPortArgs,
    PORT_RECLAIM, PORT_VALIDATE, PortArgs, PortParametersReply, PortRef, Procedure,
    SetPortParametersArgs, TypedParameter, TypedValue,
};
use crate::rpc::xdr::List;

/// Answers a call that changes nothing.
pub(super) async fn look<D: Driver>(driver: &D, procedure: Procedure, payload: Bytes) -> Answer {
    match procedure {
        Procedure::NetworkListAllPorts => list(driver, arguments(payload)?).await,
        Procedure::NetworkPortLookupByUuid => {
            let LookupPortArgs { network, uuid } = arguments(payload)?;
            let port = PortRef { network, uuid };
            driver.find_port(PortId::from(&port)).await?;
            result(&port)
        }
        Procedure::NetworkPortGetXmlDesc => {
            let PortArgs { port, flags } = arguments(payload)?;
            only_flags(flags, 0, "networkPortGetXMLDesc")?;
            result(&driver.port_xml(PortId::from(&port)).await?)
        }
        Procedure::NetworkPortGetParameters => {
            let GetPortParametersArgs { port, flags, .. } = arguments(payload)?;
            only_flags(flags, 0, "networkPortGetParameters")?;
            let bandwidth = driver.port_bandwidth(PortId::from(&port)).await?;
            result(&PortParametersReply {
                parameters: List(parameters(&bandwidth.unwrap_or_default())),
                count: 0,
            })
        }
        other => not_supported(other.function()),
    }
}

/// Answers a call that changes something.
pub(super) async fn change<D: Driver>(driver: &D, procedure: Procedure, payload: Bytes) -> Answer {
    match procedure {
        Procedure::NetworkPortCreateXml => create(driver, arguments(payload)?).await,
        Procedure::NetworkPortSetParameters => {
            let SetPortParametersArgs {
                port,
                parameters,
                flags,
            } = arguments(payload)?;
            only_flags(flags, 0, "networkPortSetParameters")?;
            let bandwidth = bandwidth(&parameters.0)?;
            let set = driver.set_port_bandwidth(PortId::from(&port), &bandwidth);
            result(&set.await?)
        }
        Procedure::NetworkPortDelete => {
            let PortArgs { port, flags } = arguments(payload)?;
            only_flags(flags, 0, "networkPortDelete")?;
            result(&driver.delete_port(PortId::from(&port)).await?)
        }
        other => not_supported(other.function()),
    }
}

async fn list<D: Driver>(driver: &D, args: ListPortsArgs) -> Answer {
    only_flags(args.flags, 0, "networkListAllPorts")?;
    let ports = driver.ports(args.network.uuid).await?;
    let count = ports.len() as u32;
    let port = |uuid| PortRef {
        network: args.network.clone(),
        uuid,
    };
    let ports = match args.need_results {
        0 => Vec::new(),
        _ => ports.into_iter().map(port).collect(),
    };
    result(&ListPortsReply {
        ports: List(ports),
        count,
    })
}

async fn create<D: Driver>(driver: &D, args: CreatePortArgs) -> Answer {
    let CreatePortArgs {
        network,
        xml,
        flags,
    } = args;
    only_flags(flags, PORT_RECLAIM | PORT_VALIDATE, "networkPortCreateXML")?;
    let purpose = match flags & PORT_RECLAIM {
        0 => PortPurpose::Plug,
        _ => PortPurpose::Reclaim,
    };
    let unknown = match flags & PORT_VALIDATE {
        0 => Unknown::Ignore,
        _ => Unknown::Refuse,
    };
    let created = driver.create_port(network.uuid, &xml, purpose, unknown);
    let uuid = created.await?;
    result(&PortRef { network, uuid })
}

/// The limits of a port as parameters, in libvirt's order. What is not limited is 0.
fn parameters(bandwidth: &Bandwidth) -> Vec<TypedParameter> {
    let mut parameters = Vec::new();
    let mut add = |field: &str, value: u64| {
        parameters.push(TypedParameter {
            field: field.to_owned(),
            value: TypedValue::Uint(u32::try_from(value).unwrap_or(u32::MAX)),
        });
    };
    if let Some(rate) = &bandwidth.inbound {
        add("inbound.average", rate.average);
        add("inbound.peak", rate.peak.unwrap_or(0));
        add("inbound.floor", rate.floor.unwrap_or(0));
        add("inbound.burst", rate.burst.unwrap_or(0));
    }
    if let Some(rate) = &bandwidth.outbound {
        add("outbound.average", rate.average);
        add("outbound.peak", rate.peak.unwrap_or(0));
        add("outbound.burst", rate.burst.unwrap_or(0));
    }
    parameters
}

/// The limits that parameters name. What they leave out is not limited.
fn bandwidth(parameters: &[TypedParameter]) -> Result<Bandwidth, ApiError> {
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::InvalidArg, detail));
    let (mut inbound, mut outbound) = (Rate::default(), Rate::default());
    for TypedParameter { field, value } in parameters {
        let TypedValue::Uint(value) = value else {
            return refuse(format!(
                "the value of parameter '{}' should be an unsigned int",
                field.escape_debug()
            ));
        };
        let value = u64::from(*value);
        let given = (value != 0).then_some(value);
        match field.as_str() {
            "inbound.average" => inbound.average = value,
            "inbound.peak" => inbound.peak = given,
            "inbound.floor" => inbound.floor = given,
            "inbound.burst" => inbound.burst = given,
            "outbound.average" => outbound.average = value,
            "outbound.peak" => outbound.peak = given,
            "outbound.burst" => outbound.burst = given,
            _ => {
                return refuse(format!(
                    "parameter '{}' not supported",
                    field.escape_debug()
                ));
            }
        }
    }
    let given = |rate: Rate| (rate != Rate::default()).then_some(rate);
    Ok(Bandwidth {
        inbound: given(inbound),
        outbound: given(outbound),
    })
}
