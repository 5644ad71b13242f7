//! Asks libvirt's own library where it looks for each function of a driver.
//!
//! A driver is registered whose every member is a function that returns the member's index. libvirt's
//! public functions call it and return what it returned. So this compares [`crate::layout`] and
//! [`crate::abi`] with the library itself, of this machine and of each root that `NETD_ROOTS` names.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::process::Command;
use std::ptr::{null, null_mut};

use crate::abi::{
    Conn, ConnectDriver, ConnectOpen, EventCallback, HYPERVISOR_MEMBERS, HypervisorDriver, Net,
    NetworkDriver, Opaque, Port, Text, TypedParameter,
};
use crate::layout::{self, Version};
use crate::libvirt::{self, Libvirt};
use crate::{driver, memory};

/// Returns its number, as an integer or as a pointer.
extern "C" fn member<const INDEX: usize>() -> usize {
    INDEX
}

/// `member` of 16 indices from a multiple of 16 on.
macro_rules! sixteen {
    ($($from:literal)*) => {
        [$(
            member::<{ $from }>, member::<{ $from + 1 }>, member::<{ $from + 2 }>,
            member::<{ $from + 3 }>, member::<{ $from + 4 }>, member::<{ $from + 5 }>,
            member::<{ $from + 6 }>, member::<{ $from + 7 }>, member::<{ $from + 8 }>,
            member::<{ $from + 9 }>, member::<{ $from + 10 }>, member::<{ $from + 11 }>,
            member::<{ $from + 12 }>, member::<{ $from + 13 }>, member::<{ $from + 14 }>,
            member::<{ $from + 15 }>,
        )*]
    };
}

const MEMBERS: [extern "C" fn() -> usize; 272] =
    sixteen!(0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240 256);

/// The table of a driver whose functions say where they stand; the name is member 0.
fn telling<const LENGTH: usize>(name: Text) -> &'static mut [*const c_void; LENGTH] {
    let mut table = [null::<c_void>(); LENGTH];
    for (place, member) in table.iter_mut().zip(MEMBERS) {
        *place = member as *const c_void;
    }
    table[0] = name.cast();
    Box::leak(Box::new(table))
}

unsafe extern "C" fn open(_: Conn, _: Opaque, _: Opaque, _: u32) -> c_int {
    0
}

unsafe extern "C" fn nothing() {}

/// Where `connectOpen` is in every version.
const OPEN: usize = 2;

/// Registers a driver that tells. Before anything else is done with libvirt: whose driver comes first is
/// asked first, and libvirt's own that goes to daemons takes every connection.
fn register(libvirt: &Libvirt) {
    let name = c"netdprobe".as_ptr();
    let hypervisor = telling::<HYPERVISOR_MEMBERS>(name);
    hypervisor[OPEN] = open as ConnectOpen as *const c_void;
    let network = telling::<64>(name);
    let schemes: &mut [Text; 2] = Box::leak(Box::new([name, null()]));
    let connections = driver::connections(
        schemes,
        // SAFETY: the table has the type's length.
        unsafe { &*hypervisor.as_ptr().cast::<HypervisorDriver>() },
        // SAFETY: the table is longer than the type, whose members are pointers, and none is null.
        unsafe { &*network.as_ptr().cast::<NetworkDriver>() },
    );
    let connections: &'static ConnectDriver = Box::leak(Box::new(connections));
    assert_eq!(libvirt.register_connect_driver(connections, false), 0);
}

/// A connection of that driver.
fn connection(libvirt: &Libvirt) -> Conn {
    let conn = libvirt.connect_open(c"netdprobe:///system".as_ptr());
    conn.unwrap_or_else(|| {
        let said = memory::text(libvirt.get_last_error_message()).unwrap_or_default();
        panic!("the driver is not asked: {}", said.to_string_lossy());
    })
}

/// The index of a member of the network driver's table.
macro_rules! index {
    ($member:ident) => {
        offset_of!(NetworkDriver, $member) / size_of::<*const c_void>()
    };
}

/// What libvirt returned, as the index that it is.
trait Told {
    fn index(self) -> usize;
}

impl Told for c_int {
    fn index(self) -> usize {
        usize::try_from(self).unwrap_or(usize::MAX)
    }
}

impl Told for *mut c_char {
    fn index(self) -> usize {
        self.addr()
    }
}

macro_rules! told_by_handle {
    ($($handle:ty)*) => {
        $(impl Told for Option<$handle> {
            fn index(self) -> usize {
                // SAFETY: a handle is a pointer that is not null, and none is null.
                unsafe { std::mem::transmute::<Self, usize>(self) }
            }
        })*
    };
}
told_by_handle!(Net Port);

/// Every function of networks: its name, where libvirt looks for it, where it is.
fn networks(libvirt: &Libvirt, conn: Conn) -> Vec<(&'static str, usize, usize)> {
    let (uuid, text) = ([7u8; 16], c"text".as_ptr());
    let id = uuid.as_ptr();
    let net = libvirt.get_network(conn, text, id).expect("a network");
    let port = libvirt.get_network_port(net, id).expect("a port");
    let (mut number, mut names, mut nets, mut ports) = (0, null_mut(), null_mut(), null_mut());
    let mut leases: *mut Opaque = null_mut();
    // SAFETY: zeroes are a parameter without a name, whose value is 0.
    let mut parameter: TypedParameter = unsafe { std::mem::zeroed() };
    parameter.kind = 1;
    parameter.field[0] = b'x'.cast_signed();
    let (mut parameters, mut count) = (null_mut(), 1);
    let callback: EventCallback = nothing;
    let mut all = Vec::new();
    macro_rules! look {
        ($($member:ident: $call:ident($($argument:expr),*);)*) => {
            $(all.push((
                stringify!($member),
                Told::index(libvirt.$call($($argument),*)),
                index!($member),
            ));)*
        };
    }
    look! {
        connect_num_of_networks: connect_num_of_networks(conn);
        connect_list_networks: connect_list_networks(conn, &raw mut names, 1);
        connect_num_of_defined_networks: connect_num_of_defined_networks(conn);
        connect_list_defined_networks: connect_list_defined_networks(conn, &raw mut names, 1);
        connect_list_all_networks: connect_list_all_networks(conn, &raw mut nets, 0);
        connect_network_event_register_any:
            connect_network_event_register_any(conn, None, 0, callback, null_mut(), None);
        network_lookup_by_uuid: network_lookup_by_uuid(conn, id);
        network_lookup_by_name: network_lookup_by_name(conn, text);
        network_create_xml: network_create_xml(conn, text);
        network_create_xml_flags: network_create_xml_flags(conn, text, 0);
        network_define_xml: network_define_xml(conn, text);
        network_define_xml_flags: network_define_xml_flags(conn, text, 0);
        network_undefine: network_undefine(net);
        network_update: network_update(net, 3, 4, -1, text, 0);
        network_create: network_create(net);
        network_destroy: network_destroy(net);
        network_get_xml_desc: network_get_xml_desc(net, 0);
        network_get_bridge_name: network_get_bridge_name(net);
        network_get_autostart: network_get_autostart(net, &raw mut number);
        network_set_autostart: network_set_autostart(net, 1);
        network_is_active: network_is_active(net);
        network_is_persistent: network_is_persistent(net);
        network_get_dhcp_leases: network_get_dhcp_leases(net, null(), &raw mut leases, 0);
        network_port_lookup_by_uuid: network_port_lookup_by_uuid(net, id);
        network_port_create_xml: network_port_create_xml(net, text, 0);
        network_port_get_xml_desc: network_port_get_xml_desc(port, 0);
        network_port_set_parameters: network_port_set_parameters(port, &raw mut parameter, 1, 0);
        network_port_get_parameters:
            network_port_get_parameters(port, &raw mut parameters, &raw mut count, 0);
        network_port_delete: network_port_delete(port, 0);
        network_list_all_ports: network_list_all_ports(net, &raw mut ports, 0);
    }
    all.push((
        "connect_network_event_deregister_any",
        ask(c"virConnectNetworkEventDeregisterAny", conn),
        index!(connect_network_event_deregister_any),
    ));
    if let Some(metadata) = &libvirt.metadata {
        let set = Told::index(metadata.set(net, 0, text, null(), null(), 0));
        all.push(("network_set_metadata", set, index!(network_set_metadata)));
        let got = Told::index(metadata.get(net, 0, null(), 0));
        all.push(("network_get_metadata", got, index!(network_get_metadata)));
    }
    all
}

/// There in the environment of a process that runs the probe and nothing else: a driver has to be
/// registered before anybody uses the library, which other tests do.
const ALONE: &str = "NETD_PROBE_ALONE";
const PROBE: &str = "probe::libvirt_finds_every_function_where_it_is";
const FOUND: &str = "are where they are looked for";

/// What a process says that runs the probe, to its success.
fn said(command: &mut Command) -> String {
    let output = command
        .env(ALONE, "1")
        .args(["--exact", "--ignored", "--nocapture", PROBE])
        .output()
        .expect("starting the probe");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}{errors}",
        output.status
    );
    format!("{said}{errors}")
}

#[test]
#[ignore = "needs libvirt's library: cargo xtask test"]
fn libvirt_finds_every_function_where_it_is() {
    match std::env::var_os(ALONE) {
        Some(_) => probe(),
        None => {
            let this = std::env::current_exe().expect("this program");
            let said = said(&mut Command::new(this));
            let skipped = said.contains("SKIPPED: ");
            assert!(skipped || said.contains(FOUND), "{said}");
            eprint!("{said}");
        }
    }
}

fn probe() {
    // SAFETY: libvirt's initializers may run in any process.
    let library =
        unsafe { libc::dlopen(c"libvirt.so.0".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    assert!(!library.is_null(), "no libvirt.so.0");
    let libvirt = Libvirt::find().expect("libvirt's functions");
    register(&libvirt);
    let version = Version(libvirt::version().expect("a version"));
    let Some(layout) = layout::of(version) else {
        eprintln!("SKIPPED: the module refuses this machine's libvirt, {version}");
        return;
    };
    assert!(
        libvirt.caller.is_some(),
        "whom libvirtd works for is not known"
    );
    let conn = connection(&libvirt);

    let members = layout.members;
    assert_eq!(members.open, OPEN);
    let mut all = networks(&libvirt, conn);
    // All but the name, and what older versions do not have.
    let functions = size_of::<NetworkDriver>() / size_of::<*const c_void>() - 1;
    let missing = if libvirt.metadata.is_some() { 0 } else { 2 };
    assert_eq!(all.len(), functions - missing);
    for (name, symbol, expected) in [
        (
            "supports_feature",
            c"virConnectSupportsFeature",
            members.supports_feature,
        ),
        (
            "is_encrypted",
            c"virConnectIsEncrypted",
            members.is_encrypted,
        ),
        ("is_secure", c"virConnectIsSecure", members.is_secure),
        ("is_alive", c"virConnectIsAlive", members.is_alive),
    ] {
        all.push((name, ask(symbol, conn), expected));
    }
    let wrong: Vec<_> = all.iter().filter(|(_, found, at)| found != at).collect();
    assert!(
        wrong.is_empty(),
        "libvirt {version}: name, looked for, is: {wrong:?}"
    );
    println!("libvirt {version}: {} functions {FOUND}", all.len());
}

/// Calls a function of libvirt that takes a connection and perhaps a number.
fn ask(symbol: &std::ffi::CStr, conn: Conn) -> usize {
    // SAFETY: dlsym only reads the name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    assert!(!found.is_null(), "{symbol:?}");
    // SAFETY: that is the type of libvirt's functions this is called for; C ignores a second argument.
    let function: unsafe extern "C" fn(Conn, c_int) -> c_int =
        unsafe { std::mem::transmute(found) };
    // SAFETY: as above.
    unsafe { function(conn, 1) }.index()
}

/// What needs Debian's releases.
mod heavy {
    use std::path::Path;
    use std::process::Command;

    #[test]
    #[ignore = "needs root and Debian's releases: cargo xtask test --clients"]
    fn so_does_the_libvirt_of_each_release() {
        let Some(roots) = std::env::var_os("NETD_ROOTS") else {
            eprintln!("SKIPPED: NETD_ROOTS is not set, as cargo xtask test --clients does");
            return;
        };
        let this = std::env::current_exe().expect("this program");
        for release in ["bookworm", "trixie", "sid"] {
            let root = Path::new(&roots).join(release);
            if !root.is_dir() {
                eprintln!("SKIPPED: there is no {}", root.display());
                continue;
            }
            let script = r#"mount --make-rprivate / && mount --bind "$1" "$2/mnt" &&
            root=$2 program=$3 && shift 3 && exec chroot "$root" "/mnt/$program" "$@""#;
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "sh", "-c", script, "sh"])
                .arg(this.parent().expect("its directory"))
                .arg(&root)
                .arg(this.file_name().expect("its name"));
            let said = super::said(&mut command);
            assert!(said.contains(super::FOUND), "{release}: {said}");
            print!("{release}: {said}");
        }
    }
}
