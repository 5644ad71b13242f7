//! A connection in words: as a row, as a line, as JSON.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

use crate::api::{Direction, Flow, FlowNames, Protocol};

/// The columns of [`Told::cells`].
pub(super) const HEADINGS: [&str; 12] = [
    "Network",
    "Guest",
    "Protocol",
    "State",
    "Source",
    "Destination",
    "Translated",
    "Way out",
    "Path",
    "Idle",
    "Packets",
    "Bytes",
];

/// Names for numbers and addresses.
pub(super) struct Names {
    networks: BTreeMap<u32, String>,
    devices: BTreeMap<u32, String>,
    /// By bridge and address.
    guests: HashMap<(u32, IpAddr), String>,
}

impl From<FlowNames> for Names {
    fn from(names: FlowNames) -> Self {
        let guests = names.guests.iter();
        let guests = guests
            .filter_map(|guest| Some(((guest.bridge, guest.address), guest.name()?.to_owned())));
        Self {
            guests: guests.collect(),
            networks: names.networks,
            devices: names.devices,
        }
    }
}

impl Names {
    fn network(&self, direction: &Direction) -> Option<&str> {
        self.networks.get(&direction.bridge).map(String::as_str)
    }

    /// The guest that sends it.
    fn guest(&self, direction: &Direction) -> Option<&str> {
        let end = (direction.bridge, direction.source.ip());
        self.guests.get(&end).map(String::as_str)
    }

    fn device(&self, direction: &Direction) -> Option<&str> {
        self.devices.get(&direction.way_out).map(String::as_str)
    }
}

/// One end: an address, with its port where there is one; nothing stands for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End(SocketAddr);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            0 if self.0.ip().is_unspecified() => f.write_str("*"),
            0 => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A connection with names. Its fields are documented in docs/reference/json.md.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    #[serde(serialize_with = "as_text")]
    protocol: Protocol,
    state: &'static str,
    source: End,
    destination: End,
    translated_source: Option<End>,
    translated_destination: Option<End>,
    source_network: Option<&'a str>,
    source_guest: Option<&'a str>,
    destination_network: Option<&'a str>,
    destination_guest: Option<&'a str>,
    way_out: Option<&'a str>,
    way_back: Option<&'a str>,
    path_out: &'static str,
    path_back: &'static str,
    idle: u32,
    expires: u32,
    packets_sent: u64,
    packets_received: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

fn as_text<S: Serializer>(value: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn path(direction: &Direction) -> &'static str {
    if direction.by_stack { "stack" } else { "fast" }
}

impl<'a> Told<'a> {
    pub fn new(flow: &Flow, names: &'a Names) -> Self {
        let Flow {
            protocol,
            idle,
            expires,
            sent,
            received,
            ..
        } = flow;
        Self {
            protocol: Protocol(*protocol),
            state: flow.state_name(),
            source: End(sent.source),
            destination: End(sent.destination),
            translated_source: flow.translated_source().map(End),
            translated_destination: flow.translated_destination().map(End),
            source_network: names.network(sent),
            source_guest: names.guest(sent),
            destination_network: names.network(received),
            destination_guest: names.guest(received),
            way_out: names.device(sent),
            way_back: names.device(received),
            path_out: path(sent),
            path_back: path(received),
            idle: *idle,
            expires: *expires,
            packets_sent: sent.packets,
            packets_received: received.packets,
            bytes_sent: sent.bytes,
            bytes_received: received.bytes,
        }
    }

    /// As a row below [`HEADINGS`].
    pub fn cells(&self) -> [String; 12] {
        [
            either(self.source_network, self.destination_network),
            self.guests(),
            self.protocol.to_string(),
            self.state.to_owned(),
            self.source.to_string(),
            self.destination.to_string(),
            self.translated(),
            self.way_out.unwrap_or("-").to_owned(),
            self.path(),
            duration(self.idle),
            format!("{}/{}", self.packets_sent, self.packets_received),
            format!("{}/{}", self.bytes_sent, self.bytes_received),
        ]
    }

    /// In a line.
    pub fn line(&self) -> String {
        let translated = match self.translated() {
            none if none == "-" => String::new(),
            some => format!(" {some}"),
        };
        format!(
            "{} {} {} {} -> {}{translated} {} {} {} packets {}/{} bytes {}/{}",
            either(self.source_network, self.destination_network),
            self.guests(),
            self.protocol,
            self.source,
            self.destination,
            self.state,
            self.way_out.unwrap_or("-"),
            self.path(),
            self.packets_sent,
            self.packets_received,
            self.bytes_sent,
            self.bytes_received,
        )
    }

    /// Two guests of two networks, or of one, stand in the order of source and destination.
    fn guests(&self) -> String {
        match (self.source_guest, self.destination_guest) {
            (Some(source), Some(destination)) => format!("{source} > {destination}"),
            (source, destination) => source.or(destination).unwrap_or("-").to_owned(),
        }
    }

    /// Who seems to be the source, who really gets it.
    fn translated(&self) -> String {
        match (self.translated_source, self.translated_destination) {
            (None, None) => "-".to_owned(),
            (Some(source), None) => format!("as {source}"),
            (None, Some(destination)) => format!("to {destination}"),
            (Some(source), Some(destination)) => format!("as {source} to {destination}"),
        }
    }

    fn path(&self) -> String {
        if self.path_out == self.path_back {
            return self.path_out.to_owned();
        }
        format!("{}/{}", self.path_out, self.path_back)
    }
}

/// Networks likewise, once where they are the same.
fn either(source: Option<&str>, destination: Option<&str>) -> String {
    match (source, destination) {
        (Some(source), Some(destination)) if source != destination => {
            format!("{source} > {destination}")
        }
        (source, destination) => source.or(destination).unwrap_or("-").to_owned(),
    }
}

/// Seconds in two or three digits.
fn duration(seconds: u32) -> String {
    const MINUTE: u32 = 60;
    const HOUR: u32 = 60 * MINUTE;
    const DAY: u32 = 24 * HOUR;
    let (number, unit) = match seconds {
        ..120 => (seconds, "s"),
        120..7200 => (seconds / MINUTE, "m"),
        7200..172_800 => (seconds / HOUR, "h"),
        _ => (seconds / DAY, "d"),
    };
    format!("{number}{unit}")
}
