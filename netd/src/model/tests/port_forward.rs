//! Port forwards: what is read, and which ports are published.

use proptest::prelude::*;

use super::*;

/// A definition whose metadata holds these forwards, of a network with both families.
fn with(mode: &str, forwards: &str) -> String {
    network(&format!(
        "<metadata><n:forwards xmlns:n='{NETD_NAMESPACE}'>{forwards}</n:forwards></metadata>\
         <forward mode='{mode}'/><ip address='192.168.122.1' prefix='24'/>\
         <ip family='ipv6' address='fd00::1' prefix='64'/>"
    ))
}

/// The forwards of such a network, where it may be stored.
pub(super) fn read(forwards: &str) -> Result<Vec<PortForward>, XmlError> {
    let network = parse(&with("nat", forwards))?;
    check_define(&network)?;
    Ok(network.netd.forwards().to_vec())
}

fn range(start: u16, end: u16, to: Option<u16>) -> ForwardRange {
    ForwardRange {
        start,
        end,
        to,
        exclude: false,
    }
}

fn exclude(start: u16, end: u16) -> ForwardRange {
    ForwardRange {
        exclude: true,
        ..range(start, end, None)
    }
}

#[test]
fn everything_is_read() {
    let forwards = read(
        "<n:portForward proto='tcp' address='203.0.113.5' guest='192.168.122.10'>\
           <n:range start='8080' to='80'/>\
           <!-- why -->\
           <n:range start='9000' end='9010'/>\
           <n:range start='9005' exclude='yes'/>\
           <n:range start='1' exclude='no'/>\
         </n:portForward>\
         <n:portForward proto='udp' dev='eth0' guest='web'><n:range start='53'/></n:portForward>\
         <n:portForward proto='sctp' guest='fd00::10'><n:range start='5'/></n:portForward>\
         <n:portForward proto='all' address='2001:db8::5' guest='web'/>\
         <n:portForward proto='tcp' address='203.0.113.6' guest='web'/>",
    )
    .unwrap();
    assert_eq!(
        forwards[0],
        PortForward {
            protocol: ForwardProtocol::Tcp,
            address: Some("203.0.113.5".parse().unwrap()),
            dev: None,
            guest: ForwardGuest::Address("192.168.122.10".parse().unwrap()),
            ranges: vec![
                range(8080, 8080, Some(80)),
                range(9000, 9010, None),
                exclude(9005, 9005),
                range(1, 1, None),
            ],
        }
    );
    let texts: Vec<String> = forwards.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "tcp 203.0.113.5 8080,9000-9010,1 to 192.168.122.10 port 80,9000-9010,1",
            "udp eth0 53 to web",
            "sctp 5 to fd00::10",
            "all 2001:db8::5 to web",
            "tcp 203.0.113.6 to web",
        ]
    );
    let numbers = forwards.iter().map(|f| f.protocol.number());
    assert_eq!(numbers.collect::<Vec<_>>(), [6, 17, 132, 0, 6]);
    assert_eq!(read("").unwrap(), []);
}

#[test]
fn an_address_needs_a_guest_of_its_family() {
    let v4_only = network(&format!(
        "<metadata><n:forwards xmlns:n='{NETD_NAMESPACE}'>\
         <n:portForward proto='all' address='2001:db8::1' guest='web'/></n:forwards></metadata>\
         <ip address='192.168.122.1' prefix='24'/>"
    ));
    let error = check_define(&parse(&v4_only).unwrap()).unwrap_err();
    assert!(error.to_string().contains("has no IPv6 <ip>"), "{error}");
}

#[test]
fn only_networks_with_a_guarded_bridge_forward() {
    let one = "<n:portForward proto='tcp' guest='web'><n:range start='1'/></n:portForward>";
    for mode in ["nat", "route", "none"] {
        check_define(&parse(&with(mode, one)).unwrap()).unwrap();
    }
    let error = check_define(&parse(&with("open", one)).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("isolated networks, not 'open'"),
        "{error}"
    );
    let bridge = network(&format!(
        "<metadata><n:forwards xmlns:n='{NETD_NAMESPACE}'/></metadata>\
         <forward mode='bridge'/><bridge name='br0'/>"
    ));
    check_define(&parse(&bridge).unwrap()).unwrap_err();
}

#[test]
fn nothing_is_without_end() {
    let forwards = |count: usize| -> String {
        let one = |n| {
            format!("<n:portForward proto='tcp' guest='a'><n:range start='{n}'/></n:portForward>")
        };
        (1..=count).map(one).collect()
    };
    assert_eq!(read(&forwards(10_000)).map(|read| read.len()), Ok(10_000));
    let error = read(&forwards(16_385)).map(|read| read.len()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("holds 16385 forwards, 16384 at most"),
        "{error}"
    );
    let ranges = |count: usize| -> String {
        let ranges: String = (1..=count)
            .map(|n| format!("<n:range start='{n}'/>"))
            .collect();
        format!("<n:portForward proto='tcp' guest='a'>{ranges}</n:portForward>")
    };
    read(&ranges(1024)).unwrap();
    let error = read(&ranges(1025)).unwrap_err().to_string();
    assert!(error.contains("holds 1025 ranges, 1024 at most"), "{error}");
}

#[test]
fn one_port_leads_to_one_guest() {
    let one = |attributes: &str, start: u16, end: u16| {
        format!(
            "<n:portForward {attributes}><n:range start='{start}' end='{end}'/></n:portForward>"
        )
    };
    let tcp = "proto='tcp' guest='192.168.122.9'";
    let on = "address='203.0.113.5'";
    let dev = "dev='eth0'";
    for (second, clashes) in [
        (one(tcp, 10, 20), Some("port 10 is published twice")),
        (one("proto='tcp' guest='web'", 20, 30), Some("port 20 is")),
        (one(tcp, 21, 30), None),
        (one("proto='udp' guest='web'", 10, 20), None),
        // Each family on its own.
        (one("proto='tcp' guest='fd00::9'", 10, 20), None),
        // The narrower goes before the wider.
        (one(&format!("{tcp} {on}"), 10, 20), None),
        (one(&format!("{tcp} {dev}"), 10, 20), None),
        (
            one(&format!("{tcp} {dev}"), 10, 20) + &one(&format!("{tcp} {dev}"), 15, 15),
            Some("port 15 is published twice, by forward 2 (tcp eth0 10-20 to 192.168.122.9)"),
        ),
        (
            one(&format!("{tcp} {dev}"), 10, 20)
                + &one("proto='tcp' guest='web' dev='eth1'", 15, 15),
            None,
        ),
        (
            format!("<n:portForward {tcp} {on}/><n:portForward proto='tcp' guest='b' {on}/>"),
            Some("all ports are published twice"),
        ),
        (
            format!("<n:portForward {tcp} {on}/>") + &one(&format!("{tcp} {on}"), 7, 7),
            Some("port 7 is published twice"),
        ),
        (
            format!("<n:portForward {tcp} {on}/><n:portForward proto='all' guest='b' {on}/>"),
            None,
        ),
    ] {
        let both = one(tcp, 10, 20) + &second;
        match (read(&both), clashes) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            (result, _) => panic!("{both}: {result:?}"),
        }
    }
}

#[test]
fn a_scope_is_as_narrow_as_it_says() {
    let forward = |address: Option<&str>, dev: Option<&str>, guest: &str| PortForward {
        protocol: ForwardProtocol::Tcp,
        address: address.map(|a| a.parse().unwrap()),
        dev: dev.map(str::to_owned),
        guest: guest.to_owned().into(),
        ranges: vec![],
    };
    let all = forward(None, None, "web");
    assert_eq!(all.scope(), ForwardScope::All);
    assert!(all.may_have(Family::Ipv4) && all.may_have(Family::Ipv6));
    let on = forward(Some("::5"), None, "web");
    assert_eq!(on.scope(), ForwardScope::Address("::5".parse().unwrap()));
    assert!(on.may_have(Family::Ipv6) && !on.may_have(Family::Ipv4));
    let device = forward(None, Some("eth0"), "10.0.0.9");
    assert_eq!(device.scope(), ForwardScope::Device("eth0"));
    assert!(device.may_have(Family::Ipv4) && !device.may_have(Family::Ipv6));
    assert!(on.scope() < device.scope() && device.scope() < all.scope());
}

#[test]
fn forwards_can_be_put_in() {
    let text = nat(&format!(
        "<metadata><o:x xmlns:o='urn:o'/><n:nat xmlns:n='{NETD_NAMESPACE}' \
         mapping='endpoint-independent'/></metadata>"
    ));
    let mut network = parse(&text).unwrap();
    let forward = PortForward {
        protocol: ForwardProtocol::Tcp,
        address: None,
        dev: Some("a&'\"<b".to_owned()),
        guest: ForwardGuest::Host("web".to_owned()),
        ranges: vec![range(1, 2, Some(7)), exclude(2, 2)],
    };
    network.set_forwards(vec![forward.clone()]).unwrap();
    assert_eq!(network.netd.forwards(), std::slice::from_ref(&forward));
    let written = format(&network, FormatOptions::default());
    let expected = "
    <o:x xmlns:o=\"urn:o\"/>
    <netd:network xmlns:netd=\"urn:netd:network:1\">
      <netd:nat mapping=\"endpoint-independent\" filtering=\"address-and-port-dependent\"/>
      <netd:forwards>
        <netd:portForward proto=\"tcp\" dev=\"a&amp;'&quot;&lt;b\" guest=\"web\">
          <netd:range start=\"1\" end=\"2\" to=\"7\"/>
          <netd:range start=\"2\" exclude=\"yes\"/>
        </netd:portForward>
      </netd:forwards>
    </netd:network>
  </metadata>";
    assert!(written.contains(expected), "{written}");
    assert_eq!(parse(&written).unwrap(), network);

    // What breaks a rule changes nothing.
    let before = network.clone();
    network
        .set_forwards(vec![forward.clone(), forward.clone()])
        .unwrap_err();
    assert_eq!(network, before);

    network.set_forwards(vec![]).unwrap();
    let behaviour = network.netd.nat.unwrap();
    assert_eq!(behaviour.mapping, Mapping::EndpointIndependent);
    assert!(
        network.metadata[1]
            .xml
            .starts_with("<netd:network xmlns:netd=")
    );

    let mut plain = parse(&nat("")).unwrap();
    let before = plain.clone();
    plain.set_forwards(vec![forward]).unwrap();
    assert!(
        plain.metadata[0]
            .xml
            .starts_with("<netd:network xmlns:netd=")
    );
    assert_eq!(
        parse(&format(&plain, FormatOptions::default())).unwrap(),
        plain
    );
    plain.set_forwards(vec![]).unwrap();
    assert_eq!(plain, before);
}

/// Ranges that keep the rules: none overlaps another, and what is left out is in one of them.
fn ranges() -> impl Strategy<Value = Vec<ForwardRange>> {
    let cuts = prop::collection::btree_set(1_u16.., 2..12);
    let holes = prop::collection::vec((any::<prop::sample::Index>(), any::<[u16; 2]>()), 0..6);
    (cuts, prop::collection::vec(any::<Option<u16>>(), 6), holes).prop_map(|(cuts, to, holes)| {
        let cuts: Vec<u16> = cuts.into_iter().collect();
        let pairs = cuts.chunks_exact(2).zip(to);
        let mut ranges: Vec<ForwardRange> = pairs
            .map(|(pair, to)| {
                let highest = u16::MAX - (pair[1] - pair[0]);
                range(pair[0], pair[1], to.map(|to| to.clamp(1, highest)))
            })
            .collect();
        let published = ranges.clone();
        for (index, ends) in holes {
            let around = index.get(&published);
            let mut ends = ends.map(|end| end.clamp(around.start, around.end));
            ends.sort_unstable();
            ranges.push(exclude(ends[0], ends[1]));
        }
        ranges
    })
}

proptest! {
    #[test]
    fn spans_are_the_ranges_without_what_is_left_out(
        (sorted, ranges) in ranges().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle()))
    ) {
        let forward = PortForward {
            protocol: ForwardProtocol::Udp,
            address: None,
            dev: None,
            guest: ForwardGuest::Host("a".to_owned()),
            ranges,
        };
        // The guest's port for each published one; 0 is none.
        let mut expected = vec![0_u16; 1 << 16];
        for range in sorted {
            for port in range.start..=range.end {
                let to = range.target() + (port - range.start);
                expected[usize::from(port)] = if range.exclude { 0 } else { to };
            }
        }
        let spans = forward.spans();
        prop_assert!(spans.windows(2).all(|pair| pair[0].last < pair[1].first), "{spans:?}");
        let mut found = vec![0_u16; 1 << 16];
        for span in spans {
            for port in span.first..=span.last {
                found[usize::from(port)] = span.to + (port - span.first);
            }
        }
        prop_assert!(found == expected);

        // The rules hold, the text says it all, and so does JSON.
        let mut network = parse(&nat("")).unwrap();
        network.set_forwards(vec![forward.clone()]).unwrap();
        let again = parse(&format(&network, FormatOptions::default())).unwrap();
        prop_assert_eq!(&again, &network);
        prop_assert_eq!(again.netd.forwards(), std::slice::from_ref(&forward));
        let json = serde_json::to_string(&forward).unwrap();
        prop_assert_eq!(serde_json::from_str::<PortForward>(&json).unwrap(), forward);
    }

    #[test]
    fn a_clash_is_found_where_there_is_one(a in ranges(), b in ranges()) {
        let forward = |ranges| PortForward {
            protocol: ForwardProtocol::Udp,
            address: None,
            dev: None,
            guest: ForwardGuest::Host("a".to_owned()),
            ranges,
        };
        let (a, b) = (forward(a), forward(b));
        let ports = |forward: &PortForward| -> std::collections::BTreeSet<u16> {
            forward.spans().iter().flat_map(|span| span.first..=span.last).collect()
        };
        let both = ports(&a).intersection(&ports(&b)).next().copied();
        let clash = find_clash([&a, &b]);
        prop_assert_eq!(clash.map(|clash| clash.port), both);
        prop_assert!(clash.is_none_or(|clash| (clash.first, clash.second) == (0, 1)));
    }
}

#[test]
fn the_ends_of_the_ports() {
    let forward = |ranges| PortForward {
        protocol: ForwardProtocol::Tcp,
        address: None,
        dev: None,
        guest: ForwardGuest::Host("a".to_owned()),
        ranges,
    };
    let spans = |ranges: Vec<ForwardRange>| -> Vec<(u16, u16, u16)> {
        let spans = forward(ranges).spans();
        spans.iter().map(|s| (s.first, s.last, s.to)).collect()
    };
    assert_eq!(spans(vec![]), [(0, 65535, 0)]);
    assert_eq!(spans(vec![range(1, 65535, None)]), [(1, 65535, 1)]);
    assert_eq!(
        spans(vec![
            range(1, 65535, None),
            exclude(1, 1),
            exclude(65535, 65535)
        ]),
        [(2, 65534, 2)]
    );
    assert_eq!(spans(vec![range(7, 8, Some(70)), exclude(7, 8)]), []);
    assert_eq!(
        spans(vec![range(7, 9, Some(70)), exclude(8, 8), exclude(7, 8)]),
        [(9, 9, 72)]
    );
}
