//! Time that one processor works.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// The processor that does all the work that is measured: the last one that this thread may use.
///
/// # Errors
/// The kernel does not say.
pub fn measured() -> Result<usize> {
    let allowed = sched_getaffinity(None).context("asking for this thread's processors")?;
    let last = (0..CpuSet::MAX_CPU).rfind(|&cpu| allowed.is_set(cpu));
    last.context("this thread has no processor")
}

/// Keeps the calling thread on the processor that is measured.
///
/// # Errors
/// The kernel refuses.
pub fn keep_to_one() -> Result<()> {
    keep(gettid())
}

/// Keeps a thread on the processor that is measured.
///
/// # Errors
/// The kernel refuses.
pub fn keep(thread: Pid) -> Result<()> {
    let cpu = measured()?;
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(Some(thread), &only).with_context(|| format!("keeping to processor {cpu}"))
}

/// Keeps the calling thread on the processor that is measured, calls `work`, and adds to the time
/// that it names what the kernel did for packets meanwhile, see [`helped`].
///
/// # Errors
/// The work's own, or the kernel does not tell times.
pub fn spent(work: impl FnOnce() -> Result<Duration>) -> Result<Duration> {
    keep_to_one()?;
    let (named, helped) = helped(None, work)?;
    Ok(named + helped)
}

/// Calls `work`. Returns also how long others worked for it meanwhile on the processor that is
/// measured: the kernel's own thread for packets, and the relay's thread where there is one. Packets
/// that a thread sends are received on its processor, so nobody else does.
///
/// # Errors
/// The work's own, or the kernel does not tell times.
pub fn helped<T>(relay: Option<Pid>, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let kernel = kernel_thread(&format!("ksoftirqd/{}", measured()?));
    let relay = relay.map(|thread| format!("/proc/self/task/{thread}/schedstat").into());
    let helpers: Vec<PathBuf> = kernel.into_iter().chain(relay).collect();
    let ran = || -> Result<Duration> { helpers.iter().map(|helper| ran(helper)).sum() };
    let before = ran()?;
    let result = work()?;
    Ok((result, ran()?.saturating_sub(before)))
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
