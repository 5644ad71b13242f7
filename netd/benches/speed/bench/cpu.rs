//! Time that one processor works.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this thread may use.
///
/// # Errors
/// The kernel does not say.
pub fn allowed() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("asking for this thread's processors")?;
    let all = 0..CpuSet::MAX_CPU;
    Ok(all.filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// Keeps the calling thread on the last processor it may use, and returns its number.
///
/// # Errors
/// The kernel refuses.
pub fn keep_to_one() -> Result<usize> {
    let last = allowed()?.pop().context("this thread has no processor")?;
    let mut only = CpuSet::new();
    only.set(last);
    sched_setaffinity(None, &only).with_context(|| format!("keeping to processor {last}"))?;
    Ok(last)
}

/// Keeps the calling thread on one processor, calls `work`, and adds to the time that it names what
/// the kernel's own thread for packets did on that processor meanwhile. Packets that a thread sends
/// are received on its processor, so this is all of their time.
///
/// # Errors
/// The work's own, or the kernel does not tell times.
pub fn spent(work: impl FnOnce() -> Result<Duration>) -> Result<Duration> {
    let cpu = keep_to_one()?;
    let helper = kernel_thread(&format!("ksoftirqd/{cpu}"));
    let helped = || helper.as_deref().map_or(Ok(Duration::ZERO), ran);
    let before = helped()?;
    let named = work()?;
    Ok(named + helped()?.saturating_sub(before))
}

/// How long a thread ran so far.
fn ran(schedstat: &Path) -> Result<Duration> {
    let text = fs::read_to_string(schedstat)
        .with_context(|| format!("reading {}", schedstat.display()))?;
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    let number = number.with_context(|| format!("{}: {text:?}", schedstat.display()))?;
    Ok(Duration::from_nanos(number))
}

/// The times of a kernel thread, where the machine's processes can be seen at all.
fn kernel_thread(name: &str) -> Option<PathBuf> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim_end() == name).then(|| entry.path().join("schedstat"))
    })
}
