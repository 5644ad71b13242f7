//! Hand-made messages, good and bad, against a live server.

use bytes::Bytes;
use netd::rpc::Limits;
use netd::rpc::message::{
    Header, MESSAGE_MAX, Message, PROGRAM_NETD, PROGRAM_REMOTE, STATUS_ERROR, STATUS_OK,
    TYPE_CALL_WITH_FDS, TYPE_MESSAGE, TYPE_REPLY,
};
use netd::rpc::procedures::{
    Access, IdentityArgs, ListArgs, ListReply, NetdProcedure, NetworkRef, OPEN_READ_ONLY, OpenArgs,
    Procedure, TypedParameter, TypedValue, XmlArgs, XmlDescArgs,
};
use netd::rpc::xdr::{List, from_bytes};
use tokio::io::AsyncWriteExt;

use crate::Server;
use crate::raw::{Raw, against, error, n1, numbers, open_args};

#[test]
fn impossible_lengths_end_the_connection_without_a_reply() {
    against(Limits::default(), |socket| async move {
        for len in [0_u32, 4, 27, MESSAGE_MAX as u32 + 1, u32::MAX] {
            let mut raw = Raw::open(&socket).await;
            raw.writer.write_all(&len.to_be_bytes()).await.unwrap();
            // The server may be gone before these arrive.
            let _ = raw.writer.write_all(&[0; 40]).await;
            assert!(raw.next().await.is_none(), "length {len}");
        }
    });
}

#[test]
fn strange_calls_are_answered_with_an_error() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let lookup = |header| Message::new(header, "n1").unwrap();

        for header in [raw.header(9999), raw.own_header(9999)] {
            let error = raw.refused(&lookup(header)).await;
            assert_eq!(numbers(&error), (39, 7));
            assert_eq!(error.text(), "unknown procedure: 9999");
        }

        let mut header = raw.header(1);
        header.program = 0x1234_5678;
        let error = raw.refused(&lookup(header)).await;
        assert_eq!(numbers(&error), (39, 7));
        assert_eq!(error.text(), "Cannot find program 305419896 version 1");

        let mut header = raw.header(46);
        header.version = 2;
        let error = raw.refused(&lookup(header)).await;
        assert_eq!(error.text(), "Cannot find program 536903814 version 2");

        let mut header = raw.header(46);
        header.status = STATUS_ERROR;
        assert_eq!(numbers(&raw.refused(&lookup(header)).await), (39, 7));

        // Not XDR at all: a length word, and three bytes that are no padded string.
        let header = raw.header(46);
        let payload = Bytes::from_static(b"\0\0\0dab");
        let error = raw.refused(&Message { header, payload }).await;
        assert_eq!(numbers(&error), (39, 7));
        assert!(
            error.text().starts_with("Unable to decode message payload"),
            "{error:?}"
        );

        let header = raw.header(46);
        let payload = Bytes::from_static(b"\0\0\0\x02n1\0\0junkjunk");
        raw.send(&Message { header, payload }).await;
        assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
    });
}

#[test]
fn messages_that_are_no_calls_are_ignored() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for kind in [TYPE_REPLY, TYPE_MESSAGE, 3, 77] {
            let mut header = raw.header(46);
            header.kind = kind;
            raw.send(&Message::new(header, "n1").unwrap()).await;
        }
        raw.ok(46, "n1").await;

        let mut header = raw.header(46);
        header.kind = TYPE_CALL_WITH_FDS;
        raw.send(&Message::new(header, &1_u32).unwrap()).await;
        assert!(
            raw.next().await.is_none(),
            "descriptors would break the framing"
        );
    });
}

#[test]
fn only_setting_up_is_possible_before_open() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        assert_eq!(&raw.ok(66, &()).await[..], b"\0\0\0\x01\0\0\0\0");
        assert_eq!(&raw.ok(60, &10).await[..], b"\0\0\0\x01");
        for (procedure, argument) in [(60, 14), (3, 0), (52, 0), (283, 1)] {
            let error = raw.fails(procedure, &argument).await;
            assert_eq!(numbers(&error), (1, 7), "procedure {procedure}");
            assert_eq!(error.text(), "internal error: connection not open");
        }
        let plan = Message::new(raw.own_header(1), &None::<String>).unwrap();
        assert_eq!(numbers(&raw.refused(&plan).await), (1, 7));

        for (name, expected) in [
            ("", (5, 0)),
            ("qemu:///system", (5, 0)),
            ("networkx:///system", (5, 0)),
            ("network:///session", (1, 0)),
            ("network://host/system", (1, 0)),
        ] {
            let error = raw.fails(1, &open_args(name, 0)).await;
            assert_eq!(numbers(&error), expected, "{name}: {error:?}");
        }
        let nameless = OpenArgs {
            name: None,
            flags: 0,
        };
        assert_eq!(numbers(&raw.fails(1, &nameless).await), (5, 0));
        raw.ok(1, &open_args("network:///system?x=y", 4)).await;
        raw.ok(46, "n1").await;
        let error = raw.fails(1, &open_args("network:///system", 0)).await;
        assert_eq!(numbers(&error), (1, 7));
        raw.ok(46, "n1").await;
    });
}

#[test]
fn connection_calls_answer_as_libvirts_daemon_does() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for (expected, features) in [(1, &[10, 14, 15, 16, 9][..]), (0, &[8, 1, 99])] {
            for feature in features {
                let answer: i32 = from_bytes(raw.ok(60, feature).await).unwrap();
                assert_eq!(answer, expected, "feature {feature}");
            }
        }
        assert_eq!(
            from_bytes::<String>(raw.ok(3, &()).await).unwrap(),
            "network"
        );
        assert_eq!(
            from_bytes::<String>(raw.ok(110, &()).await).unwrap(),
            "network:///system"
        );
        assert_eq!(from_bytes::<i32>(raw.ok(149, &()).await).unwrap(), 1);
        assert_eq!(
            from_bytes::<u64>(raw.ok(157, &()).await).unwrap(),
            12_008_000
        );
        for procedure in [360, 360, 361, 361] {
            assert!(raw.ok(procedure, &()).await.is_empty());
        }
        let identity = IdentityArgs {
            parameters: List(vec![TypedParameter {
                field: "user-name".into(),
                value: TypedValue::String("root".into()),
            }]),
            flags: 0,
        };
        raw.ok(419, &identity).await;
        for procedure in [4, 7, 59] {
            let error = raw.fails(procedure, &()).await;
            assert_eq!(error.code, 3);
            assert!(
                error.text().starts_with(
                    "this function is not supported by the connection driver: virConnect"
                ),
                "{error:?}"
            );
        }
        // Another driver's: its function is named.
        for (procedure, domain, function) in [
            (6, 20, "virNodeGetInfo"),
            (403, 18, "virConnectGetStoragePoolCapabilities"),
            (411, 69, "virDomainCheckpointCreateXML"),
        ] {
            let error = raw.fails(procedure, &()).await;
            assert_eq!(numbers(&error), (3, domain));
            assert!(error.text().ends_with(function), "{error:?}");
        }
        // Registrations for another driver's events: there are none.
        let error = raw.fails(106, &()).await;
        assert_eq!(numbers(&error), (1, 7));
        assert_eq!(
            error.text(),
            "internal error: domain event 0 not registered"
        );
        let error = raw.fails(168, &5_i32).await;
        assert_eq!(
            error.text(),
            "internal error: domain event 5 not registered"
        );
        // Nobody's: clients turn these words into "not supported".
        for procedure in [315, 469] {
            let error = raw.fails(procedure, &()).await;
            assert_eq!(numbers(&error), (39, 7));
            assert_eq!(error.level, 2);
            assert_eq!(error.text(), format!("unknown procedure: {procedure}"));
        }
    });
}

#[test]
fn unknown_flags_are_refused_by_name() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let list = ListArgs {
            need_results: 1,
            flags: 0x40,
        };
        let error = raw.fails(283, &list).await;
        assert_eq!(numbers(&error), (8, 19));
        assert_eq!(
            error.text(),
            "unsupported flags (0x40) in function networkConnectListAllNetworks"
        );
        let desc = XmlDescArgs {
            network: n1(),
            flags: 6,
        };
        assert_eq!(
            raw.fails(43, &desc).await.text(),
            "unsupported flags (0x6) in function networkGetXMLDesc"
        );
        let xml = XmlArgs {
            xml: "<network><name>f</name></network>".into(),
            flags: 2,
        };
        assert_eq!(raw.fails(432, &xml).await.code, 8);
        assert_eq!(raw.fails(437, &xml).await.code, 8);
        raw.ok(432, &XmlArgs { flags: 1, ..xml }).await;
    });
}

#[test]
fn lists_count_filter_and_cut() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let count = |bytes| from_bytes::<i32>(bytes).unwrap();
        assert_eq!(count(raw.ok(52, &()).await), 3);
        assert_eq!(count(raw.ok(50, &()).await), 4);
        let names = |bytes| from_bytes::<List<String, 100>>(bytes).unwrap().0;
        assert_eq!(names(raw.ok(38, &16).await), ["n1", "n2t", "ünï 網"]);
        assert_eq!(names(raw.ok(38, &1).await), ["n1"]);
        assert_eq!(
            names(raw.ok(36, &16).await),
            ["Zoo bare", "default", "panic", "slow"]
        );
        assert_eq!(raw.fails(36, &-1).await.code, 8);
        for (flags, expected) in [
            (0, 7),
            (3, 7),
            (2, 3),
            (1, 4),
            (4 | 8, 7),
            (8, 1),
            (16, 2),
            (1 | 16, 1),
            (32, 5),
        ] {
            for need_results in [0, 1] {
                let args = ListArgs {
                    need_results,
                    flags,
                };
                let reply: ListReply = from_bytes(raw.ok(283, &args).await).unwrap();
                assert_eq!(reply.count, expected, "flags {flags}");
                assert_eq!(
                    reply.networks.0.len() as u32,
                    expected * need_results as u32
                );
            }
        }
        // The name in a reference is not looked at.
        assert_eq!(count(raw.ok(152, &n1()).await), 1);
        assert_eq!(
            from_bytes::<String>(raw.ok(45, &n1()).await).unwrap(),
            "br-n1"
        );
        let bare = NetworkRef {
            name: String::new(),
            uuid: uuid::Uuid::from_u128(7),
        };
        let error = raw.fails(45, &bare).await;
        assert_eq!(numbers(&error), (1, 19));
    });
}

#[test]
fn a_read_only_connection_refuses_every_change() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        raw.ok(1, &open_args("network:///system", 1)).await;
        for procedure in [39, 40, 41, 42, 48, 49, 432, 437] {
            let error = raw.fails(procedure, &n1()).await;
            assert_eq!(numbers(&error), (29, 19), "procedure {procedure}");
        }
        assert_eq!(
            raw.fails(42, &n1()).await.text(),
            "operation forbidden: read only access prevents virNetworkDestroy"
        );
        raw.ok(46, "n1").await;
    });
}

/// The oracle is libvirt's word for what a function does, not the declaration that is tested.
fn changes(function: &str) -> bool {
    let lists = function.contains("List") || function.contains("NumOf");
    let words = [
        "NetworkCreate",
        "NetworkDefine",
        "NetworkDestroy",
        "NetworkUndefine",
        "NetworkUpdate",
        "NetworkSet",
        "NetworkPortCreate",
        "NetworkPortSet",
        "NetworkPortDelete",
        "ban change",
        "flows kill",
        "forward change",
        "hand over",
        "reload",
        "net-apply",
    ];
    !lists && words.iter().any(|word| function.contains(word))
}

#[test]
fn a_read_only_client_changes_nothing_by_any_procedure() {
    let server = Server::start();
    let before = server.driver.networks();
    let libvirts = Procedure::ALL
        .iter()
        .map(|p| (PROGRAM_REMOTE, *p as i32, p.function(), p.access()));
    let netds = NetdProcedure::ALL
        .iter()
        .map(|p| (PROGRAM_NETD, *p as i32, p.function(), p.access()));
    let all: Vec<_> = libvirts.chain(netds).collect();
    let mut refused = 0;
    for (program, procedure, function, access) in all {
        assert_eq!(access == Access::Write, changes(function), "{function}");
        let error = server.runtime.block_on(async {
            let mut raw = Raw::connect(&server.socket).await;
            if function != "virConnectOpen" {
                raw.ok(1, &open_args("network:///system", OPEN_READ_ONLY))
                    .await;
            }
            let header = Header {
                program,
                ..raw.header(procedure)
            };
            // The beginning of what most of them take.
            raw.send(&Message::new(header, &n1()).unwrap()).await;
            let reply = raw.next().await.unwrap();
            (reply.header.status == STATUS_ERROR).then(|| error(&reply))
        });
        let is_refused = error.as_ref().is_some_and(|error| error.code == 29);
        assert_eq!(is_refused, changes(function), "{function}: {error:?}");
        if let Some(error) = error.filter(|_| is_refused) {
            refused += 1;
            assert_eq!(
                error.text(),
                format!("operation forbidden: read only access prevents {function}")
            );
        }
    }
    assert_eq!(refused, 19);
    assert_eq!(server.driver.networks(), before);
    assert!(server.driver.updates.lock().unwrap().is_empty());
    assert!(server.driver.changes.lock().unwrap().is_empty());
    assert!(server.driver.handovers.lock().unwrap().is_empty());
    assert!(server.driver.bans.lock().unwrap().is_empty());
    assert!(server.driver.kills.lock().unwrap().is_empty());
}

#[test]
fn what_nobody_knows_is_refused_where_it_is_asked_for() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let xml = |flags| XmlArgs {
            xml: "<network><name>v</name><bogus/></network>".to_owned(),
            flags,
        };
        for procedure in [432, 437] {
            let error = raw.fails(procedure, &xml(1)).await;
            assert_eq!(numbers(&error), (92, 5), "{}", error.text());
            assert_eq!(
                error.text(),
                "XML document failed to validate against schema: <bogus> is not known"
            );
            assert_eq!(numbers(&raw.fails(procedure, &xml(2)).await), (8, 19));
        }
        raw.ok(432, &xml(0)).await;
    });
}

#[test]
fn a_call_that_panics_is_answered() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let network = NetworkRef {
            name: "panic".into(),
            uuid: uuid::Uuid::from_u128(10),
        };
        for _ in 0..10 {
            let error = raw.fails(39, &network).await;
            assert_eq!(numbers(&error), (1, 19));
        }
        raw.ok(46, "n1").await;
    });
}
