//! Ports of networks over a live server: calls 404 to 410.

use netd::rpc::Limits;
use netd::rpc::procedures::{
    CreatePortArgs, GetPortParametersArgs, ListPortsArgs, ListPortsReply, LookupPortArgs,
    NetworkRef, PortArgs, PortParametersReply, PortRef, SetPortParametersArgs, TypedParameter,
    TypedValue,
};
use netd::rpc::xdr::{List, from_bytes};
use uuid::Uuid;

use crate::raw::{Raw, against, n1, numbers};

const PORT: Uuid = Uuid::from_u128(0xaaaaaaaa_0000_0000_0000_000000000001);

fn create(more: &str, flags: u32) -> CreatePortArgs {
    CreatePortArgs {
        network: n1(),
        xml: format!(
            "<networkport><uuid>{PORT}</uuid><owner><name>vm</name><uuid>{PORT}</uuid></owner>\
             <mac address='52:54:00:12:34:56'/>{more}</networkport>"
        ),
        flags,
    }
}

fn port() -> PortRef {
    PortRef {
        network: n1(),
        uuid: PORT,
    }
}

fn port_args(flags: u32) -> PortArgs {
    PortArgs {
        port: port(),
        flags,
    }
}

async fn listed(raw: &mut Raw, need_results: i32) -> ListPortsReply {
    let args = ListPortsArgs {
        network: n1(),
        need_results,
        flags: 0,
    };
    from_bytes(raw.ok(404, &args).await).unwrap()
}

#[test]
fn a_port_is_made_listed_read_and_deleted() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        assert_eq!(listed(&mut raw, 1).await.count, 0);
        let made: PortRef = from_bytes(raw.ok(406, &create("", 0)).await).unwrap();
        assert_eq!(made, port());
        let list = listed(&mut raw, 1).await;
        assert_eq!((list.ports.0, list.count), (vec![port()], 1));
        let counted = listed(&mut raw, 0).await;
        assert_eq!((counted.ports.0.len(), counted.count), (0, 1));
        let args = LookupPortArgs {
            network: n1(),
            uuid: PORT,
        };
        let found: PortRef = from_bytes(raw.ok(405, &args).await).unwrap();
        assert_eq!(found, port());
        let xml: String = from_bytes(raw.ok(409, &port_args(0)).await).unwrap();
        assert!(
            xml.contains("<plug type='network' bridge='virbr77'/>"),
            "{xml}"
        );
        let error = raw.fails(406, &create("", 0)).await;
        assert_eq!(numbers(&error), (106, 19));
        let detail = format!("Network port with UUID {PORT} already exists");
        assert_eq!(
            error.text(),
            format!("network port {detail} exists already")
        );
        assert_eq!(
            error.str1.as_deref(),
            Some("network port %1$s exists already")
        );
        assert_eq!(error.str2.as_deref(), Some(detail.as_str()));
        raw.ok(410, &port_args(0)).await;
        for (procedure, error) in [
            (405, raw.fails(405, &args).await),
            (409, raw.fails(409, &port_args(0)).await),
            (410, raw.fails(410, &port_args(0)).await),
        ] {
            assert_eq!(numbers(&error), (107, 19), "{procedure}");
            assert_eq!(
                error.text(),
                format!("network port not found: Network port with UUID {PORT} does not exist")
            );
        }
    });
}

#[test]
fn limits_of_ports_go_as_parameters() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        raw.ok(406, &create("", 0)).await;
        let get = GetPortParametersArgs {
            port: port(),
            count: 0,
            flags: 0,
        };
        let none: PortParametersReply = from_bytes(raw.ok(407, &get).await).unwrap();
        assert_eq!((none.parameters.0.len(), none.count), (0, 0));
        let parameter = |field: &str, value| TypedParameter {
            field: field.to_owned(),
            value,
        };
        let set = |parameters: Vec<TypedParameter>, flags| SetPortParametersArgs {
            port: port(),
            parameters: List(parameters),
            flags,
        };
        let new = vec![
            parameter("outbound.average", TypedValue::Uint(7)),
            parameter("inbound.burst", TypedValue::Uint(9)),
            parameter("inbound.average", TypedValue::Uint(u32::MAX)),
        ];
        raw.ok(408, &set(new.clone(), 0)).await;
        let got: PortParametersReply = from_bytes(raw.ok(407, &get).await).unwrap();
        let expected = [
            ("inbound.average", u32::MAX),
            ("inbound.peak", 0),
            ("inbound.floor", 0),
            ("inbound.burst", 9),
            ("outbound.average", 7),
            ("outbound.peak", 0),
            ("outbound.burst", 0),
        ];
        let expected = expected.map(|(field, value)| parameter(field, TypedValue::Uint(value)));
        assert_eq!(got.parameters.0, expected);
        for bad in [
            parameter("inbound.average", TypedValue::Int(5)),
            parameter("inbound.speed", TypedValue::Uint(5)),
        ] {
            assert_eq!(numbers(&raw.fails(408, &set(vec![bad], 0)).await), (8, 19));
        }
        assert_eq!(
            numbers(&raw.fails(408, &set(new.clone(), 1)).await),
            (8, 19)
        );
        let floor = vec![parameter("inbound.floor", TypedValue::Uint(5))];
        assert_eq!(numbers(&raw.fails(408, &set(floor, 0)).await), (84, 19));
        // Nothing of what was refused is left.
        let same: PortParametersReply = from_bytes(raw.ok(407, &get).await).unwrap();
        assert_eq!(same.parameters.0, expected);
        raw.ok(408, &set(Vec::new(), 0)).await;
        let none: PortParametersReply = from_bytes(raw.ok(407, &get).await).unwrap();
        assert_eq!(none.parameters.0, []);
    });
}

#[test]
fn flags_and_networks_of_ports_are_checked() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let error = raw.fails(406, &create("", 4)).await;
        assert_eq!(numbers(&error), (8, 19));
        assert_eq!(
            error.text(),
            "unsupported flags (0x4) in function networkPortCreateXML"
        );
        assert_eq!(numbers(&raw.fails(409, &port_args(1)).await), (8, 19));
        assert_eq!(numbers(&raw.fails(410, &port_args(1)).await), (8, 19));
        assert_eq!(
            numbers(&raw.fails(406, &create("<bogus/>", 2)).await),
            (92, 5)
        );
        raw.ok(406, &create("<bogus/>", 0)).await;
        let error = raw.fails(406, &create("<mac", 0)).await;
        assert_eq!(error.code, 35, "{error:?}");
        let of = |number: u128| ListPortsArgs {
            network: NetworkRef {
                name: "any".to_owned(),
                uuid: Uuid::from_u128(number),
            },
            need_results: 1,
            flags: 0,
        };
        assert_eq!(numbers(&raw.fails(404, &of(99)).await), (43, 19));
        assert_eq!(numbers(&raw.fails(404, &of(7)).await), (55, 19));
    });
}
