//! Random networks that the parser would give, over all modes and elements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// Text that needs escaping here and there.
fn text() -> impl Strategy<Value = String> {
    "[a-zé][a-z0-9<>&'\" é\t\n\r]{0,12}"
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}"
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    (1_u32..0xe000_0000).prop_map(Ipv4Addr::from)
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u64>().prop_map(|n| Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(n)))
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![ipv4().prop_map(IpAddr::V4), ipv6().prop_map(IpAddr::V6)]
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(|mut bytes| {
        bytes[0] &= 0xfe;
        Mac(bytes)
    })
}

fn lease() -> impl Strategy<Value = Option<LeaseTime>> {
    let unit = prop_oneof![
        Just(LeaseUnit::Seconds),
        Just(LeaseUnit::Minutes),
        Just(LeaseUnit::Hours)
    ];
    let infinite = Just(LeaseTime {
        expiry: 0,
        unit: LeaseUnit::Minutes,
    });
    let finite = (120_u32.., unit).prop_map(|(expiry, unit)| LeaseTime { expiry, unit });
    of(prop_oneof![infinite, finite])
}

/// An `<ip>` with a /16 or /64 and, within it, ranges and hosts.
fn ip() -> impl Strategy<Value = Ip> {
    let ranges = vec((1_u16..0x7fff, 0_u16..0x7fff, lease()), 0..3);
    let hosts = vec((of(mac()), of(word()), 1_u16..0xfffe, lease()), 0..3);
    let bootp = of((word(), of(any_ip())));
    let family = (any::<bool>(), any::<bool>(), 0..3);
    (
        family,
        any::<u16>(),
        of(any::<bool>()),
        of(text()),
        ranges,
        hosts,
        bootp,
    )
        .prop_map(
            |((is_v6, explicit, mask), net, local_ptr, tftp_root, ranges, hosts, bootp)| {
                let at = |n: u16| -> IpAddr {
                    if is_v6 {
                        Ipv6Addr::new(0xfd00, 0, 0, net, 0, 0, 0, n).into()
                    } else {
                        // Class B, so that no mask at all means /16 as well.
                        Ipv4Addr::from(0xac00_0000 | u32::from(net & 0xff) << 16 | u32::from(n))
                            .into()
                    }
                };
                let ranges: Vec<_> = ranges
                    .into_iter()
                    .map(|(start, span, lease)| DhcpRange {
                        start: at(start),
                        end: at(start + span),
                        lease,
                    })
                    .collect();
                let hosts: Vec<_> = hosts
                    .into_iter()
                    .map(|(mac, name, n, lease)| DhcpHost {
                        mac: mac.filter(|_| !is_v6).map(|mac| mac.to_string()),
                        id: mac.filter(|_| is_v6).map(|mac| format!("0:3:{mac}")),
                        name: name.or_else(|| mac.is_none().then(|| "h".to_owned())),
                        ip: Some(at(n)),
                        lease,
                    })
                    .collect();
                let has_dhcp = !(ranges.is_empty() && hosts.is_empty());
                Ip {
                    address: at(1),
                    family: match (is_v6, explicit) {
                        (true, _) => Some(Family::Ipv6),
                        (false, true) => Some(Family::Ipv4),
                        (false, false) => None,
                    },
                    mask: match (mask, is_v6) {
                        (0, _) => IpMask::Implied,
                        (1, false) => IpMask::Netmask(Ipv4Addr::new(255, 255, 0, 0)),
                        (_, false) => IpMask::Prefix(16),
                        (_, true) => IpMask::Prefix(64),
                    },
                    local_ptr,
                    tftp_root: tftp_root.filter(|_| !is_v6),
                    dhcp: Dhcp {
                        ranges,
                        hosts,
                        bootp: bootp
                            .filter(|_| !is_v6 && has_dhcp)
                            .map(|(file, server)| Bootp {
                                file,
                                server: server.map(|server| server.to_string()),
                            }),
                    },
                }
            },
        )
}

fn dns() -> impl Strategy<Value = Option<Dns>> {
    let forwarder = prop_oneof![
        (of(word()), any_ip(), of(any::<NonZeroU16>())).prop_map(|(domain, addr, port)| (
            domain,
            Some(addr),
            port
        )),
        word().prop_map(|domain| (Some(domain), None, None)),
    ]
    .prop_map(|(domain, addr, port)| DnsForwarder { domain, addr, port });
    let txt = (word(), text()).prop_map(|(name, value)| DnsTxt {
        name,
        value: Some(value),
    });
    let numbers = (of(1_u16..), of(1_u16..), of(1_u16..));
    let srv = (word(), word(), of(text()), of((text(), numbers))).prop_map(
        |(service, protocol, domain, target)| {
            let (target, numbers) = target.unzip();
            let (port, priority, weight) = numbers.unwrap_or_default();
            DnsSrv {
                service,
                protocol,
                domain,
                target,
                port,
                priority,
                weight,
            }
        },
    );
    let host = (any_ip(), vec(text(), 1..3)).prop_map(|(ip, hostnames)| DnsHost { ip, hostnames });
    let records = (
        vec(forwarder, 0..3),
        vec(txt, 0..3),
        vec(srv, 0..3),
        vec(host, 0..3),
    );
    (of(any::<bool>()), of(any::<bool>()), records).prop_map(
        |(enable, forward_plain_names, (forwarders, txts, srvs, hosts))| {
            let dns = if enable == Some(false) {
                Dns {
                    enable,
                    forward_plain_names,
                    ..Dns::default()
                }
            } else {
                Dns {
                    enable,
                    forward_plain_names,
                    forwarders,
                    txts,
                    srvs,
                    hosts,
                }
            };
            (dns != Dns::default()).then_some(dns)
        },
    )
}

fn vlan() -> impl Strategy<Value = Option<Vlan>> {
    let native = of(prop_oneof![
        Just(NativeVlan::Tagged),
        Just(NativeVlan::Untagged)
    ]);
    of(
        (vec(0_u16..4096, 1..4), native, any::<bool>()).prop_map(|(ids, native, trunk)| {
            let mut tags: Vec<_> = ids
                .into_iter()
                .map(|id| VlanTag { id, native: None })
                .collect();
            tags[0].native = native;
            Vlan {
                trunk: trunk || tags.len() > 1,
                tags,
            }
        }),
    )
}

fn bandwidth() -> impl Strategy<Value = Option<Bandwidth>> {
    let rate = || {
        of(
            (any::<u64>(), of(1_u64..), of(1_u64..)).prop_map(|(average, peak, burst)| Rate {
                average,
                peak,
                burst,
                floor: None,
            }),
        )
    };
    (rate(), rate()).prop_map(|(inbound, outbound)| {
        let bandwidth = Bandwidth { inbound, outbound };
        (bandwidth != Bandwidth::default()).then_some(bandwidth)
    })
}

fn virtual_port() -> impl Strategy<Value = Option<VirtualPort>> {
    let of_kind = |kind: &str, parameters: Vec<(&str, String)>| VirtualPort {
        kind: Some(kind.to_owned()),
        parameters: parameters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    };
    of(
        (0..4, any::<u8>(), any::<u128>(), word()).prop_map(move |(kind, n, id, profile)| {
            let id = Uuid::from_u128(id).to_string();
            match kind {
                0 => of_kind(
                    "802.1Qbg",
                    vec![
                        ("managerid", n.to_string()),
                        ("typeid", "16777215".to_owned()),
                        ("typeidversion", n.to_string()),
                        ("instanceid", id),
                    ],
                ),
                1 => of_kind("802.1Qbh", vec![("profileid", profile)]),
                2 => of_kind(
                    "openvswitch",
                    vec![("interfaceid", id), ("profileid", profile)],
                ),
                _ => of_kind("midonet", vec![]),
            }
        }),
    )
}

fn port_group() -> impl Strategy<Value = PortGroup> {
    let flags = (any::<bool>(), of(any::<bool>()));
    (text(), flags, vlan(), virtual_port(), bandwidth()).prop_map(
        |(name, (default, trust_guest_rx_filters), vlan, virtualport, bandwidth)| PortGroup {
            name,
            default,
            trust_guest_rx_filters,
            vlan,
            virtualport,
            bandwidth,
        },
    )
}

/// A forward element, and what only it decides about: which devices it takes.
fn forward() -> impl Strategy<Value = Option<Forward>> {
    let mode = prop_oneof![
        Just(ForwardMode::Nat),
        Just(ForwardMode::Route),
        Just(ForwardMode::Open),
        Just(ForwardMode::Bridge),
        Just(ForwardMode::Private),
        Just(ForwardMode::Vepa),
        Just(ForwardMode::Passthrough),
        Just(ForwardMode::Hostdev),
    ];
    let devices = prop::collection::btree_set(word(), 0..4);
    let pci = prop::collection::btree_set((any::<u32>(), any::<u8>(), 1_u8..32, 0_u8..8), 0..3);
    let nat_range = of((1_u32..0xdf00_0000, 0_u32..65536));
    let nat = (
        of(any::<bool>()),
        nat_range,
        of((any::<u16>(), any::<u16>())),
    );
    let driver = of((of(Just("vfio".to_owned())), of(text()), of(any::<bool>())));
    of((mode, devices, pci, any::<bool>(), nat, driver)).prop_map(|parts| {
        let (mode, devices, pci, managed, (ipv6, address, port), driver) = parts?;
        let most = match mode {
            ForwardMode::Nat | ForwardMode::Route => 1,
            ForwardMode::Open | ForwardMode::Hostdev => 0,
            _ => usize::MAX,
        };
        let interfaces: Vec<String> = devices.into_iter().take(most).collect();
        let nat = Nat {
            ipv6,
            address: address.map(|(start, span)| AddressRange {
                start: Ipv4Addr::from(start),
                end: Ipv4Addr::from(start + span),
            }),
            port: port.map(|(a, b)| PortRange {
                start: a.min(b),
                end: a.max(b),
            }),
        };
        Some(Forward {
            mode,
            interfaces,
            addresses: if mode == ForwardMode::Hostdev {
                pci.into_iter()
                    .map(|(domain, bus, slot, function)| PciAddress {
                        domain,
                        bus,
                        slot,
                        function,
                    })
                    .collect()
            } else {
                Vec::new()
            },
            pf: None,
            managed: managed && mode == ForwardMode::Hostdev,
            driver: driver
                .map(|(name, model, iommufd)| ForwardDriver {
                    name,
                    model,
                    iommufd,
                })
                .filter(|driver| *driver != ForwardDriver::default()),
            nat: (mode == ForwardMode::Nat && nat != Nat::default()).then_some(nat),
        })
    })
}

fn bridge() -> impl Strategy<Value = Bridge> {
    let manager = of(prop_oneof![
        Just(MacTableManager::Kernel),
        Just(MacTableManager::Libvirt)
    ]);
    (of(word()), of(text()), any::<bool>(), any::<u32>(), manager).prop_map(
        |(name, zone, stp, delay, mac_table_manager)| Bridge {
            name,
            zone,
            stp,
            delay,
            mac_table_manager,
        },
    )
}

fn domain() -> impl Strategy<Value = Option<Domain>> {
    of(
        (text(), of(any::<bool>()), of(any::<bool>())).prop_map(|(name, local_only, register)| {
            Domain {
                name: Some(name),
                local_only,
                register: register.filter(|register| !register || local_only == Some(true)),
            }
        }),
    )
}

fn metadata() -> impl Strategy<Value = Vec<MetadataElement>> {
    let content = prop_oneof![
        Just(String::new()),
        "[a-z &<>\"'\n]{1,20}".prop_map(|text| text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")),
        Just("<m:a b='c &#10; d'><m:e/> <f xmlns='urn:f'>g</f></m:a>".to_owned()),
    ];
    vec(content, 0..3).prop_map(|contents| {
        let elements: String = contents
            .iter()
            .enumerate()
            .map(|(i, content)| format!("<m:x xmlns:m='urn:{i}'>{content}</m:x>"))
            .collect();
        let text = super::network(&format!("<metadata>{elements}</metadata>"));
        parse(&text).unwrap().metadata
    })
}

/// A route by way of a neighbour of the given address.
fn route_by(ip: &Ip, third: u8, metric: Option<u32>) -> Route {
    let (address, mask, gateway): (IpAddr, _, IpAddr) = match ip.address {
        IpAddr::V4(a) => {
            let [b, c, ..] = a.octets();
            (
                Ipv4Addr::new(10, third, 0, 0).into(),
                IpMask::Prefix(16),
                Ipv4Addr::new(b, c, 0, 7).into(),
            )
        }
        IpAddr::V6(a) => (
            Ipv6Addr::new(0xfd01, third.into(), 0, 0, 0, 0, 0, 0).into(),
            IpMask::Prefix(32),
            Ipv6Addr::from(u128::from(a) + 6).into(),
        ),
    };
    Route {
        family: ip.family,
        address,
        mask,
        gateway,
        metric,
    }
}

/// A network as the parser gives it: nothing in it that has no canonical text.
pub fn network() -> impl Strategy<Value = Network> {
    let names = (
        text(),
        any::<u128>(),
        of("[a-z <&]{1,9}"),
        of(text()),
        metadata(),
    );
    let flags = (any::<bool>(), of(any::<bool>()), of(any::<bool>()));
    let link = (forward(), bridge(), of(mac()), of(1_u32..), domain());
    let addresses = (
        vec(ip(), 0..3),
        vec((any::<u8>(), of(1_u32..)), 0..3),
        dns(),
    );
    let ports = (vlan(), bandwidth(), virtual_port(), vec(port_group(), 0..2));
    (names, flags, link, addresses, ports, vec(text(), 0..2)).prop_map(
        |(names, flags, link, addresses, ports, dnsmasq_options)| {
            let (name, uuid, title, description, metadata) = names;
            let (forward, bridge, mac, mtu, domain) = link;
            let (mut ips, routes, dns) = addresses;
            let (vlan, bandwidth, virtualport, portgroups) = ports;
            let mode = forward.as_ref().map_or(ForwardMode::None, |f| f.mode);
            if ips.is_empty() && matches!(mode, ForwardMode::Nat | ForwardMode::Route) {
                ips.push(plain_ip());
            }
            let routes = routes
                .into_iter()
                .zip(&ips)
                .map(|((third, metric), ip)| route_by(ip, third, metric))
                .collect();
            let mut network = Network {
                name,
                uuid: Uuid::from_u128(uuid),
                zero_uuid: uuid == 0,
                title,
                description,
                metadata,
                netd: NetdExtensions::default(),
                ipv6: flags.0,
                trust_guest_rx_filters: flags.1,
                forward,
                bridge,
                mac,
                mtu,
                domain,
                dns,
                vlan,
                bandwidth,
                port_isolated: flags.2,
                ips,
                routes,
                virtualport,
                portgroups,
                dnsmasq_options,
                given: Vec::new(),
            };
            if !network.is_managed() {
                let has_devices = network
                    .forward
                    .as_ref()
                    .is_some_and(|f| !f.interfaces.is_empty());
                let is_bridge = mode == ForwardMode::Bridge;
                network.mtu = None;
                network.bridge = Bridge {
                    name: network.bridge.name.filter(|_| is_bridge && !has_devices),
                    mac_table_manager: network.bridge.mac_table_manager.filter(|_| is_bridge),
                    ..Bridge::default()
                };
            }
            network
        },
    )
}

fn plain_ip() -> Ip {
    Ip {
        address: Ipv4Addr::new(192, 168, 0, 1).into(),
        family: None,
        mask: IpMask::Prefix(24),
        local_ptr: None,
        tftp_root: None,
        dhcp: Dhcp::default(),
    }
}
