//! The frame of a test with a host.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::{Context, Result};

use super::{Host, Root};

/// Builds a host and runs the test in it; the daemons' logs are shown where it fails. Where apt could
/// not be reached to make what it needs, the test is skipped, and says so.
///
/// # Panics
/// When the test fails: that is its purpose.
pub fn check(root: Root, test: impl FnOnce(&mut Host) -> Result<()>) {
    check_on(root, Host::new(root, "host1"), test);
}

/// The same with a host that systemd runs.
///
/// # Panics
/// When the test fails.
pub fn check_booted(root: Root, test: impl FnOnce(&mut Host) -> Result<()>) {
    check_on(root, Host::booted(root, "host1"), test);
}

fn check_on(root: Root, host: Result<Option<Host>>, test: impl FnOnce(&mut Host) -> Result<()>) {
    let host = host.unwrap_or_else(|error| panic!("no host: {error:?}"));
    let Some(mut host) = host else {
        // Straight to the terminal: what tests that pass print is not shown.
        let why = "could be made, as cargo xtask has said";
        let _ = writeln!(std::io::stderr(), "SKIPPED: no guest on {root} {why}");
        return;
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        test(&mut host).with_context(|| format!("on {root}"))
    }));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}", host.logs());
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:?}"),
        Err(panic) => resume_unwind(panic),
    }
}
