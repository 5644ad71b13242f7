//! Attaching programs to devices: TCX and XDP links, pinned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    LinkOrder, Program, SchedClassifier, TcAttachType, Xdp, XdpMode, loaded_programs,
};

use super::{Datapath, DatapathError, Result, chain, io};
use crate::rpc::driver::{HookStatus, ProgramStatus};

/// One program at one side of one kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// A port of a managed bridge, ingress.
    PortIngress,
    /// A managed bridge, ingress.
    BridgeIngress,
    /// A managed bridge, egress.
    BridgeEgress,
    /// Any other device with Ethernet frames, ingress.
    UplinkIngress,
    /// Any other device with Ethernet frames, egress.
    UplinkEgress,
    /// A device without link-layer header, ingress.
    TunnelIngress,
    /// A device without link-layer header, egress.
    TunnelEgress,
    /// A port of a managed bridge, in its driver.
    PortXdp,
    /// Any other device with Ethernet frames, in its driver.
    UplinkXdp,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::PortIngress,
        Self::BridgeIngress,
        Self::BridgeEgress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::TunnelIngress,
        Self::TunnelEgress,
        Self::PortXdp,
        Self::UplinkXdp,
    ];

    /// Name of the program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::PortIngress => "port_ingress",
            Self::BridgeIngress => "bridge_ingress",
            Self::BridgeEgress => "bridge_egress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::TunnelIngress => "tunnel_ingress",
            Self::TunnelEgress => "tunnel_egress",
            Self::PortXdp => "port_xdp",
            Self::UplinkXdp => "uplink_xdp",
        }
    }

    /// Does it do nothing that another hook would not do?
    #[must_use]
    pub fn is_optional(self) -> bool {
        self.point() == Point::Xdp
    }

    fn point(self) -> Point {
        match self {
            Self::PortIngress | Self::BridgeIngress | Self::UplinkIngress | Self::TunnelIngress => {
                Point::Tc(TcAttachType::Ingress)
            }
            Self::BridgeEgress | Self::UplinkEgress | Self::TunnelEgress => {
                Point::Tc(TcAttachType::Egress)
            }
            Self::PortXdp | Self::UplinkXdp => Point::Xdp,
        }
    }

    fn from_program(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == name)
    }
}

/// Where in the kernel a program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// TC, at one side.
    Tc(TcAttachType),
    /// In the driver.
    Xdp,
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::Tc(TcAttachType::Egress) => "tcx egress",
            Self::Tc(_) => "tcx ingress",
            Self::Xdp => "xdp",
        }
    }
}

/// A hook of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The device.
    pub ifindex: u32,
    /// The hook.
    pub hook: Hook,
}

impl std::fmt::Display for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ifindex, self.hook.program())
    }
}

impl Datapath {
    fn link_path(&self, attachment: Attachment) -> PathBuf {
        self.dir.join("links").join(attachment.to_string())
    }

    /// What is pinned as attached. A link whose device has gone is listed until it is detached.
    ///
    /// # Errors
    /// The directory of links cannot be read.
    pub fn attached(&self) -> Result<BTreeSet<Attachment>> {
        let dir = self.dir.join("links");
        let mut all = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).map_err(io("list", &dir))? {
            let entry = entry.map_err(io("list", &dir))?;
            let name = entry.file_name();
            let parsed = name.to_str().and_then(|name| {
                let (ifindex, program) = name.split_once('-')?;
                Some(Attachment {
                    ifindex: ifindex.parse().ok()?,
                    hook: Hook::from_program(program)?,
                })
            });
            if let Some(attachment) = parsed {
                all.insert(attachment);
            }
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
        let path = self.link_path(attachment);
        let failed = |message: String| DatapathError::Attach {
            program: hook.program(),
            device: device.to_owned(),
            hook: hook.point().name(),
            message,
        };
        let program = self.program(hook.program())?;
        if path.exists() {
            match replace(program, &path) {
                // Dropping the handle of a pinned link leaves it attached.
                Ok(link) => {
                    drop(link);
                    return Ok(());
                }
                Err(Refusal {
                    dead: true,
                    message,
                }) => {
                    tracing::debug!(%attachment, message, "pinned link is dead, attaching anew");
                    std::fs::remove_file(&path).map_err(io("remove", &path))?;
                }
                // The earlier program stays in place.
                Err(refusal) => return Err(failed(refusal.message)),
            }
        }
        let link = attach_anew(program, hook.point(), device).map_err(|e| failed(e.message))?;
        link.pin(&path)
            .map(drop)
            .map_err(|error| failed(chain(&error)))
    }

    /// Does the program whose link is pinned see the packets of `device`, which has this number now?
    /// The link may be an earlier device's.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn is_in_place(
        &self,
        Attachment { ifindex, hook }: Attachment,
        device: &str,
        xdp: Option<u32>,
    ) -> Result<bool> {
        let at = hook.point().name();
        let hooks = self.hooks_of(ifindex, device, xdp)?;
        let mut programs = hooks
            .iter()
            .filter(|status| status.hook == at)
            .flat_map(|status| &status.programs);
        Ok(programs.any(|program| program.ours && program.name == hook.program()))
    }

    /// Detach a program; one whose device has gone is forgotten.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn detach(&mut self, attachment: Attachment) -> Result<()> {
        let path = self.link_path(attachment);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("remove", &path)(error)),
        }
    }

    /// The programs at a device, in the order they run; hooks without any are left out. `xdp` is
    /// the kernel's number of the one in its driver.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn hooks_of(
        &self,
        ifindex: u32,
        device: &str,
        xdp: Option<u32>,
    ) -> Result<Vec<HookStatus>> {
        // An earlier agent's of this build stay in place, with their links.
        let is_ours = |name: &str| {
            Hook::from_program(name)
                .is_some_and(|hook| self.link_path(Attachment { ifindex, hook }).exists())
        };
        let mut hooks = Vec::new();
        if let Some(id) = xdp {
            // It may have gone since.
            let info = loaded_programs().flatten().find(|info| info.id() == id);
            let name = info.and_then(|info| info.name_as_str().map(str::to_owned));
            let name = name.unwrap_or_else(|| "?".to_owned());
            hooks.push(HookStatus {
                device: device.to_owned(),
                ifindex,
                hook: Point::Xdp.name().to_owned(),
                programs: vec![ProgramStatus {
                    id,
                    ours: is_ours(&name),
                    name,
                }],
            });
        }
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(device, side).map_err(|error| {
                DatapathError::Attach {
                    program: "query",
                    device: device.to_owned(),
                    hook: Point::Tc(side).name(),
                    message: chain(&error),
                }
            })?;
            let programs: Vec<_> = programs
                .iter()
                .map(|info| {
                    let name = info.name_as_str().unwrap_or("?");
                    ProgramStatus {
                        id: info.id(),
                        ours: is_ours(name),
                        name: name.to_owned(),
                    }
                })
                .collect();
            if !programs.is_empty() {
                hooks.push(HookStatus {
                    device: device.to_owned(),
                    ifindex,
                    hook: Point::Tc(side).name().to_owned(),
                    programs,
                });
            }
        }
        Ok(hooks)
    }
}

/// Why the kernel does not take a program.
struct Refusal {
    /// The device is gone.
    dead: bool,
    message: String,
}

impl<E: std::error::Error + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self {
            dead: is_dead(&error),
            message: chain(&error),
        }
    }
}

/// Put the program into the place of the one whose link is pinned.
fn replace(program: &mut Program, path: &Path) -> std::result::Result<FdLink, Refusal> {
    let pinned = FdLink::from(PinnedLink::from_pin(path)?);
    if let Program::Xdp(xdp) = program {
        let id = xdp.attach_to_link(XdpLink::try_from(pinned)?)?;
        return Ok(xdp.take_link(id)?.try_into()?);
    }
    let tc: &mut SchedClassifier = program.try_into()?;
    let id = tc.attach_to_link(SchedClassifierLink::try_from(pinned)?)?;
    Ok(tc.take_link(id)?.try_into()?)
}

fn attach_anew(
    program: &mut Program,
    point: Point,
    device: &str,
) -> std::result::Result<FdLink, Refusal> {
    match point {
        Point::Xdp => {
            let xdp: &mut Xdp = program.try_into()?;
            let id = xdp.attach(device, XdpMode::Driver)?;
            Ok(xdp.take_link(id)?.try_into()?)
        }
        Point::Tc(side) => {
            let tc: &mut SchedClassifier = program.try_into()?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = tc.attach_with_options(device, side, options)?;
            Ok(tc.take_link(id)?.try_into()?)
        }
    }
}

/// Has the device gone that the link belonged to (and its number is in use again)?
/// `tcx_link_update` says ENOLINK then.
fn is_dead(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::ENOLINK)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
