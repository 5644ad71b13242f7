//! TCX: links to traffic control's hooks of a device (Linux 6.6).

use std::collections::BTreeSet;
use std::path::Path;

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, Program, SchedClassifier, TcAttachType};

use super::hook::{Attachment, Point};
use super::mechanism::{AttachedProgram, Device, DeviceMechanism, Mechanism, device_name};
use super::pins::{self, Links};
use super::refusal::Refusal;
use crate::datapath::error::Result;

/// TCX, with its links pinned in a directory.
pub(super) struct Tcx {
    links: Links,
}

impl Tcx {
    pub fn new(dir: &Path) -> Self {
        Self {
            links: Links::new(dir),
        }
    }
}

impl Mechanism for Tcx {
    type Place = Attachment;

    fn attach(&self, program: &mut Program, place: Attachment) -> std::result::Result<(), Refusal> {
        pins::attach(
            &self.links.path(place),
            program,
            |program, pinned| {
                let tc: &mut SchedClassifier = program.try_into()?;
                let id = tc.attach_to_link(SchedClassifierLink::try_from(pinned)?)?;
                Ok(tc.take_link(id)?.try_into()?)
            },
            |program| {
                let tc: &mut SchedClassifier = program.try_into()?;
                let options = TcAttachOptions::TcxOrder(LinkOrder::first());
                let device = device_name(place.ifindex)?;
                let id = tc.attach_with_options(&device, side(place.hook.point()), options)?;
                Ok(tc.take_link(id)?.try_into()?)
            },
        )
    }

    fn detach(&self, place: Attachment) -> Result<()> {
        pins::detach(&self.links.path(place))
    }

    fn attached(&self) -> Result<BTreeSet<Attachment>> {
        let of_tc = |place: &Attachment| place.hook.point() != Point::Xdp;
        self.links
            .places(|name| Attachment::parse(name).filter(of_tc))
    }
}

impl DeviceMechanism for Tcx {
    fn label(&self, point: Point) -> &'static str {
        match point {
            Point::Egress => "tcx egress",
            Point::Ingress | Point::Xdp => "tcx ingress",
        }
    }

    fn programs(
        &self,
        device: Device<'_>,
        point: Point,
    ) -> std::result::Result<Vec<AttachedProgram>, Refusal> {
        let (_, programs) = SchedClassifier::query_tcx(device.name, side(point))?;
        let programs = programs.iter().map(|info| {
            let name = info.name_as_str().unwrap_or("?");
            AttachedProgram {
                id: info.id(),
                ours: self.links.has(device.ifindex, name),
                name: name.to_owned(),
            }
        });
        Ok(programs.collect())
    }
}

/// Traffic control's word for it; there is no program in the driver here.
fn side(point: Point) -> TcAttachType {
    match point {
        Point::Egress => TcAttachType::Egress,
        Point::Ingress | Point::Xdp => TcAttachType::Ingress,
    }
}
