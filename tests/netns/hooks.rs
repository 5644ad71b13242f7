//! What stands at the hooks of a device.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use netd::datapath::kernel::Feature;
use netd::datapath::{Attachment, Datapath, Hook, Kernel, Limits};
use netd_tests::Netns;
use netd_tests::lab::check;

/// Names of the programs at both of traffic control's hooks of a device: those of TCX, and those of
/// netd's filters.
///
/// # Errors
/// The kernel cannot be asked.
pub fn programs(netns: &Netns, device: &str) -> Result<BTreeSet<String>> {
    let mut names = tcx_programs(netns, device)?;
    for side in ["ingress", "egress"] {
        let filters = filters(netns, device, side)?;
        names.extend(filters.lines().filter_map(|line| {
            let (_, name) = line.split_once(" netd:")?;
            Some(name.split_whitespace().next()?.to_owned())
        }));
    }
    Ok(names)
}

/// Names of the programs that TCX has there; none where the kernel has no TCX.
///
/// # Errors
/// The kernel cannot be asked.
pub fn tcx_programs(netns: &Netns, device: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if !netns
        .enter(|| Kernel::probe(None, &mut EbpfLoader::new()))??
        .has(Feature::Tcx)
    {
        return Ok(names);
    }
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let query = netns.enter(|| SchedClassifier::query_tcx(device, side))?;
        let (_, programs) = query.with_context(|| format!("programs of {device}"))?;
        names.extend(
            programs
                .iter()
                .filter_map(|p| p.name_as_str().map(str::to_owned)),
        );
    }
    Ok(names)
}

/// The filters at one side of a device, "ingress" or "egress", a line each, in the order they run;
/// none where the device has no qdisc for them.
///
/// # Errors
/// tc cannot be started.
pub fn filters(netns: &Netns, device: &str, side: &str) -> Result<String> {
    let output = netns.output(["tc", "filter", "show", "dev", device, side])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel lets go of a link whose pin was removed some time later, and takes no program twice: EEXIST from
/// TCX, EBUSY from a driver.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn programs_come_back_at_once() {
    check(|lab| {
        let index = u32::try_from(lab.hv.ifindex("uplink")?)?;
        let bpffs = lab.agent.bpffs();
        let attach_and_detach = || -> Result<()> {
            let mut datapath = Datapath::open(&bpffs, &Limits::default(), None)?;
            for hook in [Hook::UplinkIngress, Hook::UplinkXdp] {
                let place = Attachment {
                    ifindex: index,
                    hook,
                };
                // Of a hundred, some would be refused.
                for round in 0..100 {
                    datapath
                        .attach(place, "uplink")
                        .with_context(|| format!("round {round}"))?;
                    datapath.detach(place)?;
                }
            }
            Ok(())
        };
        lab.hv.enter(attach_and_detach)?
    });
}
