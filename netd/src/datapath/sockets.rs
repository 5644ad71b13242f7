//! The programs at the host's own sockets: links to the root of the control groups, pinned.
//!
//! They are there while some port is published, and see the calls of every process of the machine;
//! those of other network namespaces they let pass.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{Datapath, DatapathError, Result, chain, io};

/// The programs; each is named after its hook.
pub const PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
];

impl Datapath {
    fn socket_link(&self, program: &str) -> PathBuf {
        self.dir.join("links").join(format!("sockets-{program}"))
    }

    /// Attach the programs, or put this agent's into the place of an earlier one's without a gap.
    ///
    /// # Errors
    /// The kernel refuses one; those before it stay attached.
    pub fn attach_sockets(&mut self) -> Result<()> {
        let group = root_group().map_err(|error| failed("connect4", error.to_string()))?;
        for name in PROGRAMS {
            let path = self.socket_link(name);
            let program: &mut CgroupSockAddr = self
                .program(name)?
                .try_into()
                .map_err(|error| failed(name, chain(&error)))?;
            // The mode stands for no flags: a link always leaves room for others, and the kernel
            // refuses the flag that says so (`cgroup_bpf_link_attach`).
            let id = program
                .attach(&group, CgroupAttachMode::Single)
                .map_err(|error| failed(name, chain(&error)))?;
            let link = program
                .take_link(id)
                .map_err(|error| failed(name, chain(&error)))?;
            let link = FdLink::try_from(link).map_err(|error| failed(name, chain(&error)))?;
            // Both are attached for a moment: what the first has redirected is no published port,
            // so the second leaves it alone.
            let new = self.socket_link(&format!("{name}-new"));
            remove(&new)?;
            link.pin(&new)
                .map_err(|error| failed(name, chain(&error)))?;
            std::fs::rename(&new, &path).map_err(io("rename", &new))?;
        }
        Ok(())
    }

    /// Detach them.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn detach_sockets(&mut self) -> Result<()> {
        for name in PROGRAMS {
            remove(&self.socket_link(name))?;
        }
        Ok(())
    }

    /// Are all of them attached, by this agent or an earlier one?
    #[must_use]
    pub fn has_sockets(&self) -> bool {
        PROGRAMS.iter().all(|name| self.socket_link(name).exists())
    }
}

/// The root of the control groups (version 2), wherever they are mounted, if at all.
fn root_group() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

fn remove(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn failed(program: &'static str, message: String) -> DatapathError {
    DatapathError::Sockets { program, message }
}
