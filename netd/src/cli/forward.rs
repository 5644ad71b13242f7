//! Port forwards: `netd forward add`, `list` and `delete`, and `netd reload`.

use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;

use crate::api::{Affect, ForwardChange, NetworkForwards};
use crate::cli::args::{ForwardAddArgs, ForwardDeleteArgs, ForwardListArgs, ScopeArgs};
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::model::{
    ForwardAction, ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward,
    Published,
};
use crate::rpc::Client;

/// Result of a verb.
type Result<T = ()> = std::result::Result<T, Failure>;

pub(super) async fn add(client: &mut Client, output: &mut Output, args: &ForwardAddArgs) -> Result {
    let protocol = protocol(&args.protocol)?;
    let (ports, guest) = match args.what.as_slice() {
        [guest] if protocol == ForwardProtocol::All => (None, guest),
        [ports, guest] if protocol != ForwardProtocol::All => (Some(parse_ports(ports)?), guest),
        _ if protocol == ForwardProtocol::All => {
            return Err("With protocol 'all' only the guest is given: no ports.".into());
        }
        _ => return Err("A port and a guest are needed, such as 8080 192.168.122.10:80.".into()),
    };
    let (guest, to) = parse_guest(guest)?;
    if ports.is_none() && to.is_some() {
        return Err("With protocol 'all' the guest has no port: ports are not changed.".into());
    }
    let ranges = ports.map(|(start, end)| ForwardRange {
        start,
        end,
        to: to.filter(|to| *to != start),
        exclude: false,
    });
    let forward = PortForward {
        protocol,
        address: args.scope.address,
        dev: args.scope.dev.clone(),
        guest,
        ranges: ranges.into_iter().collect(),
    };
    let action = ForwardAction::Add(forward.clone());
    let (network, changed) = match change(client, &args.network, &args.scope, action).await {
        Ok(changed) => changed,
        Err(failure) => return Err(explain(client, &args.network, &forward, failure).await),
    };
    for warning in &changed.warnings {
        eprintln!("warning: {warning}");
    }
    output.extra(format!(
        "Network {network} publishes {forward}{}\n",
        match (changed.affect.live, changed.affect.config) {
            (true, true) => "",
            (true, false) => " until it stops; add --config to keep it",
            _ => " when it is next started",
        }
    ));
    Ok(())
}

pub(super) async fn delete(
    client: &mut Client,
    output: &mut Output,
    args: &ForwardDeleteArgs,
) -> Result {
    let protocol = protocol(&args.protocol)?;
    let guest = match args.guest.as_deref().map(parse_guest).transpose()? {
        Some((_, Some(_))) => return Err("The guest is named without its port.".into()),
        guest => guest.map(|(guest, _)| guest),
    };
    let published = Published {
        protocol,
        address: args.scope.address,
        dev: args.scope.dev.clone(),
        ports: args.port.as_deref().map(parse_ports).transpose()?,
        guest,
    };
    let action = ForwardAction::Delete(published);
    let (network, changed) = change(client, &args.network, &args.scope, action).await?;
    let port = args
        .port
        .as_deref()
        .map_or_else(String::new, |port| format!(" {port}"));
    output.extra(format!(
        "Network {network}: removed {protocol}{port} from {}\n",
        match (changed.affect.live, changed.affect.config) {
            (true, true) => "the running network and the definition",
            (true, false) =>
                "the running network only; if the definition has it, it is back at the next start \
                 (add --config)",
            _ => "the definition; a running network keeps it until it stops (add --live)",
        }
    ));
    Ok(())
}

async fn change(
    client: &mut Client,
    network: &str,
    scope: &ScopeArgs,
    action: ForwardAction,
) -> Result<(String, crate::api::Changed)> {
    let network = find(client, network).await?.name;
    let change = ForwardChange {
        network: network.clone(),
        affect: Affect {
            live: scope.live,
            config: scope.config,
        },
        action,
    };
    let changed = client.change_forward(&change).await.map_err(|error| {
        Failure::new(
            format!("Failed to change the forwards of network {network}"),
            &error,
        )
    })?;
    Ok((network, changed))
}

/// Names the forward that is in the way of a new one.
async fn explain(
    client: &mut Client,
    network: &str,
    new: &PortForward,
    failure: Failure,
) -> Failure {
    let Ok(found) = find(client, network).await else {
        return failure;
    };
    // A question that fails leaves the agent's own message.
    let Ok(networks) = client.forwards(Some(&found.name)).await else {
        return failure;
    };
    let all = networks
        .iter()
        .flat_map(|network| [&network.live, &network.config])
        .flatten()
        .flatten();
    match all.clone().find_map(|old| taken(old, new)) {
        Some(sentence) => failure.and(sentence),
        None => failure,
    }
}

/// What a forward has of the ports that a new one asks for.
fn taken(old: &PortForward, new: &PortForward) -> Option<String> {
    if old.protocol != new.protocol || old.scope() != new.scope() {
        return None;
    }
    let asked = new.ranges.first()?;
    let range = old
        .ranges
        .iter()
        .find(|range| !range.exclude && range.start <= asked.end && asked.start <= range.end)?;
    Some(format!(
        "{} {range} is already forwarded to {} (port {}); remove that forward first",
        old.protocol,
        old.guest,
        range.target()
    ))
}

pub(super) async fn list(
    client: &mut Client,
    output: &mut Output,
    args: &ForwardListArgs,
) -> Result {
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let networks = client
        .forwards(network.as_deref())
        .await
        .map_err(|error| Failure::new("Failed to list the forwards", &error))?;
    let forwards: Vec<Told> = networks.iter().flat_map(told).collect();
    if args.json {
        return output.answer(&Listed { forwards });
    }
    let mut table = Table::new(&[
        "Network", "Proto", "Address", "Port", "Guest", "Target", "State",
    ]);
    for forward in forwards {
        let state = match (forward.live, forward.config) {
            (true, true) => "live, config",
            (true, false) => "live",
            _ => "config",
        };
        table.row(&[
            forward.network,
            forward.protocol,
            forward.address,
            forward.port,
            forward.guest,
            forward.target,
            state.to_owned(),
        ]);
    }
    table.print(output);
    Ok(())
}

/// What `forward list --json` prints.
#[derive(Serialize)]
struct Listed {
    forwards: Vec<Told>,
}

/// One range of a forward.
#[derive(Serialize)]
struct Told {
    network: String,
    protocol: String,
    address: String,
    port: String,
    guest: String,
    target: String,
    live: bool,
    config: bool,
}

/// The forwards of a network: what runs, then what does not yet.
fn told(of: &NetworkForwards) -> Vec<Told> {
    let live = rows(of.live.as_deref().unwrap_or_default());
    let config = rows(of.config.as_deref().unwrap_or_default());
    let all = live
        .iter()
        .chain(config.iter().filter(|row| !live.contains(row)));
    let all = all.map(|row| {
        let [protocol, address, port, guest, target] = row.clone();
        Told {
            network: of.network.clone(),
            protocol,
            address,
            port,
            guest,
            target,
            live: live.contains(row),
            config: config.contains(row),
        }
    });
    all.collect()
}

/// What a table shows of forwards: protocol, address, ports, guest, the guest's ports; one row a
/// range.
fn rows(forwards: &[PortForward]) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for forward in forwards {
        let scope = match forward.scope() {
            ForwardScope::Address(address) => address.to_string(),
            ForwardScope::Device(dev) => format!("dev {dev}"),
            ForwardScope::All => "*".to_owned(),
        };
        let mut row = |ports: String, target: String| {
            rows.push([
                forward.protocol.to_string(),
                scope.clone(),
                ports,
                forward.guest.to_string(),
                target,
            ]);
        };
        if forward.ranges.is_empty() {
            row("*".to_owned(), "*".to_owned());
        }
        for range in &forward.ranges {
            let last = range.target().saturating_add(range.end - range.start);
            let target = match range.exclude {
                true => "-".to_owned(),
                false if range.start == range.end => range.target().to_string(),
                false => format!("{}-{last}", range.target()),
            };
            let not = if range.exclude { "not " } else { "" };
            row(format!("{not}{range}"), target);
        }
    }
    rows
}

pub(super) async fn reload(client: &mut Client, output: &mut Output) -> Result {
    let reloaded = client
        .reload()
        .await
        .map_err(|error| Failure::new("Failed to read the definitions again", &error))?;
    for line in reloaded.done.iter() {
        output.data(format!("{line}\n"));
    }
    if let Some((first, others)) = reloaded.failed.split_first() {
        let failure = Failure::from(first.as_str());
        return Err(others
            .iter()
            .fold(failure, |failure, line| failure.and(line)));
    }
    if reloaded.done.is_empty() {
        output.extra("Nothing has changed.\n");
    }
    Ok(())
}

fn protocol(text: &str) -> Result<ForwardProtocol> {
    text.parse()
        .map_err(|error| format!("protocol '{}' {error}", text.escape_debug()).into())
}

/// `8080` or `9000-9010`.
fn parse_ports(text: &str) -> Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(format!(
            "'{}' is no port or range of ports; they look like 8080 and 9000-9010",
            text.escape_debug()
        )
        .into()),
    }
}

/// `192.168.122.10:80`, `[fd00::10]:80`, `web:80`, or one of them without a port. An IPv6 address
/// whose last group may be a port needs brackets: what is published is not to be guessed.
fn parse_guest(text: &str) -> Result<(ForwardGuest, Option<u16>)> {
    let refuse = || {
        Failure::from(format!(
            "'{}' is no guest; they look like 192.168.122.10:80, [fd00::10]:80 and web:80",
            text.escape_debug()
        ))
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        if let Some((head, port)) = text.rsplit_once(':')
            && head.parse::<Ipv6Addr>().is_ok()
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(Failure::from(format!(
                "'{text}' can mean two guests: write [{head}]:{port} with a port, or [{text}] without"
            )));
        }
        return Ok((ForwardGuest::Address(address), None));
    }
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => Err(refuse()),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(refuse)?;
        let address: Ipv6Addr = address.parse().map_err(|_| refuse())?;
        let to = match rest {
            "" => None,
            rest => port(rest.strip_prefix(':').ok_or_else(refuse)?)?,
        };
        return Ok((ForwardGuest::Address(address.into()), to));
    }
    let (name, to) = match text.split_once(':') {
        Some((name, to)) => (name, port(to)?),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(refuse());
    }
    Ok((ForwardGuest::from(name.to_owned()), to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_and_ports_as_users_write_them() {
        for (text, guest, to) in [
            ("192.168.122.10:80", "192.168.122.10", Some(80)),
            ("192.168.122.10", "192.168.122.10", None),
            ("[fd00::10]:80", "fd00::10", Some(80)),
            ("[fd00::10]", "fd00::10", None),
            ("fd00::10", "fd00::10", None),
            ("fd00:48::10:ff", "fd00:48::10:ff", None),
            ("[fd00:48::10:22]", "fd00:48::10:22", None),
            ("[fd00:48::10]:22", "fd00:48::10", Some(22)),
            ("web:8080", "web", Some(8080)),
            ("web", "web", None),
        ] {
            let (found, port) = parse_guest(text).unwrap();
            assert_eq!((found.to_string().as_str(), port), (guest, to), "{text}");
        }
        for bad in [
            "",
            ":80",
            "web:",
            "web:0",
            "web:65536",
            "[fd00::10",
            "fd00:48::10:22",
            "[web]:80",
            "[fd00::1]80",
        ] {
            parse_guest(bad).unwrap_err();
        }
        assert_eq!(parse_ports("80").unwrap(), (80, 80));
        assert_eq!(parse_ports("9000-9010").unwrap(), (9000, 9010));
        for bad in ["", "0", "9-8", "65536", "80-", "-80", "80,81"] {
            parse_ports(bad).unwrap_err();
        }
    }

    #[test]
    fn the_forward_in_the_way_is_named() {
        let forward = |start, end, to, dev: Option<&str>| PortForward {
            protocol: ForwardProtocol::Tcp,
            address: None,
            dev: dev.map(str::to_owned),
            guest: "10.0.0.5".to_owned().into(),
            ranges: vec![ForwardRange {
                start,
                end,
                to,
                exclude: false,
            }],
        };
        let old = forward(8080, 8089, Some(80), None);
        assert_eq!(
            taken(&old, &forward(8085, 8085, None, None)).as_deref(),
            Some(
                "tcp 8080-8089 is already forwarded to 10.0.0.5 (port 80); remove that forward first"
            )
        );
        for free in [
            forward(8090, 8090, None, None),
            forward(8085, 8085, None, Some("eth0")),
        ] {
            assert_eq!(taken(&old, &free), None);
        }
    }

    #[test]
    fn a_row_for_each_range() {
        let range = |start, end, to, exclude| ForwardRange {
            start,
            end,
            to,
            exclude,
        };
        let forward = PortForward {
            protocol: ForwardProtocol::Tcp,
            address: None,
            dev: Some("eth0".to_owned()),
            guest: "10.0.0.5".to_owned().into(),
            ranges: vec![
                range(8080, 8080, Some(80), false),
                range(9000, 9010, Some(7000), false),
                range(9005, 9005, None, true),
            ],
        };
        let whole = PortForward {
            protocol: ForwardProtocol::All,
            address: Some("203.0.113.5".parse().unwrap()),
            dev: None,
            ranges: Vec::new(),
            ..forward.clone()
        };
        assert_eq!(
            rows(&[forward, whole]),
            [
                ["tcp", "dev eth0", "8080", "10.0.0.5", "80"],
                ["tcp", "dev eth0", "9000-9010", "10.0.0.5", "7000-7010"],
                ["tcp", "dev eth0", "not 9005", "10.0.0.5", "-"],
                ["all", "203.0.113.5", "*", "10.0.0.5", "*"],
            ]
        );
    }
}
