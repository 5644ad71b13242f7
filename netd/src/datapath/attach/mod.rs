//! Attaching programs: to devices, and to the host's sockets.
//!
//! There are several ways to do it, and each is a [`Mechanism`] in a file of its own. All of them
//! leave the programs in place when the agent ends, find those that an earlier agent left, and put
//! one program into the place of another without a packet passing in between.

mod cgroup;
mod clsact;
mod filter;
mod hook;
mod pins;
mod tcx;
mod xdp;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use aya::programs::Program;
use rustix::net::{AddressFamily, SocketType, socket};

use super::{Datapath, DatapathError, Result, chain, programs};

pub use hook::{Attachment, Hook, Point};

/// One way to attach programs.
trait Mechanism: Send + Sync {
    /// What a program is attached to.
    type Place: Copy + Ord + Display;

    /// Attach a loaded program, or put it into the place of the one that is there without a gap.
    fn attach(&self, program: &mut Program, place: Self::Place)
    -> std::result::Result<(), Refusal>;

    /// Detach what is there. Nothing there is no error.
    fn detach(&self, place: Self::Place) -> Result<()>;

    /// What this agent or an earlier one attached. A device that has gone is listed until its
    /// programs are detached.
    fn attached(&self) -> Result<BTreeSet<Self::Place>>;
}

/// A mechanism for programs of devices.
trait DeviceMechanism: Mechanism<Place = Attachment> {
    /// What an administrator knows that place by.
    fn label(&self, point: Point) -> &'static str;

    /// All programs at that place, netd's and others', in the order they run.
    fn programs(
        &self,
        device: Device<'_>,
        point: Point,
    ) -> std::result::Result<Vec<AttachedProgram>, Refusal>;
}

/// The mechanisms.
pub(super) struct Mechanisms {
    /// The one for traffic control.
    tc: Box<dyn DeviceMechanism>,
    /// The one for traffic control that another agent may have used here.
    other_tc: Box<dyn DeviceMechanism>,
    xdp: xdp::Xdp,
    cgroup: cgroup::Cgroup,
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

    fn at(&self, point: Point) -> &dyn DeviceMechanism {
        match point {
            Point::Ingress | Point::Egress => &*self.tc,
            Point::Xdp => &self.xdp,
        }
    }

    fn of_devices(&self) -> [&dyn DeviceMechanism; 3] {
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

/// Detach those programs of a layout that stay where they are when their pins are removed.
///
/// # Errors
/// All that could not be detached; the rest is.
pub(super) fn release(layout: &Path) -> Vec<DatapathError> {
    clsact::release(layout)
}

/// A device as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Its number.
    pub ifindex: u32,
    /// Its present name.
    pub name: &'a str,
    /// The kernel's number of the program in its driver.
    pub xdp: Option<u32>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Did an agent attach it?
    pub ours: bool,
}

/// The programs at one place of a device, in the order they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// What an administrator knows the place by: "tcx ingress", "xdp".
    pub place: &'static str,
    /// The programs.
    pub programs: Vec<AttachedProgram>,
}

impl Datapath {
    /// What is attached to devices. A link whose device has gone is listed until it is detached.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn attached(&self) -> Result<BTreeSet<Attachment>> {
        let mut all = BTreeSet::new();
        for mechanism in self.mechanisms.of_devices() {
            all.extend(mechanism.attached()?);
        }
        Ok(all)
    }

    /// Attach a program, or put this agent's program into the place of an earlier one's without a
    /// gap. `device` is the present name of the device.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn attach(&mut self, attachment: Attachment, device: &str) -> Result<()> {
        let hook = attachment.hook;
        let program = programs::loaded(&mut self.ebpf, &mut self.loaded, hook.program())?;
        let mechanism = self.mechanisms.at(hook.point());
        mechanism
            .attach(program, attachment)
            .map_err(|refusal| DatapathError::Attach {
                program: hook.program(),
                device: device.to_owned(),
                hook: mechanism.label(hook.point()),
                message: refusal.message,
            })?;
        match hook.point() {
            Point::Ingress | Point::Egress => self.mechanisms.other_tc.detach(attachment),
            Point::Xdp => Ok(()),
        }
    }

    /// Detach a program; one whose device has gone is forgotten.
    ///
    /// # Errors
    /// It cannot be detached.
    pub fn detach(&mut self, attachment: Attachment) -> Result<()> {
        for mechanism in self.mechanisms.of_devices() {
            mechanism.detach(attachment)?;
        }
        Ok(())
    }

    /// Does the attached program see the packets of the device that has this number now? What is
    /// pinned may be an earlier device's.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn is_in_place(&self, hook: Hook, device: Device<'_>) -> Result<bool> {
        let programs = self.programs_at(device, hook.point())?.programs;
        Ok(programs
            .iter()
            .any(|program| program.ours && program.name == hook.program()))
    }

    /// The programs at a device, in the order they run; places without any are left out.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn programs_of(&self, device: Device<'_>) -> Result<Vec<Programs>> {
        let mut places = Vec::new();
        for point in [Point::Xdp, Point::Ingress, Point::Egress] {
            places.push(self.programs_at(device, point)?);
        }
        places.retain(|place| !place.programs.is_empty());
        Ok(places)
    }

    fn programs_at(&self, device: Device<'_>, point: Point) -> Result<Programs> {
        let mechanism = self.mechanisms.at(point);
        let place = mechanism.label(point);
        match mechanism.programs(device, point) {
            Ok(programs) => Ok(Programs { place, programs }),
            Err(refusal) => Err(DatapathError::Attach {
                program: "query",
                device: device.name.to_owned(),
                hook: place,
                message: refusal.message,
            }),
        }
    }

    /// Attach the programs of the host's own sockets, or put this agent's into the place of an
    /// earlier one's without a gap.
    ///
    /// # Errors
    /// The kernel refuses one; those before it stay attached.
    pub fn attach_sockets(&mut self) -> Result<()> {
        for program in cgroup::PROGRAMS {
            let loaded = programs::loaded(&mut self.ebpf, &mut self.loaded, program)?;
            let attached = self.mechanisms.cgroup.attach(loaded, program);
            attached.map_err(|refusal| DatapathError::Sockets {
                program,
                message: refusal.message,
            })?;
        }
        Ok(())
    }

    /// Detach them.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn detach_sockets(&mut self) -> Result<()> {
        for program in cgroup::PROGRAMS {
            self.mechanisms.cgroup.detach(program)?;
        }
        Ok(())
    }

    /// Are all of them attached, by this agent or an earlier one?
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn has_sockets(&self) -> Result<bool> {
        let attached = self.mechanisms.cgroup.attached()?;
        Ok(attached.len() == cgroup::PROGRAMS.len())
    }

    /// Is any of them attached?
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn has_some_sockets(&self) -> Result<bool> {
        Ok(!self.mechanisms.cgroup.attached()?.is_empty())
    }
}

/// The attachment that a program's name stands for at a device.
fn place(ifindex: u32, program: &str) -> Option<Attachment> {
    let hook = Hook::from_program(program)?;
    Some(Attachment { ifindex, hook })
}

/// The present name of a device.
fn device_name(ifindex: u32) -> std::io::Result<String> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(socket, ifindex)?)
}

/// Why the kernel does not take a program.
struct Refusal {
    /// The device has gone that the link belonged to.
    dead: bool,
    message: String,
}

impl Refusal {
    fn saying(message: &str) -> Self {
        Self {
            dead: false,
            message: message.to_owned(),
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self {
            dead: pins::is_dead(&error),
            message: chain(&error),
        }
    }
}
