//! Attaching programs to devices: TCX links, pinned.

use std::collections::BTreeSet;
use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};

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
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::PortIngress,
        Self::BridgeIngress,
        Self::BridgeEgress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::TunnelIngress,
        Self::TunnelEgress,
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
        }
    }

    fn side(self) -> TcAttachType {
        match self {
            Self::PortIngress | Self::BridgeIngress | Self::UplinkIngress | Self::TunnelIngress => {
                TcAttachType::Ingress
            }
            Self::BridgeEgress | Self::UplinkEgress | Self::TunnelEgress => TcAttachType::Egress,
        }
    }

    fn from_program(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == name)
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
            hook: side_name(hook.side()),
            message,
        };
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(hook.program())
            .ok_or_else(|| failed("not in the object".to_owned()))?
            .try_into()
            .map_err(|error| failed(chain(&error)))?;
        if path.exists() {
            let replaced = PinnedLink::from_pin(&path)
                .map_err(|error| (is_dead(&error), chain(&error)))
                .and_then(|pinned| {
                    SchedClassifierLink::try_from(FdLink::from(pinned))
                        .map_err(|error| (is_dead(&error), chain(&error)))
                })
                .and_then(|link| {
                    program
                        .attach_to_link(link)
                        .map_err(|error| (is_dead(&error), chain(&error)))
                });
            match replaced {
                // Dropping the handle of a pinned link leaves it attached.
                Ok(id) => {
                    return program
                        .take_link(id)
                        .map(drop)
                        .map_err(|e| failed(chain(&e)));
                }
                Err((true, message)) => {
                    tracing::debug!(%attachment, message, "pinned link is dead, attaching anew");
                    std::fs::remove_file(&path).map_err(io("remove", &path))?;
                }
                // The earlier program stays in place.
                Err((false, message)) => return Err(failed(message)),
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(device, hook.side(), options)
            .map_err(|error| failed(chain(&error)))?;
        let link = program
            .take_link(id)
            .map_err(|error| failed(chain(&error)))?;
        let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
        link.pin(&path)
            .map(drop)
            .map_err(|error| failed(chain(&error)))
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

    /// The programs at both TCX hooks of a device, in the order they run; hooks without any are
    /// left out.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn hooks_of(&self, ifindex: u32, device: &str) -> Result<Vec<HookStatus>> {
        let own: BTreeSet<u32> = self
            .ebpf
            .programs()
            .filter_map(|(_, program)| program.info().ok().map(|info| info.id()))
            .collect();
        let mut hooks = Vec::new();
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(device, side).map_err(|error| {
                DatapathError::Attach {
                    program: "query",
                    device: device.to_owned(),
                    hook: side_name(side),
                    message: chain(&error),
                }
            })?;
            let programs: Vec<_> = programs
                .iter()
                .map(|info| ProgramStatus {
                    id: info.id(),
                    name: info.name_as_str().unwrap_or("?").to_owned(),
                    ours: own.contains(&info.id()),
                })
                .collect();
            if !programs.is_empty() {
                hooks.push(HookStatus {
                    device: device.to_owned(),
                    ifindex,
                    hook: side_name(side).to_owned(),
                    programs,
                });
            }
        }
        Ok(hooks)
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

fn side_name(side: TcAttachType) -> &'static str {
    match side {
        TcAttachType::Egress => "tcx egress",
        _ => "tcx ingress",
    }
}
