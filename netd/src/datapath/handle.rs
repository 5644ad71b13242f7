//! What an agent holds of the datapath, and how it comes to it.

use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::{Ebpf, EbpfLoader};

use super::TcMechanism;
use super::attach::Mechanisms;
use super::bpffs::{mount, pin_dir};
use super::build::Build;
use super::error::{DatapathError, Result, chain, io};
use super::events::Events;
use super::held::{self, Holder};
use super::kernel::Kernel;
use super::limits::Limits;
use super::maps::Maps;
use super::programs::{Loaded, OBJECT};
use super::sync::{error, take};
use super::{log, names, netns, slow_paths};

/// The loaded programs and open maps of one agent.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) loaded: Loaded,
    pub(super) mechanisms: Mechanisms,
    /// What the running kernel has.
    pub kernel: Kernel,
    pub(super) build: Build,
    pub(super) dir: PathBuf,
    /// Flows of each family that the maps have room for.
    pub(super) slots: u32,
    /// The maps, typed.
    pub maps: Maps,
    /// What the programs tell of drops.
    pub events: Events,
    /// Who takes fragments that wait.
    holder: Holder,
}

impl Datapath {
    /// Load the programs, with the maps pinned under `bpffs` or new ones pinned there. Programs of
    /// traffic control are attached by `tc`, or by what the kernel has.
    ///
    /// # Errors
    /// The file system cannot be mounted, the kernel lacks something, or maps of another layout
    /// stand in the way.
    pub fn open(bpffs: &Path, limits: &Limits, tc: Option<TcMechanism>) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let kernel = Kernel::probe(tc, &mut loader)?;
        mount(bpffs)?;
        let dir = pin_dir(bpffs);
        for sub in ["maps", "links"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(io("create", &path))?;
        }
        // 0 is "off": the programs then carry no logging at all.
        let level: u8 = if log::wanted() { 4 } else { 0 };
        loader.override_global("AYA_LOG_LEVEL", &level, false);
        for map in names::ALL {
            loader.map_pin_path(map, dir.join("maps").join(map));
        }
        let build = Build::new(&dir);
        let is_current = build.is_in_place();
        if !is_current {
            build.forget_marks()?;
        }
        let own = build.maps();
        std::fs::create_dir_all(&own).map_err(io("create", &own))?;
        for map in slow_paths::MAPS {
            loader.map_pin_path(map, own.join(map));
        }
        // An agent that died while it made the maps left some of the size it wanted: all are to
        // be of one size.
        let slots = pinned_slots(&dir)?.unwrap_or(limits.flows);
        if slots != limits.flows {
            tracing::warn!(
                room = slots,
                wanted = limits.flows,
                "the flow tables keep the size they were made with; a new size takes effect \
                 after `netd teardown`"
            );
        }
        for (map, per_flow) in [
            (names::SLOTS4, 1),
            (names::SLOTS6, 1),
            (names::FLOWS4, 2),
            (names::FLOWS6, 2),
        ] {
            loader.map_max_entries(map, slots.saturating_mul(per_flow));
        }
        let release = loader
            .load(held::OBJECT)
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        kernel.tell(&mut loader);
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        let mut maps = Maps::take(&mut ebpf)?;
        let netns = netns::cookie().map_err(|error| {
            DatapathError::Load(format!("cannot tell the network namespace: {error}"))
        })?;
        maps.limit(limits, slots, netns)?;
        let events = Events::take(&mut ebpf)?;
        let holder = Holder::start(take(&mut ebpf, names::HELD)?, release)?;
        maps.hold(true)?;
        let mut datapath = Self {
            ebpf,
            loaded: Loaded::new(),
            mechanisms: Mechanisms::open(&dir, kernel.tc)?,
            kernel,
            build,
            dir,
            slots,
            maps,
            events,
            holder,
        };
        if !is_current {
            datapath.load_all()?;
        }
        datapath.start_sweeping()?;
        Ok(datapath)
    }

    /// The loaded object, for its log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The agent ends: nobody tells of changes from now on, and nobody holds fragments.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn leave_alone(&mut self) -> Result<()> {
        let told = self.maps.hold(false);
        self.holder.stop();
        self.maps.leave_alone().and(told)
    }

    /// Where the maps and links are pinned.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Size of the pinned arrays of slots; `None` before they are made.
fn pinned_slots(dir: &Path) -> Result<Option<u32>> {
    for map in [names::SLOTS4, names::SLOTS6] {
        let path = dir.join("maps").join(map);
        if path.exists() {
            let info = MapInfo::from_pin(path).map_err(error("open", map))?;
            return Ok(Some(info.max_entries()));
        }
    }
    Ok(None)
}
