//! Random ports: what is written is read again, and nobody is promised what is not there.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::element::{NativeVlan, Rate, VlanTag};
use crate::model::parse;

/// A port with these elements beside what every port has.
fn port(number: u128, more: &str) -> NetworkPort {
    let uuid = Uuid::from_u128(number);
    let xml = format!(
        "<networkport><uuid>{uuid}</uuid><owner><name>vm</name><uuid>{uuid}</uuid></owner>\
         <mac address='52:54:00:7b:35:93'/>{more}</networkport>"
    );
    parse_port(&xml).unwrap().port
}

fn bandwidth() -> impl Strategy<Value = Option<Bandwidth>> {
    let rate = |floor: bool| {
        let positive = || prop::option::of(1_u64..1 << 40);
        let floor = positive().prop_map(move |value| value.filter(|_| floor));
        (0_u64..1 << 40, positive(), positive(), floor).prop_map(|(average, peak, burst, floor)| {
            Rate {
                average,
                peak,
                burst,
                floor,
            }
        })
    };
    let both = (prop::option::of(rate(true)), prop::option::of(rate(false)));
    both.prop_map(|(inbound, outbound)| {
        let bandwidth = Bandwidth { inbound, outbound };
        (bandwidth != Bandwidth::default()).then_some(bandwidth)
    })
}

fn vlan() -> impl Strategy<Value = Option<Vlan>> {
    let native = prop_oneof![
        Just(None),
        Just(Some(NativeVlan::Tagged)),
        Just(Some(NativeVlan::Untagged))
    ];
    let tag = (0_u16..4096, native).prop_map(|(id, native)| VlanTag { id, native });
    prop::option::of(tag).prop_map(|tag| {
        tag.map(|tag| Vlan {
            trunk: true,
            tags: vec![
                tag,
                VlanTag {
                    id: 7,
                    native: None,
                },
            ],
        })
    })
}

fn plug() -> impl Strategy<Value = Option<Plug>> {
    prop_oneof![
        Just(None),
        "[a-z]{1,15}".prop_map(|bridge| Some(Plug::Network(BridgePlug {
            bridge,
            mac_table_manager: None,
        }))),
        "[a-z]{1,15}".prop_map(|dev| Some(Plug::Direct {
            dev,
            mode: MacvtapMode::Private
        })),
        any::<(u32, u8)>().prop_map(|(domain, bus)| Some(Plug::HostdevPci {
            managed: Some(bus % 2 == 0),
            driver: None,
            address: PciAddress {
                domain,
                bus,
                slot: 1,
                function: 7
            },
        })),
    ]
}

fn any_port() -> impl Strategy<Value = NetworkPort> {
    let text = "[a-zé][a-z0-9<>&'\" é\t\n\r]{0,12}";
    let of = || prop::option::of(any::<bool>());
    let names = (text, prop::option::of(text), any::<[u8; 6]>());
    (
        names,
        any::<(u128, u128)>(),
        bandwidth(),
        vlan(),
        of(),
        of(),
        plug(),
    )
        .prop_map(
            |((name, group, mut mac), (uuid, owner), bandwidth, vlan, isolated, trust, plug)| {
                mac[0] &= 0xfe;
                NetworkPort {
                    uuid: Uuid::from_u128(uuid),
                    owner: Owner {
                        name,
                        uuid: Uuid::from_u128(owner),
                    },
                    group,
                    mac: Mac(mac),
                    virtualport: None,
                    class_id: bandwidth.as_ref().map(|_| 3),
                    bandwidth,
                    vlan,
                    isolated,
                    trust_guest_rx_filters: trust,
                    plug,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(port in any_port()) {
        let text = format_port(&port);
        let parsed = parse_port(&text);
        prop_assert_eq!(parsed.map(|p| (p.port, p.unknown)), Ok((port, Vec::new())));
    }

    #[test]
    fn floors_never_exceed_what_the_network_has(floors in prop::collection::vec(1_u64..700, 1..12)) {
        let limited = parse(
            "<network><name>n</name><bridge name='b'/>\
             <bandwidth><inbound average='1000'/></bandwidth></network>",
        )
        .unwrap();
        let mut granted = NetworkPorts::default();
        for (number, floor) in (0..).zip(floors) {
            let more = format!("<bandwidth><inbound floor='{floor}'/></bandwidth>");
            let fits = granted.floor_sum() + floor <= 1000;
            let port = port(number, &more).allocate(&limited, &granted);
            prop_assert_eq!(port.is_ok(), fits);
            if let Ok(port) = port {
                granted.insert(port);
            }
            let classes: BTreeSet<_> = granted.iter().map(|p| p.class_id).collect();
            prop_assert_eq!(classes.len(), granted.len());
        }
        prop_assert!(granted.floor_sum() <= 1000);
    }
}
