//! Conversations recorded between libvirt's own programs: every message is decoded and encoded
//! back byte by byte, and some conversations are held again with this server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use bytes::Bytes;
use netd::api::{Driver, PortPurpose, Unknown};
use netd::rpc::message::{
    Message, PROGRAM_REMOTE, STATUS_ERROR, STATUS_OK, TYPE_CALL, TYPE_MESSAGE, TYPE_REPLY,
};
use netd::rpc::procedures::{
    AutostartArgs, CreatePortArgs, EVENT_LIFECYCLE, EVENT_METADATA_CHANGE, EventRegisterArgs,
    GetMetadataArgs, GetPortParametersArgs, IdentityArgs, LeasesArgs, LeasesReply,
    LifecycleMessage, ListArgs, ListPortsArgs, ListPortsReply, ListReply, LookupPortArgs,
    MetadataMessage, NETWORKS_MAX, NetworkRef, OpenArgs, PortArgs, PortParametersReply, PortRef,
    Procedure, SetMetadataArgs, SetPortParametersArgs, UpdateArgs, XmlArgs, XmlDescArgs,
};
use netd::rpc::remote_error::RemoteError;
use netd::rpc::xdr::{Decode, Encode, List, XdrError, from_bytes, to_bytes};
use uuid::Uuid;

use crate::Server;
use crate::fake::N1;

pub struct Line {
    pub from_client: bool,
    pub bytes: Bytes,
}

/// The recorded conversations by name, or `None` (loudly) where they are not at hand.
pub fn captures() -> Option<BTreeMap<String, Vec<Line>>> {
    let peer = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/peer")),
        PathBuf::from,
    );
    let dir = peer.join("../reference/rpc-captures");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        eprintln!(
            "SKIPPED: no recorded conversations at {} (set NETD_PEER_DATA)",
            dir.display()
        );
        return None;
    };
    let mut captures = BTreeMap::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "hex") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            captures.insert(name, text.lines().filter_map(line).collect());
        }
    }
    assert!(captures.len() > 40, "only {} recordings", captures.len());
    Some(captures)
}

fn line(text: &str) -> Option<Line> {
    let (direction, hex) = text.split_once(' ')?;
    let from_client = match direction {
        ">" => true,
        "<" => false,
        _ => return None,
    };
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes = (0..hex.len()).step_by(2).map(byte).collect();
    Some(Line { from_client, bytes })
}

/// Decodes as `T` and encodes again.
fn again<T: Decode + Encode>(payload: &Bytes) -> Result<Bytes, XdrError> {
    to_bytes(&from_bytes::<T>(payload.clone())?)
}

/// The payload after a round through the types of its procedure; `None` when this is not one of
/// the procedures spoken here.
fn round(message: &Message) -> Option<Result<Bytes, XdrError>> {
    let header = message.header;
    let payload = &message.payload;
    if header.program != PROGRAM_REMOTE {
        return None;
    }
    if header.kind == TYPE_REPLY && header.status == STATUS_ERROR {
        return Some(again::<RemoteError>(payload));
    }
    if header.kind == TYPE_MESSAGE {
        return match header.procedure {
            EVENT_LIFECYCLE => Some(again::<LifecycleMessage>(payload)),
            EVENT_METADATA_CHANGE => Some(again::<MetadataMessage>(payload)),
            _ => None,
        };
    }
    use Procedure as P;
    let procedure = Procedure::from_number(header.procedure)?;
    let call = match header.kind {
        TYPE_CALL => true,
        TYPE_REPLY => false,
        _ => return None,
    };
    Some(match (procedure, call) {
        (P::Open, true) => again::<OpenArgs>(payload),
        (P::AuthList, false) => again::<List<i32, 16>>(payload),
        (P::GetType | P::GetUri, false) => again::<String>(payload),
        (P::GetLibVersion, false) => again::<u64>(payload),
        (P::IsSecure, false) | (P::SupportsFeature, _) => again::<i32>(payload),
        (P::SetIdentity, true) => again::<IdentityArgs>(payload),
        (P::NumOfNetworks | P::NumOfDefinedNetworks, false) => again::<i32>(payload),
        (P::ListNetworks | P::ListDefinedNetworks, true) => again::<i32>(payload),
        (P::ListNetworks | P::ListDefinedNetworks, false) => {
            again::<List<String, NETWORKS_MAX>>(payload)
        }
        (P::ListAllNetworks, true) => again::<ListArgs>(payload),
        (P::ListAllNetworks, false) => again::<ListReply>(payload),
        (P::NetworkLookupByName, true) => again::<String>(payload),
        (P::NetworkLookupByUuid, true) => again::<Uuid>(payload),
        (P::NetworkDefineXml | P::NetworkCreateXml, true) => again::<String>(payload),
        (P::NetworkDefineXmlFlags | P::NetworkCreateXmlFlags, true) => again::<XmlArgs>(payload),
        (
            P::NetworkLookupByName
            | P::NetworkLookupByUuid
            | P::NetworkDefineXml
            | P::NetworkCreateXml
            | P::NetworkDefineXmlFlags
            | P::NetworkCreateXmlFlags,
            false,
        ) => again::<NetworkRef>(payload),
        (P::NetworkSetAutostart, true) => again::<AutostartArgs>(payload),
        (P::NetworkGetXmlDesc, true) => again::<XmlDescArgs>(payload),
        (P::NetworkGetXmlDesc | P::NetworkGetBridgeName, false) => again::<String>(payload),
        (P::NetworkGetDhcpLeases, true) => again::<LeasesArgs>(payload),
        (P::NetworkGetDhcpLeases, false) => again::<LeasesReply>(payload),
        (P::NetworkGetAutostart | P::NetworkIsActive | P::NetworkIsPersistent, false) => {
            again::<i32>(payload)
        }
        (
            P::NetworkGetAutostart
            | P::NetworkIsActive
            | P::NetworkIsPersistent
            | P::NetworkGetBridgeName
            | P::NetworkCreate
            | P::NetworkDestroy
            | P::NetworkUndefine,
            true,
        ) => again::<NetworkRef>(payload),
        (P::NetworkEventRegisterAny, true) => again::<EventRegisterArgs>(payload),
        (P::NetworkEventRegisterAny, false) | (P::NetworkEventDeregisterAny, true) => {
            again::<i32>(payload)
        }
        (P::NetworkUpdate, true) => again::<UpdateArgs>(payload),
        (P::NetworkSetMetadata, true) => again::<SetMetadataArgs>(payload),
        (P::NetworkGetMetadata, true) => again::<GetMetadataArgs>(payload),
        (P::NetworkGetMetadata, false) => again::<String>(payload),
        (procedure, call) => round_of_ports(procedure, call, payload),
    })
}

/// The same for what is about ports, and for what carries nothing.
fn round_of_ports(procedure: Procedure, call: bool, payload: &Bytes) -> Result<Bytes, XdrError> {
    use Procedure as P;
    match (procedure, call) {
        (P::NetworkListAllPorts, true) => again::<ListPortsArgs>(payload),
        (P::NetworkListAllPorts, false) => again::<ListPortsReply>(payload),
        (P::NetworkPortLookupByUuid, true) => again::<LookupPortArgs>(payload),
        (P::NetworkPortCreateXml, true) => again::<CreatePortArgs>(payload),
        (P::NetworkPortLookupByUuid | P::NetworkPortCreateXml, false) => again::<PortRef>(payload),
        (P::NetworkPortGetParameters, true) => again::<GetPortParametersArgs>(payload),
        (P::NetworkPortGetParameters, false) => again::<PortParametersReply>(payload),
        (P::NetworkPortSetParameters, true) => again::<SetPortParametersArgs>(payload),
        (P::NetworkPortGetXmlDesc | P::NetworkPortDelete, true) => again::<PortArgs>(payload),
        (P::NetworkPortGetXmlDesc, false) => again::<String>(payload),
        _ => again::<()>(payload),
    }
}

#[test]
fn every_message_comes_back_byte_by_byte() {
    let Some(captures) = captures() else { return };
    let (mut seen, mut odd) = (BTreeMap::<i32, usize>::new(), 0);
    for (name, lines) in &captures {
        for line in lines {
            if line.bytes.len() % 4 != 0 {
                // A hand-made call with a payload that is no XDR.
                assert_eq!(name, "raw-misc");
                odd += 1;
                continue;
            }
            let message = Message::from_bytes(line.bytes.clone()).unwrap();
            assert_eq!(message.to_bytes(), line.bytes, "{name}");
            let Some(result) = round(&message) else {
                continue;
            };
            let context = format!("{name}: {:?}", message.header);
            let encoded = result.unwrap_or_else(|error| panic!("{context}: {error}"));
            if name == "raw-misc" && encoded.len() < message.payload.len() {
                // A hand-made call with bytes behind its arguments.
                assert!(message.payload.starts_with(&encoded), "{context}");
                odd += 1;
                continue;
            }
            assert_eq!(encoded, message.payload, "{context}");
            *seen.entry(message.header.procedure).or_default() += 1;
        }
    }
    assert_eq!(odd, 2, "hand-made calls");
    // Everything spoken here was seen but what no recorded client asks for.
    let missing: Vec<_> = Procedure::ALL
        .iter()
        .filter(|procedure| !seen.contains_key(&(**procedure as i32)))
        .collect();
    assert_eq!(
        missing,
        [
            &Procedure::ListDefinedNetworks,
            &Procedure::ListNetworks,
            &Procedure::NumOfDefinedNetworks,
            &Procedure::NumOfNetworks
        ]
    );
}

/// The ports that were there before a conversation was recorded.
fn ports_before(name: &str) -> Vec<String> {
    let port = |uuid: &str, owner: &str, mac: &str, more: &str| {
        format!(
            "<networkport><uuid>{uuid}</uuid><owner><name>vmx</name><uuid>{owner}</uuid></owner>\
             <mac address='{mac}'/>{more}</networkport>"
        )
    };
    let guest = || {
        port(
            "b06188db-a33c-4401-a617-00e3d12e05de",
            "cccccccc-0000-0000-0000-000000000001",
            "52:54:00:00:00:aa",
            "",
        )
    };
    let test = |more: &str| {
        port(
            "aaaaaaaa-0000-0000-0000-000000000009",
            "bbbbbbbb-0000-0000-0000-000000000001",
            "52:54:00:12:34:56",
            more,
        )
    };
    match name {
        "net-port-delete" | "net-port-dumpxml" | "net-port-list-nonempty" => vec![test("")],
        "virtqemud-domiftune" | "virtqemud-vm-destroy" => vec![guest()],
        _ => Vec::new(),
    }
}

#[test]
fn recorded_conversations_are_answered_the_same() {
    let Some(captures) = captures() else { return };
    for name in [
        "connect-uri",
        "version",
        "err-autostart-transient",
        "err-destroy-inactive",
        "err-noexist",
        "err-open-empty-name",
        "err-open-session-path",
        "err-start-active",
        "err-undefine-transient",
        "leases",
        "net-port-delete",
        "net-port-dumpxml",
        "net-port-list-nonempty",
        "python-port",
        "raw-emptyuri",
        "raw-noopen",
        "virtqemud-attach-floor-err",
        "virtqemud-domiftune",
        "virtqemud-reclaim-after-restart",
        "virtqemud-vm-destroy",
        "virtqemud-vm-start-2",
    ] {
        let server = Server::start();
        for xml in ports_before(name) {
            let driver = &server.driver;
            let create = driver.create_port(N1, &xml, PortPurpose::Plug, Unknown::Refuse);
            server.runtime.block_on(create).unwrap();
        }
        if name == "err-destroy-inactive" {
            server.runtime.block_on(server.driver.destroy(N1)).unwrap();
        }
        let lines = &captures[name];
        assert!(lines.len() > 3, "{name}");
        replay(&server, lines, name);
    }
}

/// Says what the client said, and expects what was answered then.
fn replay(server: &Server, lines: &[Line], name: &str) {
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    for line in lines {
        if line.from_client {
            stream.write_all(&line.bytes).unwrap();
            continue;
        }
        let recorded = Message::from_bytes(line.bytes.clone()).unwrap();
        let mut answer = vec![0; 4];
        stream.read_exact(&mut answer).unwrap();
        let len = u32::from_be_bytes(answer[..4].try_into().unwrap()) as usize;
        answer.resize(len, 0);
        stream.read_exact(&mut answer[4..]).unwrap();
        let answer = Message::from_bytes(answer.into()).unwrap();
        if recorded.header.status == STATUS_OK {
            assert_eq!(answer, recorded, "{name}");
            continue;
        }
        assert_eq!(answer.header, recorded.header, "{name}");
        let decode =
            |message: &Message| from_bytes::<RemoteError>(message.payload.clone()).unwrap();
        assert_eq!(decode(&answer), decode(&recorded), "{name}");
    }
}

/// go-libvirt's flag of an optional value is 0x01000000, and it waits for the reply of CLOSE.
#[test]
fn go_libvirt_is_answered_as_by_libvirts_daemon() {
    let lines: Vec<Line> = include_str!("go-libvirt.hex")
        .lines()
        .filter_map(line)
        .collect();
    assert_eq!(lines.len(), 34);
    let open = &lines[2];
    assert_eq!(open.bytes[28..32], [1, 0, 0, 0]);
    let server = Server::start();
    server.driver.clear();
    replay(&server, &lines, "go-libvirt");
    assert_eq!(server.driver.updates.lock().unwrap().len(), 1);
}
