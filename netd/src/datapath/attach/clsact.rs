//! `clsact`: programs as filters of traffic control, for kernels without TCX.
//!
//! A filter holds its program by itself, so it needs no pin to stay. What is pinned is the program,
//! beside the links of the other mechanisms: by its number netd knows the filter as its own, in
//! whatever version, and a filter that somebody else put there is left alone.
//!
//! ```text
//! BPFFS/vN/filters/IFINDEX-HOOK   the program of netd's filter there
//! BPFFS/qdiscs/IFINDEX            a directory: netd gave that device its qdisc
//! ```

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramInfo, SchedClassifier};

use super::filter::{self, Filter, Qdisc};
use super::hook::{Attachment, Point};
use super::mechanism::{AttachedProgram, Device, DeviceMechanism, Mechanism};
use super::pins::{self, Links};
use super::refusal::Refusal;
use crate::datapath::error::{DatapathError, Result, io};

/// What the names of netd's filters begin with; the program's follows.
pub(super) const PREFIX: &str = "netd:";

/// What follows the name of a pin whose program is about to take its place.
const NEW: &str = "-new";

/// Filters, with their programs pinned in a directory.
pub(super) struct Clsact {
    dir: PathBuf,
    pins: Links,
    /// Marks of the qdiscs that are netd's, whatever its version.
    qdiscs: PathBuf,
}

impl Clsact {
    /// The filters of one layout, whose pins lie below `layout`.
    pub fn new(layout: &Path) -> Self {
        let dir = layout.join("filters");
        Self {
            pins: Links::new(&dir),
            dir,
            qdiscs: layout.with_file_name("qdiscs"),
        }
    }

    /// Make sure that filters can be put at a device.
    fn ensure_qdisc(&self, ifindex: u32, point: Point) -> std::result::Result<(), Refusal> {
        match filter::qdisc(ifindex)? {
            Some(Qdisc::Clsact) => return Ok(()),
            Some(Qdisc::Ingress) if point == Point::Ingress => return Ok(()),
            Some(Qdisc::Ingress) => {
                return Err(Refusal::saying(
                    "the device has a qdisc of the kind \"ingress\", which knows nothing of what \
                     goes out; replace it by one of the kind \"clsact\", which has room for the \
                     same filters",
                ));
            }
            None => {}
        }
        // First the mark: nobody else would remove the qdisc.
        let mark = self.mark(ifindex);
        std::fs::create_dir_all(&mark).map_err(io("create", &mark))?;
        let added = filter::add_qdisc(ifindex);
        if added.is_err() {
            std::fs::remove_dir(&mark).map_err(io("remove", &mark))?;
        }
        Ok(added?)
    }

    /// Remove a qdisc that netd made, unless somebody else's filters hang from it.
    fn release_qdisc(&self, ifindex: u32) -> Result<()> {
        let mark = self.mark(ifindex);
        if !mark.exists() {
            return Ok(());
        }
        let failed = |error| self.failed("remove the qdisc of device", ifindex, error);
        let mut filters = 0;
        for point in [Point::Ingress, Point::Egress] {
            match filter::all(ifindex, point) {
                Ok(all) => filters += all.len(),
                Err(error) if is_no_device(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if filters > 0 {
            return Ok(());
        }
        match filter::delete_qdisc(ifindex) {
            Err(error) if !is_gone(&error) => return Err(failed(error)),
            _ => {}
        }
        std::fs::remove_dir(&mark).map_err(io("remove", &mark))
    }

    fn mark(&self, ifindex: u32) -> PathBuf {
        self.qdiscs.join(ifindex.to_string())
    }

    /// Is this the filter whose program is pinned for that place?
    fn is_pinned(&self, place: Attachment, filter: &Filter) -> bool {
        filter.program.is_some() && filter.program == pinned(&self.pins.path(place))
    }

    fn failed(&self, operation: &'static str, ifindex: u32, source: io::Error) -> DatapathError {
        DatapathError::Io {
            operation,
            path: PathBuf::from(ifindex.to_string()),
            source,
        }
    }

    /// Finish, or take back, what an agent that was killed left half done.
    pub fn adopt(&self) -> Result<()> {
        for name in pins::names(&self.dir)? {
            let path = self.dir.join(&name);
            let Some(place) = Attachment::parse(name.strip_suffix(NEW).unwrap_or(&name)) else {
                continue;
            };
            let filter = match filter::own(place.ifindex, place.hook.point()) {
                Ok(filter) => filter,
                Err(error) if is_no_device(&error) => None,
                Err(error) => {
                    return Err(self.failed("look at filters of device", place.ifindex, error));
                }
            };
            let is_its = filter.is_some_and(|filter| filter.program == pinned(&path));
            if !is_its {
                pins::remove(&path)?;
                self.release_qdisc(place.ifindex)?;
            } else if name.ends_with(NEW) {
                std::fs::rename(&path, self.pins.path(place)).map_err(io("rename", &path))?;
            }
        }
        Ok(())
    }
}

impl Mechanism for Clsact {
    type Place = Attachment;

    fn attach(&self, program: &mut Program, place: Attachment) -> std::result::Result<(), Refusal> {
        let (ifindex, point) = (place.ifindex, place.hook.point());
        self.ensure_qdisc(ifindex, point)?;
        let present = filter::own(ifindex, point)?;
        if let Some(filter) = &present
            && !filter.name.starts_with(PREFIX)
        {
            return Err(Refusal::saying(
                "somebody else's filter has the priority and the handle of netd's",
            ));
        }
        let new = self.pins.path(format_args!("{place}{NEW}"));
        std::fs::create_dir_all(&self.dir).map_err(io("create", &self.dir))?;
        pins::remove(&new)?;
        program.pin(&new)?;
        let tc: &mut SchedClassifier = program.try_into()?;
        let name = format!("{PREFIX}{}", place.hook.program());
        let set = filter::set_own(ifindex, point, &name, tc.fd()?.as_fd(), present.is_none());
        if let Err(error) = set {
            pins::remove(&new)?;
            return Err(error.into());
        }
        std::fs::rename(&new, self.pins.path(place)).map_err(io("rename", &new))?;
        Ok(())
    }

    fn detach(&self, place: Attachment) -> Result<()> {
        let (ifindex, point) = (place.ifindex, place.hook.point());
        let path = self.pins.path(place);
        if !path.exists() {
            return Ok(());
        }
        let failed = |error| self.failed("remove a filter of device", ifindex, error);
        match filter::own(ifindex, point) {
            Ok(Some(filter)) if self.is_pinned(place, &filter) => {
                match filter::delete_own(ifindex, point) {
                    Err(error) if !is_gone(&error) => return Err(failed(error)),
                    _ => {}
                }
            }
            // Another version's has its place, or somebody removed it.
            Ok(_) => {}
            Err(error) if is_no_device(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        self.release_qdisc(ifindex)?;
        pins::remove(&path)
    }

    /// A filter that somebody removed is not listed.
    fn attached(&self) -> Result<BTreeSet<Attachment>> {
        let mut attached = self.pins.places(Attachment::parse)?;
        let mut failed = None;
        attached.retain(
            |&place| match filter::own(place.ifindex, place.hook.point()) {
                Ok(filter) => filter.is_some_and(|filter| self.is_pinned(place, &filter)),
                Err(error) if is_no_device(&error) => true,
                Err(error) => {
                    failed = Some(self.failed("look at filters of device", place.ifindex, error));
                    true
                }
            },
        );
        failed.map_or(Ok(attached), Err)
    }
}

impl DeviceMechanism for Clsact {
    fn label(&self, point: Point) -> &'static str {
        match point {
            Point::Egress => "clsact egress",
            Point::Ingress | Point::Xdp => "clsact ingress",
        }
    }

    fn programs(
        &self,
        device: Device<'_>,
        point: Point,
    ) -> std::result::Result<Vec<AttachedProgram>, Refusal> {
        let mut programs = Vec::new();
        for filter in filter::all(device.ifindex, point)? {
            let Some(id) = filter.program else {
                continue;
            };
            let own = filter.name.strip_prefix(PREFIX);
            let is_pinned = |name| {
                Attachment::of(device.ifindex, name).is_some_and(|at| self.is_pinned(at, &filter))
            };
            programs.push(AttachedProgram {
                id,
                ours: own.is_some_and(is_pinned),
                name: own.unwrap_or(&filter.name).to_owned(),
            });
        }
        Ok(programs)
    }
}

/// Detach all filters of a layout.
///
/// # Errors
/// All that could not be detached; the rest is.
pub(super) fn release(layout: &Path) -> Vec<DatapathError> {
    let clsact = Clsact::new(layout);
    let mut errors = Vec::new();
    errors.extend(clsact.adopt().err());
    match clsact.pins.places(Attachment::parse) {
        Ok(places) => {
            let detached = places.into_iter().map(|place| clsact.detach(place));
            errors.extend(detached.filter_map(Result::err));
        }
        Err(error) => errors.push(error),
    }
    errors
}

/// Number of the program that is pinned there.
fn pinned(path: &Path) -> Option<u32> {
    Some(ProgramInfo::from_pin(path).ok()?.id())
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

/// Has what is to be removed gone, with its device or without?
fn is_gone(error: &io::Error) -> bool {
    is_no_device(error) || matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))
}
