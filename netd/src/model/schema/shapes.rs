//! The elements of a network's definition.

use roxmltree::Node;

use super::kind::{Kind, ON_OFF, YES_NO};
use super::shape::{Attribute as A, Child as C, Content, Needed, Often, Shape};
use crate::model::namespace::DNSMASQ_NAMESPACE;
use Content::{Children, Elements, Text};
use Needed::{Always, Optional};
use Often::{Any, AtLeastOne, Maybe, Once};

/// The namespace of the elements of this name.
pub(super) fn namespace(name: &str) -> Option<&'static str> {
    matches!(name, "options" | "option").then_some(DNSMASQ_NAMESPACE)
}

pub(super) const NOTHING: Content = Children(&[]);
const U32: Kind = Kind::Number(0, u32::MAX as u64);
const U64: Kind = Kind::Number(0, u64::MAX);
const U16: Kind = Kind::Number(0, 65_535);
const PORT: Kind = Kind::Number(1, 65_535);

pub(super) const fn shape(attributes: &'static [A], content: Content) -> Shape {
    Shape {
        attributes,
        content,
        rule: None,
    }
}

pub(super) static NETWORK: Shape = shape(
    &[
        A("connections", U32, Optional),
        A("ipv6", YES_NO, Optional),
        A("trustGuestRxFilters", YES_NO, Optional),
    ],
    Children(&[
        C("name", Once, &NAME),
        C("title", Maybe, &TITLE),
        C("description", Maybe, &NAME),
        C("metadata", Maybe, &METADATA),
        C("uuid", Maybe, &UUID),
        C("bridge", Maybe, &BRIDGE),
        C("mtu", Maybe, &MTU),
        C("mac", Maybe, &MAC),
        C("forward", Maybe, &FORWARD),
        C("virtualport", Maybe, &VIRTUAL_PORT),
        C("portgroup", Any, &PORT_GROUP),
        C("domain", Maybe, &DOMAIN),
        C("dns", Maybe, &DNS),
        C("bandwidth", Maybe, &BANDWIDTH),
        C("vlan", Maybe, &VLAN),
        C("port", Maybe, &ISOLATION),
        C("ip", Any, &IP),
        C("route", Any, &ROUTE),
        C("options", Maybe, &OPTIONS),
    ]),
);

pub(super) static NAME: Shape = shape(&[], Text(Kind::Text));
static TITLE: Shape = shape(&[], Text(Kind::Line));
static METADATA: Shape = shape(&[], Elements);
pub(super) static UUID: Shape = shape(&[], Text(Kind::Uuid));
static MTU: Shape = shape(&[A("size", U16, Always)], NOTHING);
pub(super) static MAC: Shape = shape(&[A("address", Kind::Mac, Always)], NOTHING);
pub(super) static ISOLATION: Shape = shape(&[A("isolated", YES_NO, Optional)], NOTHING);

static BRIDGE: Shape = shape(
    &[
        A("name", Kind::Device, Optional),
        A("zone", Kind::Letters("_-"), Optional),
        A("stp", ON_OFF, Optional),
        A("delay", U64, Optional),
        A("macTableManager", MAC_TABLE_MANAGER, Optional),
    ],
    NOTHING,
);

pub(super) const MAC_TABLE_MANAGER: Kind = Kind::Word(&["kernel", "libvirt"]);
const MODES: Kind = Kind::Word(&[
    "nat",
    "route",
    "open",
    "bridge",
    "passthrough",
    "private",
    "vepa",
    "hostdev",
]);

static FORWARD: Shape = Shape {
    rule: Some(|node| {
        let has = |name| node.children().any(|child| child.has_tag_name(name));
        match has("interface") && has("address") {
            true => Err("holds interfaces beside addresses"),
            false => Ok(()),
        }
    }),
    ..shape(
        &[
            A("dev", Kind::Device, Optional),
            A("mode", MODES, Optional),
            A("managed", YES_NO, Optional),
        ],
        Children(&[
            C("interface", Any, &INTERFACE),
            C("address", Any, &PCI_ADDRESS),
            C("pf", Maybe, &PF),
            C("driver", Maybe, &DRIVER),
            C("nat", Maybe, &NAT),
        ]),
    )
};

static INTERFACE: Shape = shape(
    &[
        A("dev", Kind::Device, Always),
        A("connections", U32, Optional),
    ],
    NOTHING,
);
static PF: Shape = shape(&[A("dev", Kind::Device, Always)], NOTHING);
static PCI_ADDRESS: Shape = shape(
    &[
        A("type", Kind::Word(&["pci"]), Always),
        A("domain", Kind::Hex(u32::MAX, true), Optional),
        A("bus", Kind::Hex(0xff, false), Optional),
        A("slot", Kind::Hex(0x1f, true), Optional),
        A("function", Kind::Hex(7, true), Optional),
        A("multifunction", ON_OFF, Optional),
        A("connections", U32, Optional),
    ],
    NOTHING,
);
pub(super) static DRIVER: Shape = shape(
    &[
        A("name", Kind::Word(&["kvm", "vfio", "xen"]), Optional),
        A("model", Kind::Letters("_+-"), Optional),
        A("iommufd", YES_NO, Optional),
    ],
    NOTHING,
);
static NAT: Shape = shape(
    &[A("ipv6", YES_NO, Optional)],
    Children(&[
        C("address", Maybe, &NAT_ADDRESS),
        C("port", Maybe, &NAT_PORT),
    ]),
);
static NAT_ADDRESS: Shape = shape(
    &[A("start", Kind::Ipv4, Always), A("end", Kind::Ipv4, Always)],
    NOTHING,
);
static NAT_PORT: Shape = shape(&[A("start", PORT, Always), A("end", PORT, Always)], NOTHING);

pub(super) static VIRTUAL_PORT: Shape = Shape {
    rule: Some(virtual_port),
    ..shape(
        &[A(
            "type",
            Kind::Word(&["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"]),
            Optional,
        )],
        Children(&[C("parameters", Maybe, &PARAMETERS)]),
    )
};
static PARAMETERS: Shape = shape(
    &[
        A("managerid", Kind::Hex(0xff, false), Optional),
        A("typeid", Kind::Hex(0xff_ffff, false), Optional),
        A("typeidversion", Kind::Hex(0xff, false), Optional),
        A("instanceid", Kind::Uuid, Optional),
        A("interfaceid", Kind::Uuid, Optional),
        A("profileid", Kind::AtMost(39), Optional),
    ],
    NOTHING,
);

/// Each type has parameters of its own.
fn virtual_port(node: Node<'_, '_>) -> Result<(), &'static str> {
    let parameters = node
        .children()
        .find(|child| child.has_tag_name("parameters"));
    let own: &[&str] = match node.attribute("type").map(str::trim) {
        Some("802.1Qbg") => &["managerid", "typeid", "typeidversion", "instanceid"],
        Some("802.1Qbh") => &["profileid"],
        Some("openvswitch") => &["profileid", "interfaceid"],
        Some("midonet") => {
            if parameters.is_none_or(|node| node.attribute("interfaceid").is_none()) {
                return Err("lacks the interfaceid of type midonet");
            }
            &["interfaceid"]
        }
        _ => return Ok(()),
    };
    let is_own = |name: &str| own.contains(&name);
    let mut given = parameters.iter().flat_map(|node| node.attributes());
    match given.all(|attribute| is_own(attribute.name())) {
        true => Ok(()),
        false => Err("has a parameter that its type has not"),
    }
}

static PORT_GROUP: Shape = shape(
    &[
        A("name", Kind::Device, Always),
        A("default", YES_NO, Optional),
        A("trustGuestRxFilters", YES_NO, Optional),
    ],
    Children(&[
        C("virtualport", Maybe, &VIRTUAL_PORT),
        C("bandwidth", Maybe, &BANDWIDTH),
        C("vlan", Maybe, &VLAN),
    ]),
);
static DOMAIN: Shape = shape(
    &[
        A("name", Kind::DnsName, Always),
        A("localOnly", YES_NO, Optional),
        A("register", YES_NO, Optional),
    ],
    NOTHING,
);
pub(super) static BANDWIDTH: Shape = shape(
    &[A("classID", Kind::Digits(1, u64::MAX), Optional)],
    Children(&[C("inbound", Maybe, &RATE), C("outbound", Maybe, &RATE)]),
);
const SPEED: Kind = Kind::Digits(1, 1 << 54);
static RATE: Shape = shape(
    &[
        A("average", SPEED, Optional),
        A("peak", SPEED, Optional),
        A("floor", SPEED, Optional),
        A("burst", Kind::Digits(1, u32::MAX as u64), Optional),
    ],
    NOTHING,
);
pub(super) static VLAN: Shape = shape(
    &[A("trunk", Kind::Word(&["yes"]), Optional)],
    Children(&[C("tag", AtLeastOne, &TAG)]),
);
static TAG: Shape = shape(
    &[
        A("id", Kind::Number(0, 4095), Always),
        A("nativeMode", Kind::Word(&["tagged", "untagged"]), Optional),
    ],
    NOTHING,
);

static DNS: Shape = shape(
    &[
        A("enable", YES_NO, Optional),
        A("forwardPlainNames", YES_NO, Optional),
    ],
    Children(&[
        C("forwarder", Any, &FORWARDER),
        C("txt", Any, &TXT),
        C("srv", Any, &SRV),
        C("host", Any, &DNS_HOST),
    ]),
);
static FORWARDER: Shape = shape(
    &[
        A("addr", Kind::Ip, Optional),
        A("domain", Kind::DnsName, Optional),
        A("port", PORT, Optional),
    ],
    NOTHING,
);
static TXT: Shape = shape(
    &[
        A("name", Kind::DnsName, Always),
        A("value", Kind::Text, Always),
    ],
    NOTHING,
);
static SRV: Shape = shape(
    &[
        A("service", Kind::Text, Always),
        A("protocol", Kind::Exactly(&["tcp", "udp"]), Always),
        A("domain", Kind::DnsName, Optional),
        A("target", Kind::Text, Optional),
        A("port", U16, Optional),
        A("priority", U16, Optional),
        A("weight", U16, Optional),
    ],
    NOTHING,
);
static DNS_HOST: Shape = shape(
    &[A("ip", Kind::Ip, Always)],
    Children(&[C("hostname", AtLeastOne, &HOSTNAME)]),
);
static HOSTNAME: Shape = shape(&[], Text(Kind::DnsName));

static IP: Shape = Shape {
    rule: Some(one_mask),
    ..shape(
        &[
            A("address", Kind::Ip, Optional),
            A("netmask", Kind::Ipv4, Optional),
            A("prefix", Kind::Number(0, 128), Optional),
            A("family", Kind::Exactly(&["ipv4", "ipv6"]), Optional),
            A("localPtr", YES_NO, Optional),
        ],
        Children(&[C("tftp", Maybe, &TFTP), C("dhcp", Maybe, &DHCP)]),
    )
};

fn one_mask(node: Node<'_, '_>) -> Result<(), &'static str> {
    match node.attribute("netmask").is_some() && node.attribute("prefix").is_some() {
        true => Err("has a netmask beside a prefix"),
        false => Ok(()),
    }
}

static TFTP: Shape = shape(&[A("root", Kind::Text, Always)], NOTHING);
static DHCP: Shape = shape(
    &[],
    Children(&[
        C("range", Any, &RANGE),
        C("host", Any, &DHCP_HOST),
        C("bootp", Maybe, &BOOTP),
    ]),
);
static RANGE: Shape = shape(
    &[A("start", Kind::Ip, Always), A("end", Kind::Ip, Always)],
    Children(&[C("lease", Maybe, &LEASE)]),
);
static DHCP_HOST: Shape = Shape {
    rule: Some(|node| {
        let has = |name| node.attribute(name).is_some();
        match (has("mac"), has("id"), has("name")) {
            (true, true, _) => Err("has a mac beside an id"),
            (false, false, false) => Err("lacks one of the attributes mac, id and name"),
            _ => Ok(()),
        }
    }),
    ..shape(
        &[
            A("mac", Kind::Mac, Optional),
            A("id", Kind::Duid, Optional),
            A("name", Kind::Text, Optional),
            A("ip", Kind::Ip, Always),
        ],
        Children(&[C("lease", Maybe, &LEASE)]),
    )
};
static LEASE: Shape = shape(
    &[
        A("expiry", Kind::Digits(0, u64::MAX), Always),
        A(
            "unit",
            Kind::Word(&["seconds", "minutes", "hours"]),
            Optional,
        ),
    ],
    NOTHING,
);
static BOOTP: Shape = shape(
    &[
        A("file", Kind::Filled, Always),
        A("server", Kind::DnsName, Optional),
    ],
    NOTHING,
);
static ROUTE: Shape = Shape {
    rule: Some(one_mask),
    ..shape(
        &[
            A("family", Kind::Exactly(&["ipv4", "ipv6"]), Optional),
            A("address", Kind::Ip, Optional),
            A("netmask", Kind::Ipv4, Optional),
            A("prefix", Kind::Number(0, 128), Optional),
            A("gateway", Kind::Ip, Always),
            A("metric", Kind::Digits(0, u32::MAX as u64), Optional),
        ],
        NOTHING,
    )
};
static OPTIONS: Shape = shape(&[], Children(&[C("option", Any, &OPTION)]));
static OPTION: Shape = shape(&[A("value", Kind::Text, Always)], NOTHING);
