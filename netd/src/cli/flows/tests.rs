use netd_common::state::State;

use super::follow::{Event, Followed};
use super::*;
use crate::api::Direction;

fn direction(source: &str, destination: &str, bridge: u32, way_out: u32) -> Direction {
    Direction {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        bridge,
        way_out,
        by_stack: false,
        packets: 3,
        bytes: 300,
    }
}

/// A guest's connection that is masqueraded.
fn flow() -> Flow {
    Flow {
        protocol: 6,
        state: State::Established,
        idle: 150,
        expires: 432_000,
        sent: direction("10.0.0.2:5000", "192.0.2.1:443", 5, 2),
        received: direction("192.0.2.1:443", "198.51.100.2:1024", 0, 9),
    }
}

fn names() -> FlowNames {
    let guest = |address: &str, domain: Option<&str>, hostname: Option<&str>| GuestAddress {
        address: address.parse().unwrap(),
        bridge: 5,
        mac: Some("52:54:00:00:00:0a".to_owned()),
        hostname: hostname.map(str::to_owned),
        domain: domain.map(str::to_owned),
        lease: None,
        seen_at: Some(9),
        seen: Some(2),
    };
    FlowNames {
        networks: [(5, "default".to_owned())].into(),
        devices: [(2, "eth0".to_owned()), (9, "vnet0".to_owned())].into(),
        guests: vec![
            guest("10.0.0.2", Some("vm-web"), Some("web")),
            GuestAddress {
                mac: None,
                seen_at: None,
                ..guest("10.0.0.3", None, Some("db"))
            },
        ],
    }
}

fn row(flow: &Flow) -> String {
    Told::new(flow, &Names::from(names())).cells().join("|")
}

#[test]
fn a_connection_is_a_row() {
    let mut flow = flow();
    assert_eq!(
        row(&flow),
        "default|vm-web|tcp|established|10.0.0.2:5000|192.0.2.1:443|as 198.51.100.2:1024|eth0|fast|2m|3/3|300/300"
    );
    flow.received.by_stack = true;
    assert!(row(&flow).contains("|fast/stack|"), "{}", row(&flow));
    // A published port of a guest without a domain, asked for by one with.
    flow.sent = direction("10.0.0.2:5000", "198.51.100.2:8080", 5, 9);
    flow.received = direction("10.0.0.3:80", "10.0.0.2:5000", 5, 9);
    let text = row(&flow);
    assert!(text.starts_with("default|vm-web > db|tcp|"), "{text}");
    assert!(text.contains("|to 10.0.0.3:80|vnet0|fast|"), "{text}");
    // A mapping: anybody is its peer.
    flow.sent = direction("10.0.0.7:5000", "0.0.0.0:0", 5, 0);
    flow.received = direction("0.0.0.0:0", "198.51.100.2:1024", 0, 0);
    let text = row(&flow);
    assert!(
        text.contains("default|-|tcp|established|10.0.0.7:5000|*|as 198.51.100.2:1024|-|"),
        "{text}"
    );
}

#[test]
fn connections_are_printed_piece_by_piece() {
    let names = Names::from(names());
    let mut output = Output::new(false);
    let mut printer = Printer::new(true, &mut output);
    for flows in [vec![flow()], Vec::new(), vec![flow(), flow()]] {
        printer.print(&flows, &names, &mut output).unwrap();
    }
    printer.end(&mut output);
    let json: serde_json::Value = serde_json::from_str(output.text()).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["flows"].as_array().map(Vec::len), Some(3));
    let first = &json["flows"][0];
    for (field, value) in [
        ("source", "10.0.0.2:5000"),
        ("translated_source", "198.51.100.2:1024"),
        ("source_guest", "vm-web"),
        ("way_back", "vnet0"),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    assert!(first["translated_destination"].is_null(), "{first}");
    let mut output = Output::new(false);
    Printer::new(true, &mut output).end(&mut output);
    let json: serde_json::Value = serde_json::from_str(output.text()).unwrap();
    assert_eq!(json["flows"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_guest_goes_by_any_of_its_names() {
    let names = names();
    for name in ["vm-web", "web", "WEB", "52:54:00:00:00:0A", "vnet0"] {
        let found = addresses(&names, name);
        assert_eq!(found, Ok(vec!["10.0.0.2".parse().unwrap()]), "{name}");
    }
    for name in ["vnet", "", "eth0", "nobody"] {
        let failure = addresses(&names, name).unwrap_err().to_string();
        assert!(failure.contains(&format!("guest '{name}'")), "{failure}");
    }
}

#[test]
fn what_differs_between_two_looks_is_told() {
    let mut followed = Followed::default();
    let events = |told: Vec<(Event, Flow)>| -> Vec<Event> {
        told.into_iter().map(|(event, _)| event).collect()
    };
    let mut first = flow();
    assert_eq!(followed.see(first.clone()).map(|it| it.0), Some(Event::New));
    let other = Flow {
        protocol: 17,
        ..flow()
    };
    assert_eq!(followed.see(other).map(|it| it.0), Some(Event::New));
    assert!(followed.end_look().is_empty());

    // More packets are nothing new; another state is, and the other connection is gone.
    first.sent.packets += 1;
    assert_eq!(followed.see(first.clone()), None);
    first.state = State::FinWait;
    assert_eq!(
        followed.see(first.clone()).map(|it| it.0),
        Some(Event::Changed)
    );
    let ended = followed.end_look();
    assert_eq!(ended[0].1.protocol, 17);
    assert_eq!(events(ended), [Event::Ended]);
    assert_eq!(events(followed.end_look()), [Event::Ended]);
    assert!(followed.end_look().is_empty());
}
