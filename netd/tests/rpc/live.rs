//! What changes while a network runs: forwards by netd's own calls, metadata by libvirt's.

use netd::rpc::procedures::{
    AFFECT_CONFIG, AFFECT_LIVE, GetMetadataArgs, METADATA_DESCRIPTION, METADATA_ELEMENT,
    SetMetadataArgs,
};
use netd::rpc::server::Limits;
use netd::rpc::xdr::from_bytes;

use crate::raw::{Raw, against, n1, numbers};
use crate::{Server, netd, ran};

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
            (get(3, None, 0), "unknown metadata type 3"),
            (get(METADATA_ELEMENT, None, 0), "needs a uri"),
            (get(METADATA_ELEMENT, Some(""), 0), "needs a uri"),
            (get(METADATA_DESCRIPTION, Some(URI), 0), "has no uri"),
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
