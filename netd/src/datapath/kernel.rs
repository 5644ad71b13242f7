//! What the running kernel has: it is asked once, when the agent starts.
//!
//! Versions tell little, since distributions take features and repairs into older kernels. So
//! features are tried, and the version is for messages alone.

use std::fmt;

use aya::EbpfLoader;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use aya::sys::{BpfHelper, is_helper_supported};

use super::TcMechanism;
use super::error::{DatapathError, Result, chain};
use super::required::release;

/// The programs that try features.
static PROBES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-probe"));

/// The device that every network namespace has.
const LOOPBACK: &str = "lo";

/// Helpers of the kernel's without which no program can be loaded, and the first version that has
/// them. Those of the same versions are not listed.
const HELPERS: [(BpfHelper, &str); 3] = [
    (
        BpfHelper::BPF_FUNC_redirect_neigh,
        "bpf_redirect_neigh (5.10)",
    ),
    (BpfHelper::BPF_FUNC_timer_init, "bpf_timer_init (5.15)"),
    (BpfHelper::BPF_FUNC_loop, "bpf_loop (5.17)"),
];

/// Something that netd uses where the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Links of programs to traffic control.
    Tcx,
    /// A flag for the checksums of packets between IPv6 addresses.
    ChecksumOfIpv6,
}

impl Feature {
    const ALL: [Self; 2] = [Self::Tcx, Self::ChecksumOfIpv6];

    /// What it costs to be without.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Tcx => {
                "programs are filters of the qdisc clsact, and a device whose qdisc or filters \
                 somebody deletes is unguarded until the agent, which sees that, puts them back"
            }
            Self::ChecksumOfIpv6 => {
                "translated IPv6 packets to the host itself can be dropped for a bad checksum where \
                 the network card checks sums in the way called CHECKSUM_COMPLETE"
            }
        }
    }
}

/// What an administrator finds it by.
impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "TCX (Linux 6.6, CONFIG_NET_XGRESS)",
            Self::ChecksumOfIpv6 => "BPF_F_IPV6 of bpf_l4_csum_replace (Linux 6.16)",
        })
    }
}

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its version, as `uname -r` prints it.
    pub release: String,
    /// How programs of traffic control are attached.
    pub tc: TcMechanism,
    /// What it lacks of what netd uses where it can.
    pub lacks: Vec<Feature>,
}

impl Kernel {
    /// Ask the kernel, by programs that `loader` loads: each loader reads all the kernel's types, which
    /// takes longer than the rest. Programs of traffic control are to be attached by `tc`, if that is
    /// given.
    ///
    /// # Errors
    /// It lacks what netd cannot do without, or `tc`.
    pub fn probe(tc: Option<TcMechanism>, loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let mut missing = Vec::new();
        for (helper, name) in HELPERS {
            let has = is_helper_supported(ProgramType::SchedClassifier, helper);
            if !has.map_err(|error| DatapathError::Load(chain(&error)))? {
                missing.push(name.to_owned());
            }
        }
        if !missing.is_empty() {
            return Err(DatapathError::Kernel(missing));
        }
        let has_tcx = SchedClassifier::query_tcx(LOOPBACK, TcAttachType::Ingress).is_ok();
        let tc = tc.unwrap_or(match has_tcx {
            true => TcMechanism::Tcx,
            false => TcMechanism::Clsact,
        });
        if tc == TcMechanism::Tcx && !has_tcx {
            let asked = format!("{}, which `attach` in netd.toml asks for", Feature::Tcx);
            return Err(DatapathError::Kernel(vec![asked]));
        }
        let has_flag = try_program("csum_ipv6", loader)?;
        let lacks = Feature::ALL.into_iter().filter(|feature| match feature {
            Feature::Tcx => !has_tcx,
            Feature::ChecksumOfIpv6 => !has_flag,
        });
        Ok(Self {
            release: release(),
            tc,
            lacks: lacks.collect(),
        })
    }

    /// Does it have that?
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        !self.lacks.contains(&feature)
    }

    /// Tell the programs, as constants, so that none tries with a packet what the kernel lacks.
    pub fn tell(&self, loader: &mut EbpfLoader<'_>) {
        let flag: &'static u8 = match self.has(Feature::ChecksumOfIpv6) {
            true => &1,
            false => &0,
        };
        loader.override_global("HAS_CSUM_IPV6_FLAG", flag, true);
    }
}

/// Load and run one of the programs that try something; it returns 1 where that works.
fn try_program(name: &'static str, loader: &mut EbpfLoader<'_>) -> Result<bool> {
    let failed = |message: String| DatapathError::Load(format!("{name}: {message}"));
    let mut probes = loader.load(PROBES).map_err(|error| failed(chain(&error)))?;
    let program = probes.program_mut(name);
    let program = program.ok_or_else(|| failed("not in the object".to_owned()))?;
    let program: &mut SchedClassifier =
        program.try_into().map_err(|error| failed(chain(&error)))?;
    program.load().map_err(|error| failed(chain(&error)))?;
    let result = program.test_run(TestRunOptions {
        data_in: Some(&[0; 64]),
        ..TestRunOptions::default()
    });
    let result = result.map_err(|error| failed(chain(&error)))?;
    Ok(result.return_value == 1)
}
