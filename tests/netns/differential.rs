//! netd beside the kernel's own NAT with libvirt's rules: the same traffic, the same results.

use anyhow::{Result, ensure};
use netd_tests::differential::{self, class};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn netd_does_what_the_kernel_does() -> Result<()> {
    let binary = netd_tests::agent::binary()?;
    let report = differential::run(&binary, 1, 5_000, &class::current(), |_| {})?;
    ensure!(
        report.is_clean(),
        "{}\n{}",
        report.details.join("\n"),
        report.summary()
    );
    ensure!(report.compared > 2_000, "{}", report.summary());
    Ok(())
}
