//! The elements of a port of a network.

use roxmltree::Node;

use super::kind::{Kind, ON_OFF, YES_NO};
use super::shape::{Attribute as A, Child as C, Content, Needed, Often, Shape};
use super::shapes::{
    BANDWIDTH, DRIVER, ISOLATION, MAC, MAC_TABLE_MANAGER, NAME, NOTHING, UUID, VIRTUAL_PORT, VLAN,
    shape,
};
use Content::{Children, Text};
use Needed::{Always, Optional};
use Often::{Maybe, Once};

pub(super) static NETWORK_PORT: Shape = shape(
    &[],
    Children(&[
        C("uuid", Once, &UUID),
        C("owner", Once, &OWNER),
        C("mac", Once, &MAC),
        C("group", Maybe, &GROUP),
        C("rxfilters", Maybe, &RX_FILTERS),
        C("virtualport", Maybe, &VIRTUAL_PORT),
        C("bandwidth", Maybe, &BANDWIDTH),
        C("vlan", Maybe, &VLAN),
        C("port", Maybe, &ISOLATION),
        C("plug", Maybe, &PLUG),
    ]),
);

static OWNER: Shape = shape(
    &[],
    Children(&[C("name", Once, &NAME), C("uuid", Once, &UUID)]),
);
static GROUP: Shape = shape(&[], Text(Kind::Device));
static RX_FILTERS: Shape = shape(&[A("trustGuest", YES_NO, Always)], NOTHING);

const MACVTAP_MODES: Kind = Kind::Word(&["bridge", "passthrough", "private", "vepa"]);

static PLUG: Shape = Shape {
    rule: Some(plug),
    ..shape(
        &[
            A(
                "type",
                Kind::Word(&["network", "bridge", "direct", "hostdev-pci"]),
                Always,
            ),
            A("bridge", Kind::Device, Optional),
            A("macTableManager", MAC_TABLE_MANAGER, Optional),
            A("dev", Kind::Device, Optional),
            A("mode", MACVTAP_MODES, Optional),
            A("managed", YES_NO, Optional),
        ],
        Children(&[
            C("driver", Maybe, &DRIVER),
            C("address", Maybe, &PCI_ADDRESS),
        ]),
    )
};

/// Each type has attributes and elements of its own.
fn plug(node: Node<'_, '_>) -> Result<(), &'static str> {
    let is_pci = node.attribute("type").map(str::trim) == Some("hostdev-pci");
    let (needed, allowed): (&[&str], &[&str]) = match node.attribute("type").map(str::trim) {
        Some("direct") => (&["dev", "mode"], &[]),
        Some("hostdev-pci") => (&[], &["managed"]),
        _ => (&["bridge"], &["macTableManager"]),
    };
    if needed.iter().any(|name| node.attribute(*name).is_none()) {
        return Err("lacks an attribute that its type has");
    }
    let is_own = |name: &str| name == "type" || needed.contains(&name) || allowed.contains(&name);
    if !node.attributes().all(|attribute| is_own(attribute.name())) {
        return Err("has an attribute that its type has not");
    }
    let has = |name| node.children().any(|child| child.has_tag_name(name));
    match (is_pci, has("address"), has("driver")) {
        (true, false, _) => Err("lacks the address of type hostdev-pci"),
        (false, true, _) | (false, _, true) => Err("has an element that its type has not"),
        _ => Ok(()),
    }
}

static PCI_ADDRESS: Shape = shape(
    &[
        A("domain", Kind::Hex(u32::MAX, true), Optional),
        A("bus", Kind::Hex(0xff, false), Optional),
        A("slot", Kind::Hex(0x1f, true), Optional),
        A("function", Kind::Hex(7, true), Optional),
        A("multifunction", ON_OFF, Optional),
    ],
    NOTHING,
);
