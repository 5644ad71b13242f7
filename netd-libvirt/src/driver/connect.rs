//! Connections of the scheme `network`, which libvirt's other drivers open inside the daemon.

use std::ffi::{c_int, c_uint};

use crate::abi::{Conn, Opaque};
use crate::error::{Error, Returned as _};
use crate::memory;
use crate::module::answer;

/// `VIR_CONNECT_RO`.
const READ_ONLY: c_uint = 1;
/// `VIR_DRV_OPEN_ERROR`; success is 0.
const OPEN_ERROR: c_int = -2;

/// Nothing is opened at netd yet, so that who only wants to be connected need not wait for it.
pub unsafe extern "C" fn open(conn: Conn, _: Opaque, _: Opaque, flags: c_uint) -> c_int {
    let opened: c_int = answer(|module| {
        if flags & !READ_ONLY != 0 {
            return Err(Error::internal(&format!(
                "flags {flags:#x} of a connection"
            )));
        }
        let uri = memory::take_text(module.libvirt.connect_get_uri(conn));
        let uri = uri.ok_or_else(|| Error::last(module.libvirt))?;
        if uri.split('?').next() != Some("network:///system") {
            return Err(Error::internal(&format!(
                "unexpected network URI {uri}, try network:///system"
            )));
        }
        Ok(0)
    });
    if opened.is_failure() {
        OPEN_ERROR
    } else {
        opened
    }
}

pub unsafe extern "C" fn close(_: Conn) -> c_int {
    0
}

/// Trivially so inside the daemon, as libvirt's own driver says.
pub unsafe extern "C" fn is_secure(_: Conn) -> c_int {
    1
}

pub unsafe extern "C" fn is_encrypted(_: Conn) -> c_int {
    0
}

pub unsafe extern "C" fn is_alive(_: Conn) -> c_int {
    1
}

/// What every driver of libvirt says yes to: file descriptors, strings among typed parameters, and the
/// right order of the arguments of an update.
pub unsafe extern "C" fn supports_feature(_: Conn, feature: c_int) -> c_int {
    matches!(feature, 8 | 9 | 16).into()
}
