//! Canonical text beyond the peer's cases, and properties of reading and printing.

use proptest::prelude::*;

use super::generate;
use super::*;

#[test]
fn every_element_in_its_place() {
    let text = "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' \
                ipv6='yes' trustGuestRxFilters='no'>
  <name>a &lt;&amp;&gt; &apos;b&apos; &quot;c&quot;</name>
  <uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>
  <title>t</title>
  <description>two
lines</description>
  <metadata>
    <app:x xmlns:app=\"urn:app\" a=\"1\">
      <app:y/>
      <app:z b=\"&quot;'&lt;\">text &lt; 'here' \"there\"
 and here</app:z>
    </app:x>
  </metadata>
  <forward dev='eth0' mode='nat'>
    <nat ipv6='no'>
      <address start='10.0.0.1' end='10.0.0.2'/>
      <port start='1' end='2'/>
    </nat>
    <interface dev='eth0'/>
  </forward>
  <bridge name='b' zone='z' stp='off' delay='3' macTableManager='libvirt'/>
  <mtu size='1400'/>
  <mac address='52:54:00:0a:0b:0c'/>
  <domain name='d' localOnly='yes' register='no'/>
  <dns enable='yes' forwardPlainNames='no'>
    <forwarder domain='d' addr='10.0.0.1'/>
    <forwarder addr='fd00::1'/>
    <txt name='n' value='v &amp; w'/>
    <srv service='s' protocol='tcp' domain='d' target='t' port='1' priority='2' weight='3'/>
    <host ip='10.0.0.9'>
      <hostname>h</hostname>
    </host>
  </dns>
  <vlan trunk='yes'>
    <tag id='1' nativeMode='untagged'/>
    <tag id='2'/>
  </vlan>
  <bandwidth>
    <inbound average='1' peak='2' burst='3'/>
    <outbound average='4'/>
  </bandwidth>
  <port isolated='no'/>
  <ip family='ipv4' address='10.0.0.1' netmask='255.255.255.0' localPtr='yes'>
    <tftp root='/r'/>
    <dhcp>
      <range start='10.0.0.2' end='10.0.0.9'>
        <lease expiry='2' unit='minutes'/>
      </range>
      <host mac='52:54:00:0A:0b:0c' name='h' ip='10.0.0.3'/>
      <bootp file='f' server='10.0.0.4'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='fd00::1' prefix='64'/>
  <route address='10.9.0.0' prefix='16' gateway='10.0.0.2' metric='5'/>
  <virtualport type='openvswitch'>
    <parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f' profileid='p'/>
  </virtualport>
  <portgroup name='g' default='yes' trustGuestRxFilters='yes'>
    <vlan>
      <tag id='3'/>
    </vlan>
    <virtualport>
      <parameters managerid='1' typeid='2' typeidversion='3' profileid='p'/>
    </virtualport>
    <bandwidth>
      <outbound average='4'/>
    </bandwidth>
  </portgroup>
  <dnsmasq:options>
    <dnsmasq:option value='a=b'/>
  </dnsmasq:options>
</network>
";
    assert_eq!(canonical(text), text);
}

#[test]
fn connections_are_output_of_active_networks_only() {
    let parsed = parse("<network connections='7'><name>n</name></network>").unwrap();
    for (inactive, connections, printed) in [
        (false, Some(2), true),
        (false, Some(0), false),
        (false, None, false),
        (true, Some(2), false),
    ] {
        let options = FormatOptions {
            inactive,
            connections,
        };
        let text = format(&parsed, options);
        assert_eq!(
            text.contains("<network connections='2'>"),
            printed,
            "{text}"
        );
        assert_eq!(parse(&text).as_ref(), Ok(&parsed));
    }
}

#[test]
fn pool_of_a_pf_is_live_only() {
    let mut network = parse(&network("<forward mode='vepa'><pf dev='p'/></forward>")).unwrap();
    network.forward.as_mut().unwrap().interfaces = vec!["v0".to_owned()];
    let text = |inactive| {
        format(
            &network,
            FormatOptions {
                inactive,
                connections: None,
            },
        )
    };
    assert!(!text(true).contains("v0"), "{}", text(true));
    assert!(
        text(false).contains("<interface dev='v0'/>"),
        "{}",
        text(false)
    );
    assert!(
        text(false).contains("<forward mode='vepa'>"),
        "{}",
        text(false)
    );
}

#[test]
fn lone_bootp_is_not_printed() {
    let text = canonical(&network(
        "<ip address='10.0.0.1'><dhcp><bootp file='f'/></dhcp></ip>",
    ));
    assert!(!text.contains("dhcp"), "{text}");
}

#[test]
fn metadata_is_kept_in_libvirts_way() {
    for (given, kept) in [
        // No child element, or none with a namespace: nothing.
        ("text", ""),
        ("<plain/>", ""),
        // The first of each namespace.
        (
            "<a:x xmlns:a='urn:a'/><b:x xmlns:b='urn:b'/><c:y xmlns:c='urn:a'/>",
            "    <a:x xmlns:a=\"urn:a\"/>\n    <b:x xmlns:b=\"urn:b\"/>\n",
        ),
        (
            "<x xmlns='urn:a'><y/></x>",
            "    <x xmlns=\"urn:a\">\n      <y/>\n    </x>\n",
        ),
        // Layout is made anew, text is left alone.
        (
            "<a:x   xmlns:a='urn:a'>\n\n<a:y>one\ntwo</a:y>\n<a:z> </a:z></a:x>",
            "    <a:x xmlns:a=\"urn:a\">\n      <a:y>one\ntwo</a:y>\n      <a:z> </a:z>\n    </a:x>\n",
        ),
        (
            "<a:x xmlns:a='urn:a'>mixed <a:y> <a:z/> </a:y></a:x>",
            "    <a:x xmlns:a=\"urn:a\">mixed <a:y><a:z/></a:y></a:x>\n",
        ),
        // So are sections of characters.
        (
            "<a:x xmlns:a='urn:a'><a:y><![CDATA[ <b> & ]]></a:y> <a:z><![CDATA[  ]]></a:z></a:x>",
            "    <a:x xmlns:a=\"urn:a\">\n      <a:y><![CDATA[ <b> & ]]></a:y>\n      \
             <a:z><![CDATA[  ]]></a:z>\n    </a:x>\n",
        ),
        // Comments and instructions stay.
        (
            "<a:x xmlns:a='urn:a'><!-- c --><?pi d?></a:x>",
            "    <a:x xmlns:a=\"urn:a\">\n      <!-- c -->\n      <?pi d?>\n    </a:x>\n",
        ),
        // An inner default namespace, and the way back out of it.
        (
            "<a:x xmlns:a='urn:a'><y xmlns='urn:b'><z xmlns=''/></y></a:x>",
            "    <a:x xmlns:a=\"urn:a\">\n      <y xmlns=\"urn:b\">\n        <z xmlns=\"\"/>\n      \
             </y>\n    </a:x>\n",
        ),
        (
            "<a:x xmlns:a='urn:a' xml:lang='en' a:b='c'/>",
            "    <a:x xmlns:a=\"urn:a\" xml:lang=\"en\" a:b=\"c\"/>\n",
        ),
    ] {
        let text = canonical(&network(&format!("<metadata>{given}</metadata>")));
        let inside = text
            .split_once("  <metadata>\n")
            .and_then(|(_, rest)| rest.split_once("  </metadata>"))
            .map_or("", |(inside, _)| inside);
        assert_eq!(inside, kept, "{given}");
        assert_eq!(canonical(&text), text, "{given}");
    }
}

#[test]
fn metadata_takes_outer_namespaces_along() {
    let text = "<network xmlns:a='urn:a' xmlns:unused='urn:u'><name>n</name>\
                <metadata xmlns:b='urn:b'><a:x b:c='d'/></metadata></network>";
    let metadata = &parse(text).unwrap().metadata[0];
    assert_eq!(metadata.namespace, "urn:a");
    assert!(
        metadata.xml.contains("xmlns:a=\"urn:a\""),
        "{}",
        metadata.xml
    );
    assert!(
        metadata.xml.contains("xmlns:b=\"urn:b\""),
        "{}",
        metadata.xml
    );
    assert!(!metadata.xml.contains("unused"), "{}", metadata.xml);
    assert_eq!(canonical(&canonical(text)), canonical(text));
}

#[test]
fn an_empty_namespace_is_none() {
    let text = "<network xmlns=''><name xmlns=''>net</name>\
                <ip address='10.0.0.1' prefix='24' xmlns=''/></network>";
    let network = parse(text).unwrap();
    assert_eq!((network.name.as_str(), network.ips.len()), ("net", 1));
    assert_eq!(validate(text), Ok(()));
}

#[test]
fn blanks_between_elements_are_no_text() {
    let text = "<network><name>n<a>\n  <b/>\n</a></name><title> </title></network>";
    let network = parse(text).unwrap();
    assert_eq!(network.name, "n");
    assert_eq!(network.title.as_deref(), Some(" "));
}

#[test]
fn running_networks_name_ports_where_something_is_translated() {
    for (elements, names) in [
        ("<forward/><ip address='10.0.0.1' prefix='24'/>", true),
        (
            "<forward/><ip family='ipv6' address='fd00::1' prefix='64'/>",
            false,
        ),
        (
            "<forward><nat ipv6='yes'/></forward><ip family='ipv6' address='fd00::1' prefix='64'/>",
            true,
        ),
    ] {
        let running = parse(&network(elements)).unwrap().as_running();
        let has_ports = running.nat().is_some_and(|nat| nat.port.is_some());
        assert_eq!(has_ports, names, "{elements}");
    }
}

#[test]
fn first_of_single_elements_counts() {
    let network = parse(&network(
        "<name>second</name><mtu size='1400'/><mtu size='1500'/>",
    ));
    let network = network.unwrap();
    assert_eq!((network.name.as_str(), network.mtu), ("net", Some(1400)));
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(network in generate::network()) {
        let text = format(&network, FormatOptions::default());
        prop_assert_eq!(parse(&text), Ok(network), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn anything_like_markup_is_read_or_refused(
        text in r#"(<(/|!|\?)?(network|name|ip|dhcp|range|a:b)?( [a-z]{1,3}='?[0-9.:]{0,4}'?){0,2}/?>?|&|x|]]>|-->){0,20}"#,
    ) {
        let _ = parse(&text);
        let _ = parse(&format!("<network><name>n</name>{text}</network>"));
    }

    /// A valid definition with some bytes cut, doubled or changed.
    #[test]
    fn damaged_definitions_are_read_or_refused(
        network in generate::network(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<char>()), 1..6),
    ) {
        let mut text: Vec<char> = format(&network, FormatOptions::default()).chars().collect();
        for (index, kind, c) in damage {
            let at = index.index(text.len());
            match kind {
                0 => { text.remove(at); }
                1 => text.insert(at, c),
                _ => text[at] = c,
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(network) = parse(&text) {
            // What was read at all has a canonical text, which is stable.
            let _ = check_start(&network);
            let once = format(&network, FormatOptions::default());
            let again = parse(&once).map(|n| format(&n, FormatOptions::default()));
            prop_assert_eq!(again, Ok(once));
        }
    }

    #[test]
    fn values_survive_as_text(name in "[^/\\x00-\\x08\\x0b-\\x1f\\x7f\u{fffe}\u{ffff}]+", value in "[\\t\\n\\r -~é€𝄞]*") {
        let network = Network {
            name,
            description: (!value.is_empty()).then(|| value.clone()),
            dnsmasq_options: vec![value],
            ..Network::default()
        };
        let text = format(&network, FormatOptions::default());
        prop_assert_eq!(parse(&text), Ok(network), "{}", text);
    }
}
