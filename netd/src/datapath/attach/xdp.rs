//! XDP: links to the drivers of devices.

use std::collections::BTreeSet;
use std::path::Path;

use aya::programs::xdp::XdpLink;
use aya::programs::{Program, Xdp as XdpProgram, XdpMode, loaded_programs};

use super::hook::{Attachment, Point};
use super::mechanism::{AttachedProgram, Device, DeviceMechanism, Mechanism, device_name};
use super::pins::{self, Links};
use super::refusal::Refusal;
use crate::datapath::error::Result;

/// Programs in drivers, with their links pinned in a directory.
pub(super) struct Xdp {
    links: Links,
}

impl Xdp {
    pub fn new(dir: &Path) -> Self {
        Self {
            links: Links::new(dir),
        }
    }
}

impl Mechanism for Xdp {
    type Place = Attachment;

    fn attach(&self, program: &mut Program, place: Attachment) -> std::result::Result<(), Refusal> {
        pins::attach(
            &self.links.path(place),
            program,
            |program, pinned| {
                let xdp: &mut XdpProgram = program.try_into()?;
                let id = xdp.attach_to_link(XdpLink::try_from(pinned)?)?;
                Ok(xdp.take_link(id)?.try_into()?)
            },
            |program| {
                let xdp: &mut XdpProgram = program.try_into()?;
                let device = device_name(place.ifindex)?;
                let id = xdp.attach(&device, XdpMode::Driver)?;
                Ok(xdp.take_link(id)?.try_into()?)
            },
        )
    }

    fn detach(&self, place: Attachment) -> Result<()> {
        pins::detach(&self.links.path(place))
    }

    fn attached(&self) -> Result<BTreeSet<Attachment>> {
        let of_xdp = |place: &Attachment| place.hook.point() == Point::Xdp;
        self.links
            .places(|name| Attachment::parse(name).filter(of_xdp))
    }
}

impl DeviceMechanism for Xdp {
    fn label(&self, _: Point) -> &'static str {
        "xdp"
    }

    fn programs(
        &self,
        device: Device<'_>,
        _: Point,
    ) -> std::result::Result<Vec<AttachedProgram>, Refusal> {
        let Some(id) = device.xdp else {
            return Ok(Vec::new());
        };
        // It may have gone since.
        let info = loaded_programs().flatten().find(|info| info.id() == id);
        let name = info.and_then(|info| info.name_as_str().map(str::to_owned));
        let name = name.unwrap_or_else(|| "?".to_owned());
        Ok(vec![AttachedProgram {
            id,
            ours: self.links.has(device.ifindex, &name),
            name,
        }])
    }
}
