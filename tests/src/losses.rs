//! Where packets were lost: what the kernel counts in the namespaces they passed.
//!
//! A machine that is too slow for the load loses packets by itself, in the queue of a receiving device
//! and in a socket's buffer. Those are full after the packet has left the programs, or before it
//! reaches them, and the kernel counts them apart.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};

use anyhow::{Context, Result, ensure};

use crate::Netns;
use crate::traffic::Report;

/// A socket's receive buffer was full (`/proc/net/snmp`).
const BUFFER: &str = "Udp RcvbufErrors";
/// The same of a device's queue, as the sending end of the cable counts it: `netif_rx` refused it.
const QUEUE: &str = "dropped on its way out";
/// Packets of all namespaces that found a processor's queue full.
const BACKLOG: &str = "queues of the machine's processors were full";

/// Counts of what was lost, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<String, u64>);

impl Losses {
    /// What has been lost in these namespaces so far.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub fn look(namespaces: &[&Netns]) -> Result<Self> {
        let mut losses = Self::default();
        for netns in namespaces {
            let label = netns.name().rsplit('-').next().unwrap_or_default();
            // Of the thread's namespace; /proc/net is of the process's.
            let read = |table: &'static str| -> Result<String> {
                let path = format!("/proc/thread-self/net/{table}");
                let text = netns.enter(|| std::fs::read_to_string(&path))?;
                text.with_context(|| format!("reading {path}"))
            };
            for (name, count) in pairs(&read("snmp")?).chain(pairs(&read("netstat")?)) {
                if is_loss(&name) {
                    losses.0.insert(format!("{label}: {name}"), count);
                }
            }
            losses.devices(label, &read("dev")?);
        }
        let backlog = std::fs::read_to_string("/proc/net/softnet_stat").context("softnet_stat")?;
        let full = backlog.lines().filter_map(|cpu| {
            let count = cpu.split_whitespace().nth(1)?;
            u64::from_str_radix(count, 16).ok()
        });
        losses.0.insert(BACKLOG.to_owned(), full.sum());
        Ok(losses)
    }

    fn devices(&mut self, label: &str, table: &str) {
        for line in table.lines() {
            let Some((device, counts)) = line.split_once(':') else {
                continue;
            };
            let counts: Vec<u64> = counts
                .split_whitespace()
                .filter_map(|count| count.parse().ok())
                .collect();
            let device = device.trim();
            for (column, what) in [
                (2, "faulty on its way in"),
                (3, "dropped on its way in"),
                (10, "faulty on its way out"),
                (11, QUEUE),
            ] {
                if let Some(count) = counts.get(column) {
                    self.0.insert(format!("{label}: {device} {what}"), *count);
                }
            }
        }
    }

    /// What was lost since an earlier look.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(place, count)| {
            let more = count.checked_sub(before.0.get(place).copied().unwrap_or(0))?;
            (more > 0).then(|| (place.clone(), more))
        });
        Self(grown.collect())
    }

    /// Since this look at the namespaces no more was lost than met a full buffer or queue in them.
    ///
    /// # Errors
    /// More was lost.
    pub fn account_for(&self, report: &Report, namespaces: &[&Netns]) -> Result<()> {
        let counted = Self::look(namespaces)?.since(self);
        ensure!(
            report.lost.len() as u64 <= counted.to_overload(),
            "lost {} of {}: {:?}\n{counted}",
            report.lost.len(),
            report.sent,
            report.lost
        );
        Ok(())
    }

    /// Packets that met a full buffer or queue in the namespaces: the machine was too slow for them.
    #[must_use]
    pub fn to_overload(&self) -> u64 {
        let full = |place: &str| place.ends_with(BUFFER) || place.ends_with(QUEUE);
        let counts = self.0.iter().filter(|(place, _)| full(place));
        counts.map(|(_, count)| count).sum()
    }
}

impl Display for Losses {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no counter of the kernel's shows a loss\n");
        }
        self.0
            .iter()
            .try_for_each(|(place, count)| writeln!(f, "{count} {place}"))
    }
}

/// Names and counts of a table with a line of names above each line of counts.
fn pairs(table: &str) -> impl Iterator<Item = (String, u64)> {
    let lines: Vec<&str> = table.lines().collect();
    let (tables, _) = lines.as_chunks::<2>();
    let mut pairs = Vec::new();
    for [names, counts] in tables {
        let mut names = names.split_whitespace();
        let group = names.next().unwrap_or_default().trim_end_matches(':');
        for (name, count) in names.zip(counts.split_whitespace().skip(1)) {
            if let Ok(count) = count.parse() {
                pairs.push((format!("{group} {name}"), count));
            }
        }
    }
    pairs.into_iter()
}

/// Is it the name of a count of packets that went no further?
fn is_loss(name: &str) -> bool {
    [
        "Err", "Discards", "NoRoutes", "NoPorts", "Drop", "Overflow", "Retrans", "Timeouts",
    ]
    .iter()
    .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: InReceives InDiscards\nIp: 900 3\nUdp: InDatagrams NoPorts InErrors \
         RcvbufErrors\nUdp: 800 1 74 74\n";
    const DEV: &str = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame \
         compressed multicast|bytes packets errs drop fifo colls carrier compressed\n  wan0: 1 2 0 5 0 \
         0 0 0 3 4 0 6 0 0 0 0\n";

    fn losses(snmp: &str) -> Losses {
        let named = pairs(snmp).filter(|(name, _)| is_loss(name));
        let mut losses = Losses(named.map(|(name, n)| (format!("wan: {name}"), n)).collect());
        losses.devices("wan", DEV);
        losses
    }

    #[test]
    fn full_buffers_and_queues_are_told_from_other_losses() {
        let losses = losses(SNMP);
        let since = losses.since(&Losses::default());
        assert_eq!(since.to_overload(), 74 + 6, "{since}");
        assert_eq!(since.0["wan: Udp NoPorts"], 1);
        assert_eq!(since.0["wan: Ip InDiscards"], 3);
        assert_eq!(since.0["wan: wan0 dropped on its way in"], 5);
        assert!(!since.0.contains_key("wan: Udp InDatagrams"), "{since}");
    }

    #[test]
    fn only_what_grew_is_of_the_time_between() {
        let later = losses(&SNMP.replace("74 74", "80 80"));
        let since = later.since(&losses(SNMP));
        assert_eq!(
            since.to_string(),
            "6 wan: Udp InErrors\n6 wan: Udp RcvbufErrors\n"
        );
        assert_eq!(since.to_overload(), 6);
        let none = later.since(&later);
        assert!(none.to_string().contains("no counter"), "{none}");
    }
}
