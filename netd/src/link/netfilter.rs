//! The host's own rules: are there any, and word that they changed.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::announcements::Announcements;
use crate::netlink::NETFILTER;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h), as a bit of a netlink address: what nft and
/// iptables-nft change, a message for each piece and one at the end of each transaction.
const NFTABLES: u32 = 1 << (7 - 1);

/// A reload is several transactions: the rules count once this long (200 ms) nothing came after.
const QUIET: Duration = Duration::from_millis(200);

/// Or once this long (1 s) they have been changing.
const LONGEST: Duration = Duration::from_secs(1);

/// Has the kernel netfilter at all? Without it nobody can have rules, and nothing of them can be
/// loaded later.
#[must_use]
pub fn exists() -> bool {
    // The core makes it in each network namespace (net/netfilter/core.c).
    Path::new("/proc/self/net/netfilter").exists()
}

/// Are there rules of which nobody tells when they change? iptables-legacy's tables are listed once
/// something has used them.
#[must_use]
pub fn has_silent_rules() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|list| {
        let path = Path::new("/proc/self/net").join(list);
        // Without iptables-legacy in the kernel there is no such file.
        std::fs::read(path).is_ok_and(|names| !names.is_empty())
    })
}

/// A subscription to changes of nftables' rules, which are iptables' as well unless it is the old one, in the
/// calling thread's network namespace; `None` where the kernel has nothing that would tell.
///
/// # Errors
/// The kernel refuses.
pub fn watch_rules() -> io::Result<Option<Announcements>> {
    Announcements::new(NETFILTER, NFTABLES, QUIET, LONGEST)
}
