//! Attaching programs: to devices, and to the host's sockets.
//!
//! There are several ways to do it, and each is a `Mechanism` in a file of its own. All of them
//! leave the programs in place when the agent ends, find those that an earlier agent left, and put
//! one program into the place of another without a packet passing in between.

mod cgroup;
mod clsact;
mod filter;
mod hook;
mod link;
mod mechanism;
mod pins;
mod refusal;
mod tcx;
mod xdp;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use super::error::{DatapathError, Result};
use mechanism::DeviceMechanism;

pub(super) use cgroup::PROGRAMS as SOCKET_PROGRAMS;
pub use hook::{Attachment, Hook, Point};
pub(super) use mechanism::Mechanism;
pub use mechanism::{AttachedProgram, Device};

/// The mechanisms.
pub(super) struct Mechanisms {
    /// The one for traffic control.
    tc: Box<dyn DeviceMechanism>,
    /// The one for traffic control that another agent may have used here.
    pub other_tc: Box<dyn DeviceMechanism>,
    xdp: xdp::Xdp,
    /// The one for the host's sockets.
    pub cgroup: cgroup::Cgroup,
}

impl Mechanisms {
    /// Those whose pins lie below `layout`; programs of traffic control are attached by `tc`. What
    /// a killed agent left half done is finished.
    pub fn open(layout: &Path, tc: TcMechanism) -> Result<Self> {
        let links = layout.join("links");
        let clsact = clsact::Clsact::new(layout);
        clsact.adopt()?;
        let (tcx, clsact) = (Box::new(tcx::Tcx::new(&links)), Box::new(clsact));
        let (tc, other_tc): (Box<dyn DeviceMechanism>, Box<dyn DeviceMechanism>) = match tc {
            TcMechanism::Tcx => (tcx, clsact),
            TcMechanism::Clsact => (clsact, tcx),
        };
        Ok(Self {
            tc,
            other_tc,
            xdp: xdp::Xdp::new(&links),
            cgroup: cgroup::Cgroup::new(&links),
        })
    }

    /// The one for programs that stand there.
    pub fn at(&self, point: Point) -> &dyn DeviceMechanism {
        match point {
            Point::Ingress | Point::Egress => &*self.tc,
            Point::Xdp => &self.xdp,
        }
    }

    /// Those for programs of devices.
    pub fn of_devices(&self) -> [&dyn DeviceMechanism; 3] {
        [&*self.tc, &*self.other_tc, &self.xdp]
    }
}

/// How programs of traffic control are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMechanism {
    /// By links of their own (Linux 6.6).
    Tcx,
    /// As filters.
    Clsact,
}

impl Display for TcMechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The devices among these at whose ingress filters of traffic control hang that are not netd's.
///
/// # Errors
/// The kernel does not list them.
pub fn with_foreign_filters(among: impl Fn(u32) -> bool) -> Result<BTreeSet<u32>> {
    let failed = DatapathError::Filters;
    let mut found = BTreeSet::new();
    for ifindex in filter::devices_with_qdisc().map_err(failed)? {
        if !among(ifindex) {
            continue;
        }
        let filters = filter::all(ifindex, Point::Ingress).map_err(failed)?;
        let foreign = |filter: &filter::Filter| !filter.name.starts_with(clsact::PREFIX);
        if filters.iter().any(foreign) {
            found.insert(ifindex);
        }
    }
    Ok(found)
}

/// Detach those programs of a layout that stay where they are when their pins are removed.
///
/// # Errors
/// All that could not be detached; the rest is.
pub(super) fn release(layout: &Path) -> Vec<DatapathError> {
    clsact::release(layout)
}
