//! netd beside the kernel's own NAT with libvirt's rules: the same traffic, the same results.

use anyhow::{Result, ensure};
use netd_tests::differential::{self, Report, Translator, class};

/// Packets per test; a few seconds' worth.
const PACKETS: u64 = 5_000;
/// Packets while both sides change, which they do after some hundreds each time.
const CHANGING: u64 = 20_000;

fn everything(report: &Report) -> String {
    format!("{}\n{}", report.details.join("\n"), report.summary())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn netd_does_what_the_kernel_does() -> Result<()> {
    let binary = netd_tests::agent::binary()?;
    let netd = Translator::Netd(&binary);
    let report = differential::run(netd, 1, PACKETS, &class::still(), |_| {})?;
    ensure!(report.is_clean(), "{}", everything(&report));
    ensure!(report.compared > PACKETS / 2, "{}", report.summary());
    Ok(())
}

/// The harness itself: it finds nothing where there is nothing, in any class of traffic, and what
/// it takes for the choice of a port is none of its own making.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_kernel_does_what_the_kernel_does() -> Result<()> {
    let report = differential::run(Translator::Kernel, 2, PACKETS, &class::all(), |_| {})?;
    ensure!(report.is_clean(), "{}", everything(&report));
    ensure!(report.known.is_empty(), "{}", report.summary());
    ensure!(report.compared > PACKETS / 2, "{}", report.summary());
    Ok(())
}

/// The same while routes, neighbours, MTUs and guests' places change.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn netd_follows_the_host_as_the_kernel_does() -> Result<()> {
    let binary = netd_tests::agent::binary()?;
    let netd = Translator::Netd(&binary);
    let report = differential::run(netd, 1, CHANGING, &class::all(), |_| {})?;
    ensure!(report.is_clean(), "{}", everything(&report));
    ensure!(report.compared > CHANGING / 2, "{}", report.summary());
    ensure!(report.changes.len() > 5, "{}", report.summary());
    Ok(())
}

/// And it does notice a rule that is missing.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_privileged_port_is_noticed() -> Result<()> {
    let report = differential::run(Translator::Careless, 3, PACKETS, &class::still(), |_| {})?;
    let noticed = |kind: &String| kind.contains("privileged") || kind.contains("replaced");
    ensure!(
        report.unexplained.keys().any(noticed) && report.unexplained.keys().all(noticed),
        "{}",
        everything(&report)
    );
    Ok(())
}
