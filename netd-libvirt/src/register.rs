//! The start: libvirtd has loaded the module and wants its driver.
//!
//! libvirtd does not start at all where this says that it failed. A host whose guests do not run is worse
//! than one without new networks, so what cannot be served is said on standard error, which is in the
//! journal, and libvirtd goes on without a network driver: guests of networks are refused until it is mended.

use std::ffi::c_int;
use std::io::Write as _;
use std::panic::catch_unwind;

use crate::abi::Text;
use crate::driver;
use crate::events::Events;
use crate::layout::{self, Version};
use crate::libvirt::{self, Libvirt};
use crate::module;

/// Where netd listens, unless [`SOCKET_VARIABLE`] names another place.
const SOCKET: &str = "/run/netd/netd-sock";
/// The variable of libvirtd's that names the socket.
const SOCKET_VARIABLE: &str = "NETD_SOCKET";

/// Text pointers that never change.
struct Schemes([Text; 2]);

// SAFETY: they point to constants.
unsafe impl Sync for Schemes {}

static SCHEMES: Schemes = Schemes([c"network".as_ptr(), std::ptr::null()]);

/// What libvirtd calls once. It always says that all went well, see above.
// The name is libvirt's, and the attribute exports the symbol that libvirtd looks for; no other library
// of that process has one of that name, since this module is in the place of the only one that had.
#[allow(non_snake_case, reason = "libvirt's name")]
#[unsafe(no_mangle)]
pub extern "C" fn networkRegister() -> c_int {
    let registered =
        catch_unwind(register).unwrap_or_else(|_| Err("the module has a fault".to_owned()));
    if let Err(why) = registered {
        // Where standard error is closed nobody can be told.
        let _ = writeln!(
            std::io::stderr(),
            "netd: libvirtd runs without networks, since netd's module cannot serve it: {why}"
        );
    }
    0
}

/// Registers the driver.
fn register() -> Result<(), String> {
    // SAFETY: it reads a number.
    if unsafe { libc::geteuid() } != 0 {
        return Err("netd serves the system's networks only, and this is a user's session".into());
    }
    let version = libvirt::version().map(Version);
    let version = version.ok_or("libvirt does not tell its version")?;
    let layout = layout::of(version).ok_or_else(|| {
        format!(
            "libvirt {version} is not one that this netd knows ({}); update netd, or give the \
             networks back to libvirt: netd libvirt release",
            layout::RANGE
        )
    })?;
    let libvirt = Libvirt::find()
        .map_err(|missing| format!("libvirt {version} has no function {missing}"))?;
    let libvirt: &'static Libvirt = Box::leak(Box::new(libvirt));
    let socket = std::env::var(SOCKET_VARIABLE).ok();
    let socket = socket.filter(|socket| !socket.is_empty());
    let socket = socket.unwrap_or_else(|| SOCKET.to_owned());
    let events = Events::new(libvirt, layout.metadata_events);
    module::set_up(libvirt, socket, events).ok_or("it is registered already")?;

    let networks = Box::leak(Box::new(driver::networks()));
    let hypervisor = Box::leak(Box::new(driver::hypervisor(layout.members)));
    let connections = driver::connections(&SCHEMES.0, hypervisor, networks);
    let connections = Box::leak(Box::new(connections));
    let refused = || {
        let message = crate::memory::text(libvirt.get_last_error_message());
        let message = message.unwrap_or_default();
        format!("libvirt refuses it: {}", message.to_string_lossy())
    };
    if libvirt.set_shared_network_driver(networks) < 0 {
        return Err(refused());
    }
    if libvirt.register_connect_driver(connections, false) < 0 {
        return Err(refused());
    }
    Ok(())
}
