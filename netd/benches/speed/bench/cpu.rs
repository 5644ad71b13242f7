//! Time that one processor works.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Time the processor worked on it.
    pub busy: Duration,
    /// Time until it was over.
    pub elapsed: Duration,
}

/// Keeps the calling thread on the last processor it may use, calls `work`, and says how long that
/// processor worked: the time that passed, less what the thread waited for its turn, plus what the
/// kernel's own thread for packets did on the same processor meanwhile. Packets that the thread
/// sends are received on its processor, so this is all of their time.
pub fn spent<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Spent)> {
    let allowed = sched_getaffinity(None).context("asking for this thread's processors")?;
    let cpu = (0..CpuSet::MAX_CPU)
        .rev()
        .find(|&cpu| allowed.is_set(cpu))
        .context("this thread has no processor")?;
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).with_context(|| format!("keeping to processor {cpu}"))?;
    let helper = kernel_thread(&format!("ksoftirqd/{cpu}"));
    let own = PathBuf::from("/proc/thread-self/schedstat");

    let (_, waited) = times(&own)?;
    let helped = helper.as_ref().map(times).transpose()?;
    let start = Instant::now();
    let result = work()?;
    let elapsed = start.elapsed();
    let waited = times(&own)?.1.saturating_sub(waited);
    let helped = match (&helper, helped) {
        (Some(helper), Some((before, _))) => times(helper)?.0.saturating_sub(before),
        _ => Duration::ZERO,
    };
    let busy = elapsed.saturating_sub(waited) + helped;
    Ok((result, Spent { busy, elapsed }))
}

/// How long a thread ran, and how long it could have run and waited.
fn times(schedstat: &PathBuf) -> Result<(Duration, Duration)> {
    let text = fs::read_to_string(schedstat)
        .with_context(|| format!("reading {}", schedstat.display()))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || {
        let number = numbers.next().and_then(Result::ok);
        let number = number.with_context(|| format!("{}: {text:?}", schedstat.display()))?;
        anyhow::Ok(Duration::from_nanos(number))
    };
    Ok((next()?, next()?))
}

/// The times of a kernel thread, where its processes can be seen at all.
fn kernel_thread(name: &str) -> Option<PathBuf> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim_end() == name).then(|| entry.path().join("schedstat"))
    })
}
