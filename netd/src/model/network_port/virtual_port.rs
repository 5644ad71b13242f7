//! One virtual port out of what the guest, the network and its port group say.

use uuid::Uuid;

use crate::model::element::VirtualPort;
use crate::model::element::port::PARAMETERS;
use crate::model::error::XmlError;
use crate::model::xml::shown;

/// Merges what the port asks for with what the network and the port group give. They may complete each
/// other; where they contradict each other there is no port.
pub fn merge(
    own: Option<&VirtualPort>,
    network: Option<&VirtualPort>,
    group: Option<&VirtualPort>,
) -> Result<Option<VirtualPort>, XmlError> {
    let mut all = [own, network, group].into_iter().flatten();
    if !all.any(|port| port.kind.is_some()) {
        return Ok(own.cloned());
    }
    let mut merged = own.cloned().unwrap_or_default();
    for other in [network, group].into_iter().flatten() {
        merge_kind(&mut merged, other)?;
        for name in PARAMETERS {
            merge_parameter(&mut merged, other, name)?;
        }
    }
    let place = |(name, _): &(String, String)| PARAMETERS.iter().position(|known| known == name);
    merged.parameters.sort_by_key(place);
    Ok(Some(merged))
}

fn merge_kind(merged: &mut VirtualPort, other: &VirtualPort) -> Result<(), XmlError> {
    match (&merged.kind, &other.kind) {
        (Some(a), Some(b)) if a != b => Err(XmlError::Invalid(format!(
            "attempt to merge virtualports with mismatched types ({a} and {b})"
        ))),
        (None, Some(_)) => {
            merged.kind.clone_from(&other.kind);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn merge_parameter(
    merged: &mut VirtualPort,
    other: &VirtualPort,
    name: &'static str,
) -> Result<(), XmlError> {
    let Some(new) = parameter(other, name) else {
        return Ok(());
    };
    match parameter(merged, name) {
        Some(old) if old != new => {
            let both = match name {
                "managerid" | "typeid" | "typeidversion" => format!("({old} and {new})"),
                _ => format!("('{}' and '{}')", shown(old), shown(new)),
            };
            Err(XmlError::Invalid(format!(
                "attempt to merge virtualports with mismatched {name}s {both}"
            )))
        }
        Some(_) => Ok(()),
        None => {
            let new = new.to_owned();
            merged.parameters.push((name.to_owned(), new));
            Ok(())
        }
    }
}

fn parameter<'a>(port: &'a VirtualPort, name: &str) -> Option<&'a str> {
    let found = port.parameters.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// Gives a merged virtual port the identifier that can be drawn, and refuses one that lacks another.
pub fn complete(port: &mut VirtualPort) -> Result<(), XmlError> {
    let Some(kind) = port.kind.clone() else {
        return Ok(());
    };
    let (needed, drawn): (&[&'static str], Option<&str>) = match kind.as_str() {
        "802.1Qbg" => (
            &["managerid", "typeid", "typeidversion"],
            Some("instanceid"),
        ),
        "802.1Qbh" => (&["profileid"], None),
        "openvswitch" => (&[], Some("interfaceid")),
        "midonet" => (&["interfaceid"], None),
        _ => (&[], None),
    };
    if let Some(name) = needed.iter().find(|name| parameter(port, name).is_none()) {
        return Err(XmlError::Invalid(format!(
            "missing {name} in <virtualport type='{kind}'>"
        )));
    }
    if let Some(name) = drawn.filter(|name| parameter(port, name).is_none()) {
        let value = Uuid::new_v4().to_string();
        let place = PARAMETERS.iter().position(|known| *known == name);
        let before = |(known, _): &&(String, String)| {
            PARAMETERS.iter().position(|other| other == known) < place
        };
        let at = port.parameters.iter().take_while(before).count();
        port.parameters.insert(at, (name.to_owned(), value));
    }
    Ok(())
}
