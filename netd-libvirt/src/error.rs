//! What goes wrong, and how libvirt and its clients are told.

use std::ffi::{CString, c_char, c_int};
use std::ptr::{null, null_mut};

use crate::abi::VirError;
use crate::libvirt::Libvirt;
use crate::memory;

/// `VIR_FROM_NETWORK`.
const FROM_NETWORK: c_int = 19;
/// `VIR_ERR_ERROR`.
const LEVEL_ERROR: c_int = 2;

/// The codes of errors that are the module's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// `VIR_ERR_INTERNAL_ERROR`.
    Internal = 1,
    /// `VIR_ERR_NO_SUPPORT`.
    NoSupport = 3,
    /// `VIR_ERR_OPERATION_FAILED`.
    Failed = 9,
}

/// An error that libvirt had set, a copy of it: the next call of libvirt resets it.
pub struct Saved {
    error: *mut VirError,
    libvirt: &'static Libvirt,
}

impl Drop for Saved {
    fn drop(&mut self) {
        self.libvirt.free_error(self.error);
    }
}

/// Why a function of the driver fails.
pub enum Error {
    /// What libvirt's client library or netd said.
    Libvirt(Saved),
    /// What the module found.
    Own(Code, String),
    /// There is no netd, which may change.
    Away(String),
}

impl Error {
    /// An error of the module.
    pub fn failed(message: String) -> Self {
        Self::Own(Code::Failed, format!("operation failed: {message}"))
    }

    /// An error that nobody should see.
    pub fn internal(message: &str) -> Self {
        Self::Own(Code::Internal, format!("internal error: {message}"))
    }

    /// What libvirt has set for this thread.
    pub fn last(libvirt: &'static Libvirt) -> Self {
        let error = libvirt.save_last_error();
        if error.is_null() {
            return Self::internal("libvirt failed and does not say why");
        }
        Self::Libvirt(Saved { error, libvirt })
    }

    /// What it says.
    pub fn message(&self) -> String {
        let text = match self {
            Self::Own(_, message) | Self::Away(message) => return message.clone(),
            // SAFETY: the copy is there and ours until it is dropped.
            Self::Libvirt(saved) => memory::text(unsafe { (*saved.error).message }),
        };
        text.map_or_else(
            || "no message".to_owned(),
            |text| text.to_string_lossy().into_owned(),
        )
    }

    /// Sets it as the thread's last error, which is what libvirt tells the client.
    pub fn raise(self, libvirt: &Libvirt) {
        let (code, message) = match self {
            Self::Libvirt(saved) => {
                libvirt.set_error(saved.error);
                return;
            }
            Self::Own(code, message) => (code, message),
            Self::Away(message) => (Code::Failed, format!("operation failed: {message}")),
        };
        let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
        libvirt.set_error(&VirError {
            code: code as c_int,
            domain: FROM_NETWORK,
            message: message.as_ptr().cast_mut(),
            level: LEVEL_ERROR,
            conn: null_mut(),
            dom: null_mut(),
            str1: c"%s".as_ptr().cast_mut(),
            str2: message.as_ptr().cast_mut(),
            str3: null_mut(),
            int1: -1,
            int2: -1,
            net: null_mut(),
        });
    }
}

/// What a function of libvirt returns, and which value says that it failed.
pub trait Returned: Sized {
    /// The value that says so.
    const FAILED: Self;

    /// Is it that?
    fn is_failure(&self) -> bool;
}

impl Returned for c_int {
    const FAILED: Self = -1;

    fn is_failure(&self) -> bool {
        *self < 0
    }
}

impl<T> Returned for Option<T> {
    const FAILED: Self = None;

    fn is_failure(&self) -> bool {
        self.is_none()
    }
}

impl Returned for *mut c_char {
    const FAILED: Self = null::<c_char>().cast_mut();

    fn is_failure(&self) -> bool {
        self.is_null()
    }
}

/// The value, or what libvirt has set as the reason of its failure.
///
/// # Errors
/// That reason.
pub fn checked<T: Returned>(libvirt: &'static Libvirt, value: T) -> Result<T, Error> {
    if value.is_failure() {
        return Err(Error::last(libvirt));
    }
    Ok(value)
}
