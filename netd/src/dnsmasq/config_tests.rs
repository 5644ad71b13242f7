//! Cases of the configuration text.

use std::net::IpAddr;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Bootp, Bridge, DnsForwarder, DnsHost, DnsTxt, Domain, Forward, GivenPrefix, IpMask, LeaseTime,
};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ip(address: &str, mask: IpMask) -> Ip {
    Ip {
        address: addr(address),
        family: None,
        mask,
        local_ptr: None,
        tftp_root: None,
        dhcp: Dhcp::default(),
    }
}

fn range(start: &str, end: &str) -> DhcpRange {
    DhcpRange {
        start: addr(start),
        end: addr(end),
        lease: None,
    }
}

fn default_network() -> Network {
    let mut subnet = ip("192.168.122.1", IpMask::Prefix(24));
    subnet.dhcp.ranges = vec![range("192.168.122.2", "192.168.122.254")];
    Network {
        name: "default".into(),
        forward: Some(Forward::default()),
        bridge: Bridge {
            name: Some("virbr0".into()),
            ..Bridge::default()
        },
        ips: vec![subnet],
        ..Network::default()
    }
}

fn test_paths() -> NetworkFiles {
    NetworkFiles {
        dir: "/d".into(),
        pid_file: None,
    }
}

/// The options, without the comments.
fn options(network: &Network) -> Vec<String> {
    let text = conf(network, &test_paths()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("##"));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_default_network() {
    let expected = "strict-order\nexcept-interface=lo\nbind-dynamic\ninterface=virbr0\n\
        dhcp-range=192.168.122.2,192.168.122.254,255.255.255.0\ndhcp-no-override\n\
        dhcp-authoritative\ndhcp-lease-max=253\ndhcp-hostsfile=/d/default.hostsfile\n\
        addn-hosts=/d/default.addnhosts";
    assert_eq!(options(&default_network()).join("\n"), expected);
    assert_eq!(hostsfile(&default_network()).unwrap(), "");
}

#[test]
fn guests_are_told_apart_by_mac_address_unless_somebody_goes_by_identifiers() {
    let mut network = default_network();
    assert_eq!(own_options(&network), "dhcp-ignore-clid\n");
    network.dnsmasq_options = vec!["dhcp-host=id:01:02,192.168.122.9".into()];
    assert_eq!(own_options(&network), "");
    network.dnsmasq_options.clear();
    network.ips[0].dhcp.ranges.clear();
    assert_eq!(own_options(&network), "", "there is no DHCP");
}

/// A network that makes use of everything.
fn everything() -> Network {
    let mut network = default_network();
    network.forward = None;
    network.mtu = Some(1400);
    network.domain = Some(Domain {
        name: Some("x.test".into()),
        local_only: Some(true),
        register: None,
    });
    network.dns = Some(Dns {
        forward_plain_names: Some(false),
        forwarders: vec![
            DnsForwarder {
                domain: Some("a.test".into()),
                addr: Some(addr("fd00::53")),
                port: NonZeroU16::new(5353),
            },
            DnsForwarder {
                domain: Some("b.test".into()),
                addr: None,
                port: None,
            },
            DnsForwarder {
                domain: None,
                addr: Some(addr("9.9.9.9")),
                port: None,
            },
        ],
        txts: vec![DnsTxt {
            name: "t".into(),
            value: Some("a #b".into()),
        }],
        srvs: vec![
            DnsSrv {
                service: "s".into(),
                protocol: "tcp".into(),
                domain: Some("d".into()),
                target: Some("h".into()),
                weight: Some(5),
                ..DnsSrv::default()
            },
            DnsSrv {
                service: "n".into(),
                protocol: "udp".into(),
                target: Some(".".into()),
                port: Some(1),
                ..DnsSrv::default()
            },
        ],
        ..Dns::default()
    });
    network.ips[0].local_ptr = Some(true);
    network.ips[0].tftp_root = Some("/srv/a b,c".into());
    network.ips[0].dhcp.ranges[0].lease = Some(LeaseTime {
        expiry: 0,
        unit: LeaseUnit::Hours,
    });
    network.ips[0].dhcp.bootp = Some(Bootp {
        file: "pxe.img".into(),
        server: Some("10.9.9.9".into()),
    });
    let mut v6 = ip("fd00:1::1", IpMask::Prefix(64));
    v6.dhcp.ranges = vec![range("fd00:1::10", "fd00:1::1f")];
    network.ips.push(v6);
    network.dnsmasq_options = vec!["foo=bar".into()];
    network
}

/// What dnsmasq is told about [`everything`].
const EVERYTHING: &str = "strict-order
server=/a.test/fd00::53#5353
server=/b.test/#
server=9.9.9.9
no-resolv
local=/x.test/
domain=x.test
expand-hosts
local=/122.168.192.in-addr.arpa/
domain-needed
local=//
pid-file=/r/default.pid
except-interface=lo
bind-dynamic
interface=virbr0
dhcp-option=3
no-resolv
ra-param=*,0,0
txt-record=t,\"a #b\"
srv-host=_s._tcp.d,h,1,0,5
srv-host=_n._udp
enable-tftp
tftp-root=\"/srv/a b,c\"
dhcp-range=192.168.122.2,192.168.122.254,255.255.255.0,infinite
dhcp-no-override
dhcp-authoritative
dhcp-boot=pxe.img,,10.9.9.9
dhcp-range=fd00:1::10,fd00:1::1f,64
dhcp-lease-max=269
dhcp-hostsfile=/d/default.hostsfile
addn-hosts=/d/default.addnhosts
dhcp-option=option:mtu,1400
enable-ra
foo=bar
";

#[test]
fn everything_at_once_is_in_order() {
    let network = everything();
    let names = NetworkFiles {
        dir: "/d".into(),
        pid_file: Some("/r/default.pid".into()),
    };
    let text = conf(&network, &names).unwrap();
    let start = text.find("strict-order").unwrap();
    assert_eq!(&text[start..], EVERYTHING);
}

#[test]
fn dns_switched_off_leaves_dhcp() {
    let mut network = default_network();
    network.dns = Some(Dns {
        enable: Some(false),
        ..Dns::default()
    });
    let lines = options(&network);
    assert_eq!(lines[..2], ["strict-order", "port=0"]);
    assert!(!lines.iter().any(|line| line.starts_with("addn-hosts")));
    assert!(wants_dnsmasq(&network));
    network.ips[0].dhcp = Dhcp::default();
    assert!(!wants_dnsmasq(&network));
    network.ips[0].tftp_root = Some("/t".into());
    assert!(wants_dnsmasq(&network));
    network.ips.clear();
    network.dns = None;
    assert!(!wants_dnsmasq(&network));
}

#[test]
fn hosts_of_both_families() {
    let mut network = default_network();
    let host =
        |mac: Option<&str>, id: Option<&str>, name: Option<&str>, ip: &str, lease| DhcpHost {
            mac: mac.map(Into::into),
            id: id.map(Into::into),
            name: name.map(Into::into),
            ip: Some(addr(ip)),
            lease,
        };
    let hour = Some(LeaseTime {
        expiry: 1,
        unit: LeaseUnit::Hours,
    });
    network.ips[0].dhcp.ranges.clear();
    network.ips[0].dhcp.hosts = vec![
        host(
            Some("52:54:00:00:00:0A"),
            None,
            Some("a.test"),
            "192.168.122.5",
            hour,
        ),
        host(None, None, Some("b"), "192.168.122.6", None),
        host(Some("52:54:00:00:00:0b"), None, None, "192.168.122.7", None),
    ];
    let mut v6 = ip("fd00:1::1", IpMask::Implied);
    v6.dhcp.hosts = vec![
        host(None, Some("0:1:2"), Some("c"), "fd00:1::5", None),
        host(None, None, Some("d"), "fd00:1::6", hour),
    ];
    network.ips.push(v6);
    assert_eq!(
        hostsfile(&network).unwrap(),
        "52:54:00:00:00:0A,192.168.122.5,a.test,1h\nb,192.168.122.6\n\
         52:54:00:00:00:0b,192.168.122.7\nid:0:1:2,c,[fd00:1::5]\nd,[fd00:1::6],1h\n"
    );
    let lines = options(&network);
    assert!(lines.contains(&"dhcp-range=192.168.122.1,static".to_owned()));
    assert!(lines.contains(&"dhcp-range=fd00:1::1,static,64".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("dhcp-lease-max")));
}

#[test]
fn a_prefix_that_is_old_is_advertised_for_no_new_connections() {
    let mut network = default_network();
    network.given = [("2001:db8:1::/56", true), ("2001:db8:2::/64", false)]
        .iter()
        .filter_map(|(prefix, is_preferred)| {
            let prefix = prefix.parse().unwrap();
            let is_preferred = *is_preferred;
            GivenPrefix {
                prefix,
                is_preferred,
            }
            .subnet()
        })
        .collect();
    let lines = options(&network);
    assert!(lines.contains(&"dhcp-range=2001:db8:1::1,ra-only,64,5400".to_owned()));
    assert!(lines.contains(&"dhcp-range=2001:db8:2::1,ra-only,64,deprecated".to_owned()));
}

#[test]
fn names_of_one_address_share_a_line() {
    let mut network = default_network();
    let host = |ip: &str, names: &[&str]| DnsHost {
        ip: addr(ip),
        hostnames: names.iter().map(|n| (*n).to_owned()).collect(),
    };
    network.dns = Some(Dns {
        hosts: vec![
            host("10.0.0.1", &["a", "b"]),
            host("fd00::1", &["c"]),
            host("10.0.0.1", &["d"]),
        ],
        ..Dns::default()
    });
    assert_eq!(
        addnhosts(&network).unwrap(),
        "10.0.0.1\ta\tb\td\t\nfd00::1\tc\t\n"
    );
}

#[test]
fn what_dnsmasq_would_misread_is_refused() {
    type Change = fn(&mut Network);
    let cases: [(&str, Change); 12] = [
        ("<bridge name>", |n| n.bridge.name = Some("virbr*".into())),
        ("<bridge name>", |n| n.bridge.name = Some("a,eth0".into())),
        ("<name>", |n| n.name = "a\nb".into()),
        ("<name>", |n| n.name = "../a".into()),
        ("<dnsmasq:option>", |n| {
            n.dnsmasq_options = vec!["a\nb".into()]
        }),
        // dnsmasq would take the end of the long line as a line of its own.
        ("'foo=", |n| {
            n.dnsmasq_options = vec![format!("foo={}dhcp-script=/x", "a".repeat(1020))];
        }),
        ("<domain name>", |n| {
            n.domain = Some(Domain {
                name: Some("a,10.0.0.0/8".into()),
                ..Domain::default()
            });
        }),
        ("<txt name>", |n| {
            let txts = vec![DnsTxt {
                name: "a,b".into(),
                value: None,
            }];
            n.dns = Some(Dns {
                txts,
                ..Dns::default()
            });
        }),
        ("<txt value>", |n| {
            let txts = vec![DnsTxt {
                name: "a".into(),
                value: Some("b\rc".into()),
            }];
            n.dns = Some(Dns {
                txts,
                ..Dns::default()
            });
        }),
        ("<dhcp>", |n| {
            let twin = n.ips[0].clone();
            n.ips.push(twin);
        }),
        ("<ip localPtr>", |n| {
            n.ips[0].mask = IpMask::Prefix(23);
            n.ips[0].local_ptr = Some(true);
        }),
        ("<range>", |n| n.ips[0].dhcp.ranges[0].end = addr("fd00::1")),
    ];
    for (element, change) in cases {
        let mut network = default_network();
        change(&mut network);
        let error = conf(&network, &test_paths()).unwrap_err();
        assert!(error.element.starts_with(element), "{element}: {error}");
    }
    for name in [
        "ignore", "infinite", "120", "10m", "10.0.0.1", "set:x", "a b", "a,b", "a\nb",
    ] {
        let mut network = default_network();
        network.ips[0].dhcp.hosts = vec![DhcpHost {
            name: Some(name.into()),
            ip: Some(addr("192.168.122.9")),
            ..DhcpHost::default()
        }];
        let error = hostsfile(&network).unwrap_err();
        assert_eq!(error.element, "<host name>", "{name:?}");
    }
}

/// Number of lines, and for each its number of fields: what no value may change.
fn shape(text: &str) -> Vec<usize> {
    let fields = |line: &str| line.split(',').count();
    text.split('\n').map(fields).collect()
}

fn filled(value: &str, at: usize) -> Network {
    let mut network = default_network();
    let pick = |i: usize| {
        if at == i {
            value.to_owned()
        } else {
            "plain".to_owned()
        }
    };
    network.name = pick(0);
    network.bridge.name = Some(pick(1));
    network.domain = Some(Domain {
        name: Some(pick(2)),
        ..Domain::default()
    });
    network.dns = Some(Dns {
        forwarders: vec![DnsForwarder {
            domain: Some(pick(3)),
            addr: None,
            port: None,
        }],
        txts: vec![DnsTxt {
            name: pick(4),
            value: Some("v".into()),
        }],
        srvs: vec![DnsSrv {
            service: pick(5),
            protocol: pick(6),
            domain: Some(pick(7)),
            target: Some(pick(8)),
            port: Some(1),
            ..DnsSrv::default()
        }],
        hosts: vec![DnsHost {
            ip: addr("10.0.0.1"),
            hostnames: vec![pick(9)],
        }],
        ..Dns::default()
    });
    network.ips[0].dhcp.bootp = Some(Bootp {
        file: "f".into(),
        server: Some(pick(10)),
    });
    network.ips[0].dhcp.hosts = vec![DhcpHost {
        mac: Some(if at == 11 {
            value.into()
        } else {
            "52:54:00:00:00:01".into()
        }),
        name: Some(pick(12)),
        ip: Some(addr("192.168.122.9")),
        ..DhcpHost::default()
    }];
    let mut v6 = ip("fd00::1", IpMask::Implied);
    v6.dhcp.hosts = vec![DhcpHost {
        id: Some(if at == 13 { value.into() } else { "0:1".into() }),
        name: Some("n".into()),
        ip: Some(addr("fd00::9")),
        ..DhcpHost::default()
    }];
    network.ips.push(v6);
    network.dnsmasq_options = vec![if at == 14 { value.into() } else { "o".into() }];
    network.ips[0].tftp_root = Some(if at == 15 { value.into() } else { "/t".into() });
    network
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_value_adds_a_line_or_a_field(
        at in 0usize..16,
        value in "([a-z.:0-9]|[,\"\\\\#/* \n\r\t\u{0}\u{b}\u{85}\u{2028}]|\\PC){1,12}",
    ) {
        let plain = filled("plain", 99);
        let network = filled(&value, at);
        if let Ok(text) = conf(&network, &test_paths()) {
            let plain = conf(&plain, &test_paths()).unwrap();
            prop_assert_eq!(text.lines().count(), plain.lines().count());
            // Quoted names and raw options may hold commas; "." as a target drops the rest.
            if (1..=10).contains(&at) && value != "." {
                prop_assert_eq!(shape(&text), shape(&plain));
            }
            for line in text.lines() {
                prop_assert!(line.len() <= MAX_LINE && !line.contains(char::is_control));
            }
        }
        if let Ok(text) = hostsfile(&network) {
            prop_assert_eq!(shape(&text), shape(&hostsfile(&plain).unwrap()));
        }
        if let Ok(text) = addnhosts(&network) {
            let words = |text: &str| text.split_whitespace().count();
            prop_assert_eq!(words(&text), words(&addnhosts(&plain).unwrap()));
        }
    }
}

/// libvirt's own cases: the same options in the same order. They are not part of this project.
#[test]
fn peer_cases_give_the_same_options() {
    let base = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer"),
        PathBuf::from,
    );
    let dir = base.join("libvirt-11.3.0/dnsmasq");
    let Ok(files) = std::fs::read_dir(&dir) else {
        // Past the test harness, which would keep it to itself.
        let mut stderr = std::io::stderr();
        let _ = std::io::Write::write_fmt(
            &mut stderr,
            format_args!(
                "SKIPPED: no peer data at {}; set NETD_PEER_DATA\n",
                dir.display()
            ),
        );
        return;
    };
    let names = NetworkFiles {
        dir: "/var/lib/libvirt/dnsmasq".into(),
        pid_file: None,
    };
    let mut cases = 0;
    for file in files.map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "xml") {
            continue;
        }
        let network = crate::model::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let read = |extension| std::fs::read_to_string(file.with_extension(extension));
        let plain = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with("##"));
            lines.map(str::to_owned).collect()
        };
        let ours = conf(&network, &names).unwrap();
        assert_eq!(
            plain(&ours),
            plain(&read("conf").unwrap()),
            "{}",
            file.display()
        );
        let hosts = read("hostsfile").unwrap_or_default();
        assert_eq!(hostsfile(&network).unwrap(), hosts, "{}", file.display());
        cases += 1;
    }
    assert!(cases > 0, "no case in {}", dir.display());
}
