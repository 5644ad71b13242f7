//! What is attached to devices and to the host's sockets, by whichever mechanism.

use std::collections::BTreeSet;

use super::attach::{
    AttachedProgram, Attachment, Device, Hook, Mechanism as _, Point, SOCKET_PROGRAMS,
};
use super::error::{DatapathError, Result};
use super::handle::Datapath;
use super::programs;

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
        for program in SOCKET_PROGRAMS {
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
        for program in SOCKET_PROGRAMS {
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
        Ok(attached.len() == SOCKET_PROGRAMS.len())
    }

    /// Is any of them attached?
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn has_some_sockets(&self) -> Result<bool> {
        Ok(!self.mechanisms.cgroup.attached()?.is_empty())
    }
}
