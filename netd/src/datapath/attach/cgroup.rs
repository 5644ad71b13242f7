//! The programs at the host's own sockets: links to the root of the control groups.
//!
//! They are there while some port is published, and see the calls of every process of the machine;
//! those of other network namespaces they let pass.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::mechanism::Mechanism;
use super::pins::{self, Links};
use super::refusal::Refusal;
use crate::datapath::error::{Result, io};

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

/// What their pins' names begin with.
const PREFIX: &str = "sockets-";

/// The root of the control groups, with its links pinned in a directory.
pub struct Cgroup {
    links: Links,
}

impl Cgroup {
    pub fn new(dir: &Path) -> Self {
        Self {
            links: Links::new(dir),
        }
    }
}

impl Mechanism for Cgroup {
    type Place = &'static str;

    fn attach(
        &self,
        program: &mut Program,
        place: &'static str,
    ) -> std::result::Result<(), Refusal> {
        let program: &mut CgroupSockAddr = program.try_into()?;
        // The mode stands for no flags: a link always leaves room for others, and the kernel
        // refuses the flag that says so (`cgroup_bpf_link_attach`).
        let id = program.attach(root_group()?, CgroupAttachMode::Single)?;
        let link = FdLink::try_from(program.take_link(id)?)?;
        // Both are attached for a moment: what the first has redirected is no published port,
        // so the second leaves it alone.
        let path = self.links.path(format_args!("{PREFIX}{place}"));
        let new = self.links.path(format_args!("{PREFIX}{place}-new"));
        pins::remove(&new)?;
        link.pin(&new)?;
        std::fs::rename(&new, &path).map_err(io("rename", &new))?;
        Ok(())
    }

    fn detach(&self, place: &'static str) -> Result<()> {
        pins::detach(&self.links.path(format_args!("{PREFIX}{place}")))
    }

    fn attached(&self) -> Result<BTreeSet<&'static str>> {
        self.links.places(|name| {
            let program = name.strip_prefix(PREFIX)?;
            PROGRAMS.into_iter().find(|known| *known == program)
        })
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
