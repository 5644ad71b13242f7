//! A pinned link, taken off its device at once.
//!
//! Removing a pin gives the link up only after a grace period and by a worker of the kernel's
//! (`bpf_free_inode`, `bpf_link_put`). Until then the device still has the program, and takes it no second
//! time (`bpf_mprog_attach`: EEXIST; XDP: EBUSY). aya has no call for this.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Commands of bpf(2), `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// What `BPF_OBJ_GET` reads of `union bpf_attr`.
#[repr(C)]
struct Get {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What `BPF_LINK_DETACH` reads of it.
#[repr(C)]
struct Detach {
    link_fd: u32,
}

/// A link by its pin.
pub(super) struct Link(OwnedFd);

impl Link {
    /// Open the link that is pinned at `path`; `None` where nothing is.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let get = Get {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        };
        match call(BPF_OBJ_GET, &get) {
            Ok(fd) => {
                // SAFETY: the kernel has just made the descriptor, for nobody else.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Ok(Some(Self(fd)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Take the program off. The link stays, and leads nowhere any more.
    pub fn detach(self) -> io::Result<()> {
        let link_fd = self.0.as_raw_fd().cast_unsigned();
        call(BPF_LINK_DETACH, &Detach { link_fd }).map(drop)
    }
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a structure that outlives the call, as does the
    // path that one of them points to, which ends in a NUL; it writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
