//! What changes while a network runs: forwards by netd's own calls, metadata and entries by
//! libvirt's.

use netd::api::Affect;
use netd::model::{Section, Update, UpdateCommand};
use netd::rpc::Limits;
use netd::rpc::procedures::{
    AFFECT_CONFIG, AFFECT_LIVE, GetMetadataArgs, METADATA_DESCRIPTION, METADATA_ELEMENT,
    OPEN_READ_ONLY, SetMetadataArgs, UpdateArgs,
};
use netd::rpc::xdr::from_bytes;

use crate::raw::{Raw, against, n1, numbers, open_args};
use crate::{Server, netd, ran, virsh};

const GET: i32 = 445;
const SET: i32 = 444;
const URI: &str = "urn:netd:network:1";

fn get(kind: i32, uri: Option<&str>, flags: u32) -> GetMetadataArgs {
    GetMetadataArgs {
        network: n1(),
        kind,
        uri: uri.map(str::to_owned),
        flags,
    }
}

#[test]
fn metadata_is_kept_and_given_back() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let element = get(METADATA_ELEMENT, Some(URI), AFFECT_LIVE);
        let error = raw.fails(GET, &element).await;
        assert_eq!(numbers(&error), (111, 19));
        let set = SetMetadataArgs {
            network: n1(),
            kind: METADATA_ELEMENT,
            metadata: Some("<forwards/>".to_owned()),
            key: Some("netd".to_owned()),
            uri: Some(URI.to_owned()),
            flags: AFFECT_LIVE,
        };
        raw.ok(SET, &set).await;
        let text: String = from_bytes(raw.ok(GET, &element).await).unwrap();
        assert_eq!(text, "<forwards/>");
        // Of the other definition nothing was said.
        let config = get(METADATA_ELEMENT, Some(URI), AFFECT_CONFIG);
        assert_eq!(numbers(&raw.fails(GET, &config).await), (111, 19));
        let remove = SetMetadataArgs {
            metadata: None,
            ..set
        };
        raw.ok(SET, &remove).await;
        assert_eq!(numbers(&raw.fails(GET, &element).await), (111, 19));
    });
}

#[test]
fn strange_metadata_calls_are_refused() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for (args, words) in [
            (get(3, None, 0), "unknown metadata type '3'"),
            (get(METADATA_ELEMENT, None, 0), "needs a uri"),
            (get(METADATA_ELEMENT, Some(""), 0), "is not present"),
            (get(METADATA_DESCRIPTION, Some(URI), 0), "has no uri"),
            (
                get(METADATA_ELEMENT, Some(&"u".repeat(4097)), 0),
                "4097 bytes; 4096 is the most",
            ),
            (get(METADATA_DESCRIPTION, None, 8), "unsupported flags"),
        ] {
            let error = raw.fails(GET, &args).await;
            assert!(error.text().contains(words), "{}", error.text());
        }
    });
}

#[test]
fn forwards_are_added_listed_and_deleted_by_the_command_line() {
    let server = Server::start();
    let run = |words: &str| ran(netd(&server.socket).args(words.split(' ')));
    let added = run("forward add n1 tcp 8080-8089 192.168.177.15:80 --dev eth0 --live --config");
    assert!(added.code == Some(0), "{added:?}");
    assert!(
        added.stdout.contains("Network n1 publishes tcp"),
        "{added:?}"
    );
    assert!(added.stderr.contains("warning: sshd (pid 7)"), "{added:?}");
    let change = server.driver.changes.lock().unwrap()[0].clone();
    assert_eq!(change.network, "n1");
    assert!(change.affect.live && change.affect.config);
    let listed = run("forward list n1");
    for word in [
        "tcp",
        "dev eth0",
        "8080-8089",
        "192.168.177.15",
        "80-89",
        "live",
    ] {
        assert!(listed.stdout.contains(word), "{word}: {listed:?}");
    }
    let refused = run("forward delete n1 tcp 8080");
    assert!(
        refused.code == Some(1) && refused.stderr.contains("publishes nothing"),
        "{refused:?}"
    );
    let reload = run("reload");
    assert!(
        reload.stdout.contains("network 'n1': definition read"),
        "{reload:?}"
    );
    assert!(
        reload.stderr.contains("network 'n2': not read"),
        "{reload:?}"
    );
    assert_eq!(reload.code, Some(1), "{reload:?}");
    for (words, message) in [
        ("forward add n1 tcp 80", "A port and a guest are needed"),
        (
            "forward add n1 all 80 10.0.0.1 --address 1.2.3.4",
            "no ports",
        ),
        (
            "forward add n1 icmp 80 10.0.0.1",
            "protocol 'icmp' should be",
        ),
        ("forward add n1 tcp 0 10.0.0.1", "no port or range"),
        ("forward add n1 tcp 80 [fd00::1", "is no guest"),
    ] {
        let refused = run(words);
        assert!(
            refused.code == Some(1) && refused.stderr.contains(message),
            "{refused:?}"
        );
    }
}

const UPDATE: i32 = 291;
const HOST: &str = "<host ip='192.168.177.60'><hostname>foo</hostname></host>";

fn update_args(command: u32, section: u32, parent_index: i32, flags: u32) -> UpdateArgs {
    UpdateArgs {
        network: n1(),
        command,
        section,
        parent_index,
        xml: HOST.to_owned(),
        flags,
    }
}

#[test]
fn an_entry_is_changed_as_it_is_asked_for() {
    let server = Server::start();
    let socket = server.socket.clone();
    server.runtime.block_on(async {
        let mut raw = Raw::open(&socket).await;
        raw.ok(UPDATE, &update_args(3, 10, -1, 0)).await;
        raw.ok(UPDATE, &update_args(2, 4, 1, AFFECT_LIVE | AFFECT_CONFIG))
            .await;
        for (args, code, words) in [
            (
                update_args(3, 10, -1, 4),
                (8, 19),
                "unsupported flags (0x4)",
            ),
            (update_args(0, 10, -1, 0), (84, 19), "command code 0"),
            (update_args(5, 10, -1, 0), (84, 19), "command code 5"),
            (update_args(3, 0, -1, 0), (84, 19), "unrecognized section"),
            (update_args(3, 13, -1, 0), (84, 19), "unrecognized section"),
        ] {
            let error = raw.fails(UPDATE, &args).await;
            assert_eq!(numbers(&error), code, "{}", error.text());
            assert!(error.text().contains(words), "{}", error.text());
        }
        let mut reader = Raw::connect(&socket).await;
        let read_only = open_args("network:///system", OPEN_READ_ONLY);
        reader.ok(1, &read_only).await;
        let error = reader.fails(UPDATE, &update_args(3, 10, -1, 0)).await;
        assert_eq!(numbers(&error), (29, 19));
    });
    let updates = server.driver.updates.lock().unwrap();
    let update = |command, section, parent_index, live, config| {
        let xml = HOST.to_owned();
        let update = Update {
            command,
            section,
            parent_index,
            xml,
        };
        (update, Affect { live, config })
    };
    let (add, delete) = (UpdateCommand::AddLast, UpdateCommand::Delete);
    assert_eq!(
        *updates,
        [
            update(add, Section::DnsHost, None, false, false),
            update(delete, Section::IpDhcpHost, Some(1), true, true),
        ]
    );
}

#[test]
fn net_update_says_what_virsh_says() {
    let server = Server::start();
    let file = server.file("host.xml", HOST).display().to_string();
    let missing = server.dir.path().join("missing.xml").display().to_string();
    for words in [
        ["n1", "add", "dns-host", HOST].as_slice(),
        &["n1", "add-last", "dns-host", &file, "--live"],
        &["n1", "add-first", "dns-host", HOST, "--config"],
        &["n1", "modify", "dns-host", HOST, "--live", "--config"],
        &["n1", "delete", "dns-host", HOST, "--current"],
        &["n1", "add", "ip-dhcp-host", HOST, "--parent-index", "1"],
        &["n1", "add", "ip-dhcp-host", HOST, "--parent-index", "-1"],
        &["default", "add", "portgroup", "<portgroup name='a'/>"],
        &["default", "add", "dns-host", HOST, "--live"],
        &["nobody", "add", "dns-host", HOST],
        &["n1", "none-such", "dns-host", HOST],
        &["n1", "add", "dns", HOST],
        &["n1", "add", "dns-host", &missing],
        &["n1", "add", "dns-host", HOST, "--current", "--live"],
        &["n1", "add", "dns-host", HOST, "--current", "--config"],
    ] {
        let before = server.driver.updates.lock().unwrap().len();
        let ours = ran(netd(&server.socket).arg("net-update").args(words));
        let Some(mut virsh) = virsh(&server.socket) else {
            return;
        };
        let theirs = ran(virsh.arg("net-update").args(words));
        assert_eq!(ours, theirs, "{words:?}");
        let updates = server.driver.updates.lock().unwrap();
        match updates[before..] {
            [] => assert_ne!(ours.code, Some(0), "{words:?}"),
            [ref ours, ref theirs] => assert_eq!(ours, theirs, "{words:?}"),
            ref other => panic!("{words:?}: {other:?}"),
        }
    }
}
