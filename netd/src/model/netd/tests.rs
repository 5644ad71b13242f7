//! Elements of netd's namespace: what is read, what is refused, and what is written.

use std::net::IpAddr;

use super::section::Words;
use super::*;
use crate::model::network::Network;
use crate::model::{FormatOptions, check_define, format, parse};

fn definition(mode: &str, metadata: &str) -> String {
    format!(
        "<network><name>net</name><metadata xmlns:n='{NETD_NAMESPACE}'>{metadata}</metadata>\
         <forward mode='{mode}'/><ip address='10.0.0.1' prefix='24'/></network>"
    )
}

fn read(metadata: &str) -> Result<NatBehaviour, XmlError> {
    let network = parse(&definition("nat", metadata))?;
    check_define(&network)?;
    Ok(network.netd.nat.unwrap_or_default())
}

#[test]
fn the_default_is_netfilters() {
    let default = NatBehaviour {
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::AddressAndPortDependent,
    };
    for metadata in [
        "",
        "<o:nat xmlns:o='urn:other' mapping='sideways'/>",
        "<n:nat/>",
        "<n:network/>",
        "<n:nat mapping='address-and-port-dependent'/>",
        "<n:nat filtering='address-and-port-dependent'/>",
    ] {
        assert_eq!(read(metadata), Ok(default), "{metadata}");
    }
}

#[test]
fn every_behaviour_has_its_words() {
    let independent = "mapping='endpoint-independent'";
    for &(words, filtering) in Filtering::WORDS {
        assert_eq!(
            read(&format!("<n:nat {independent} filtering='{words}'/>")),
            Ok(NatBehaviour {
                mapping: Mapping::EndpointIndependent,
                filtering,
            })
        );
    }
    // Any prefix, or none, and in the container as well as alone.
    for metadata in [
        format!("<nat xmlns='{NETD_NAMESPACE}' {independent}/>"),
        format!("<x:nat xmlns:x='{NETD_NAMESPACE}' {independent}/>"),
        format!("<n:network>\n  <!-- why -->\n  <n:nat {independent}/>\n</n:network>"),
    ] {
        let behaviour = read(&metadata).unwrap();
        assert_eq!(behaviour.mapping, Mapping::EndpointIndependent);
        assert_eq!(behaviour.filtering, Filtering::AddressAndPortDependent);
    }
}

#[test]
fn what_is_meant_for_netd_is_never_passed_over() {
    for (metadata, words) in [
        ("<n:nta/>", "<netd:nta> in <metadata>: is not an element"),
        (
            "<n:nta/>",
            "which has <network>, <nat>, <prefix>, <forwards>, <host> and <antispoof>",
        ),
        ("<n:network><n:nta/></n:network>", "<netd:nta>"),
        ("<n:network><nat/></n:network>", "is not an element of"),
        (
            "<n:network><n:network/></n:network>",
            "is not an element of",
        ),
        ("<n:network a='b'/>", "has no attribute 'a'; it takes none"),
        ("<n:network>x<n:nat/></n:network>", "holds no text"),
        ("<n:network><n:nat/><n:nat/></n:network>", "once only"),
        (
            "<n:network><n:forwards/><n:forwards/></n:network>",
            "<netd:forwards> in <metadata>: may be given once only",
        ),
        ("<n:nat><n:x/></n:nat>", "has no child <x>"),
        ("<n:nat>x</n:nat>", "holds no text"),
        (
            "<n:nat maping='endpoint-independent'/>",
            "has no attribute 'maping'; it takes mapping and filtering",
        ),
        (
            "<n:nat n:mapping='endpoint-independent'/>",
            "has no attribute",
        ),
        (
            "<n:nat mapping='address-dependent'/>",
            "mapping='address-dependent' should be one of address-and-port-dependent, \
             endpoint-independent",
        ),
        (
            "<n:nat mapping='endpoint-independent' filtering=''/>",
            "filtering='' should be one of address-and-port-dependent, address-dependent, \
             endpoint-independent",
        ),
        (
            "<n:nat filtering='address-dependent'/>",
            "filtering='address-dependent' needs mapping='endpoint-independent'",
        ),
        (
            "<n:nat mapping='address-and-port-dependent' filtering='endpoint-independent'/>",
            "needs mapping=",
        ),
    ] {
        let error = read(metadata).expect_err(metadata);
        assert!(matches!(error, XmlError::Invalid(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("network 'net'"), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn only_a_nat_network_translates() {
    for mode in ["route", "open", "none"] {
        let network = parse(&definition(mode, "<n:nat/>")).unwrap();
        let error = check_define(&network).expect_err(mode).to_string();
        assert!(
            error.contains(&format!("mode='nat', not '{mode}'")),
            "{error}"
        );
    }
}

#[test]
fn a_second_element_that_libvirt_would_lose_is_refused() {
    let error = parse(&definition("nat", "<n:nat/><n:nat/>"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("<network>"), "{error}");
    // Nothing is read into what others keep there.
    parse(&definition(
        "nat",
        "<o:a xmlns:o='urn:o'/><o:a xmlns:o='urn:o'/>",
    ))
    .unwrap();
}

/// Several elements together.
fn read_together(mode: &str, metadata: &str) -> Result<NetdExtensions, XmlError> {
    let container = format!("<n:network>{metadata}</n:network>");
    let mut network = parse(&definition(mode, &container))?;
    check_define(&network)?;
    let read = network.netd.clone();
    // What is written anew says the same.
    network.set_forwards(Vec::new()).unwrap();
    assert_eq!(network.netd, read);
    let again = parse(&format(&network, FormatOptions::default())).unwrap();
    assert_eq!(again, network);
    Ok(read)
}

#[test]
fn the_host_is_open_unless_it_is_closed() {
    assert_eq!(read_together("nat", "").unwrap().host, None);
    for &(word, access) in HostAccess::WORDS {
        let read = read_together("nat", &format!("<n:host access='{word}'/>")).unwrap();
        assert_eq!(read.host.map(|host| host.access), Some(access));
    }
    assert_eq!(
        read_together("route", "<n:host/>").unwrap().host,
        Some(HostRelation::default())
    );
}

#[test]
fn the_hosts_rules_are_respected_or_bypassed_as_netd_toml_says_unless_the_network_does() {
    for (xml, firewall) in [
        ("<n:host/>", None),
        ("<n:host firewall='respect'/>", Some(Firewall::Respect)),
        ("<n:host firewall='bypass'/>", Some(Firewall::Bypass)),
    ] {
        let read = read_together("nat", xml).unwrap();
        assert_eq!(read.host.unwrap().firewall, firewall, "{xml}");
        let written = read.to_element().unwrap().xml;
        assert_eq!(
            written.contains("firewall"),
            firewall.is_some(),
            "{written}"
        );
    }
    let error = read_together("nat", "<n:host firewall='off'/>").unwrap_err();
    assert!(
        error.to_string().contains("one of respect, bypass"),
        "{error}"
    );
}

#[test]
fn antispoof_is_all_or_what_it_says() {
    assert_eq!(read_together("nat", "").unwrap().antispoof, None);
    assert_eq!(
        read_together("nat", "<n:antispoof/>").unwrap().antispoof,
        Some(AntiSpoof::default())
    );
    let some = read_together("nat", "<n:antispoof arp='no' nd='no' mac='yes'/>");
    assert_eq!(
        some.unwrap().antispoof.map(|antispoof| antispoof.checks),
        Some(Checks {
            arp: false,
            nd: false,
            ..AntiSpoof::default().checks
        })
    );
}

#[test]
fn guests_that_serve_others_are_held_to_less() {
    let text = "<n:antispoof arp='no'><n:guest mac='52:54:00:00:00:02' allow='dhcp  nd'/>\
                <n:guest mac='52:54:00:00:00:03' addresses='10.0.0.30 fd00::30'/></n:antispoof>";
    let read = read_together("nat", text).unwrap();
    let antispoof = read.antispoof.as_ref().unwrap();
    let names = |mac: &str| antispoof.checks_of(Some(mac.parse().unwrap())).names();
    assert_eq!(names("52:54:00:00:00:02"), ["mac", "ip"]);
    assert_eq!(names("fe:54:00:00:00:02"), ["mac", "ip"], "its tap");
    for other in [
        "52:54:00:00:00:03",
        "52:54:00:00:00:04",
        "02:54:00:00:00:02",
    ] {
        assert_eq!(names(other), ["mac", "ip", "nd", "dhcp"], "{other}");
    }
    assert_eq!(antispoof.checks_of(None), antispoof.checks);
    let own: Vec<IpAddr> = ["10.0.0.30", "fd00::30"].map(|a| a.parse().unwrap()).into();
    assert_eq!(antispoof.guests[1].addresses, own);

    // As it is written, it is read.
    let written = read.to_element().unwrap().xml;
    assert!(
        written.contains(
            "<netd:antispoof mac=\"yes\" ip=\"yes\" arp=\"no\" nd=\"yes\" dhcp=\"yes\">\n        \
             <netd:guest mac=\"52:54:00:00:00:02\" allow=\"nd dhcp\"/>\n        \
             <netd:guest mac=\"52:54:00:00:00:03\" addresses=\"10.0.0.30 fd00::30\"/>\n      \
             </netd:antispoof>"
        ),
        "{written}"
    );

    let (own, other) = ("mac='52:54:00:00:00:02'", "mac='52:54:00:00:00:03'");
    for (guests, words) in [
        (
            "<n:guest allow='dhcp'/>".to_owned(),
            "needs the attribute mac",
        ),
        ("<n:guest mac='x' allow='dhcp'/>".to_owned(), "mac='x'"),
        (format!("<n:guest {own}/>"), "says nothing"),
        (
            format!("<n:guest {own} allow='all'/>"),
            "mac, ip, arp, nd, dhcp",
        ),
        (format!("<n:guest {own} addresses='10.0.0'/>"), "'10.0.0'"),
        (
            format!("<n:guest {own} addresses='10.0.0.1'/>"),
            "cannot have 10.0.0.1",
        ),
        (format!("<n:guest {own} ip='no'/>"), "no attribute 'ip'"),
        (
            format!("<n:guest {own} allow='ip'/><n:guest {own} allow='nd'/>"),
            "twice",
        ),
        (
            format!("<n:guest {own} addresses='10.0.0.9'/><n:guest {other} addresses='10.0.0.9'/>"),
            "10.0.0.9 twice",
        ),
    ] {
        let error = read_together("nat", &format!("<n:antispoof>{guests}</n:antispoof>"));
        let error = error.expect_err(&guests).to_string();
        assert!(error.contains(words), "{guests}: {error}");
    }
}

#[test]
fn mistakes_are_named() {
    for (mode, metadata, words) in [
        (
            "nat",
            "<n:host access='some'/>",
            "should be one of all, services, none",
        ),
        (
            "nat",
            "<n:host to='all'/>",
            "has no attribute 'to'; it takes access",
        ),
        ("open", "<n:host access='none'/>", "not 'open'"),
        ("open", "<n:antispoof/>", "not 'open'"),
        (
            "nat",
            "<n:antispoof ipv4='yes'/>",
            "has no attribute 'ipv4'",
        ),
        (
            "nat",
            "<n:antispoof mac='on'/>",
            "mac='on' should be one of yes, no",
        ),
        (
            "nat",
            "<n:antispoof><n:x/></n:antispoof>",
            "is not a <guest>",
        ),
        ("nat", "<n:host/><n:host/>", "once only"),
    ] {
        let error = read_together(mode, metadata)
            .expect_err(metadata)
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_another_netd_would_read_is_refused() {
    for namespace in ["urn:netd:network:2", "urn:netd:network:", "urn:netd:"] {
        let metadata = format!("<o:antispoof xmlns:o='{namespace}'/>");
        for metadata in [metadata.clone(), format!("<n:nat/>{metadata}")] {
            let error = parse(&definition("nat", &metadata))
                .unwrap_err()
                .to_string();
            let words = format!(
                "network 'net', <netd:antispoof> in <metadata>: its namespace '{namespace}' is not \
                 known, this version of netd reads urn:netd:network:1"
            );
            assert!(error.contains(&words), "{error}");
        }
        let mut network = parse(&definition("nat", "")).unwrap();
        let before = network.clone();
        let element = MetadataElement::with_namespace("<antispoof/>", "o", namespace).unwrap();
        network
            .set_metadata(namespace, Some(element))
            .expect_err(namespace);
        assert_eq!(network, before);
    }
    // Others' may be called what they like.
    parse(&definition("nat", "<o:x xmlns:o='urn:netdata'/>")).unwrap();
}

#[test]
fn an_element_put_in_is_read() {
    let mut network = parse(&definition("nat", "<n:host access='none'/>")).unwrap();
    let put = |network: &mut Network, text: &str| {
        let element = MetadataElement::with_namespace(text, "n", NETD_NAMESPACE).unwrap();
        network.set_metadata(NETD_NAMESPACE, Some(element))
    };
    put(&mut network, "<antispoof arp='no'/>").unwrap();
    assert_eq!(network.netd.host, None);
    assert!(!network.netd.antispoof.as_ref().unwrap().checks.arp);
    assert_eq!(
        parse(&format(&network, FormatOptions::default())).unwrap(),
        network
    );
    let before = network.clone();
    put(&mut network, "<antispof/>").unwrap_err();
    assert_eq!(network, before);
    network.set_metadata(NETD_NAMESPACE, None).unwrap();
    assert_eq!(network.netd, NetdExtensions::default());
}

#[test]
fn a_written_forward_leaves_room_for_another_element() {
    let forwards = "<n:forwards><n:portForward proto='tcp' guest='web'><n:range start='80'/>\
                    </n:portForward></n:forwards>";
    let lone = parse(&definition("nat", forwards)).unwrap();
    let mut network = parse(&definition("nat", "")).unwrap();
    network.set_forwards(lone.netd.forwards().to_vec()).unwrap();
    assert_eq!(network.netd, lone.netd);
    let text = format(&network, FormatOptions::default());
    assert!(
        text.contains("<netd:network xmlns:netd=\"urn:netd:network:1\">\n"),
        "{text}"
    );
    let more = text.replace("</netd:network>", "<netd:antispoof/></netd:network>");
    let more = parse(&more).unwrap();
    check_define(&more).unwrap();
    assert_eq!(more.netd.forwards, network.netd.forwards);
    assert_eq!(more.netd.antispoof, Some(AntiSpoof::default()));
}
