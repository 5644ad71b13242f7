//! What libvirt's network driver put into the kernel's packet filter, and its removal. Nothing else is
//! touched: of iptables' tables only the chains that libvirt calls its own, and the jumps to them; of
//! nftables only libvirt's own tables.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use super::nft::{self, Chain, Deletion, Family};

/// Chains of the iptables backend.
const CHAINS: [&str; 6] = [
    "LIBVIRT_INP",
    "LIBVIRT_OUT",
    "LIBVIRT_FWI",
    "LIBVIRT_FWO",
    "LIBVIRT_FWX",
    "LIBVIRT_PRT",
];

/// Tables that they are in.
const TABLES: [&str; 3] = ["filter", "nat", "mangle"];

/// The table of the nftables backend, one for each family.
const TABLE: &str = "libvirt_network";

/// How often the rules are read again that somebody changed meanwhile.
const ATTEMPTS: usize = 5;

/// libvirt's rules in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Chains of the iptables backend, each with the number of its rules.
    pub chains: BTreeMap<Chain, usize>,
    /// Jumps to them.
    pub jumps: Vec<(Chain, u64)>,
    /// Chains that somebody else's rules lead to, too: they are emptied and stay.
    pub shared: Vec<Chain>,
    /// Tables of the nftables backend.
    pub tables: Vec<(Family, String)>,
    /// Tables of the older iptables (`iptables-legacy`), whose rules netd does not read.
    pub legacy: Vec<String>,
}

impl Rules {
    /// Is there anything that can be removed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.tables.is_empty()
    }

    /// Read them.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn read() -> io::Result<Self> {
        let mut rules = Self {
            legacy: legacy_tables(),
            ..Self::default()
        };
        for family in [Family::Ip, Family::Ip6] {
            let tables = nft::tables(family)?;
            let own = tables.iter().filter(|table| *table == TABLE);
            rules
                .tables
                .extend(own.map(|table| (family, table.clone())));
            if tables.iter().any(|table| TABLES.contains(&table.as_str())) {
                rules.read_chains(family)?;
            }
        }
        Ok(rules)
    }

    fn read_chains(&mut self, family: Family) -> io::Result<()> {
        let mut chains = nft::chains(family)?;
        chains.retain(|chain| TABLES.contains(&chain.table.as_str()));
        let is_own = |chain: &Chain| CHAINS.contains(&chain.name.as_str());
        let own: Vec<Chain> = chains
            .iter()
            .filter(|chain| is_own(chain))
            .cloned()
            .collect();
        for chain in chains {
            if !own.iter().any(|own| own.table == chain.table) {
                continue;
            }
            let rules = nft::rules(&chain)?;
            if is_own(&chain) {
                self.chains.insert(chain, rules.len());
                continue;
            }
            for rule in rules {
                let target = rule.target.and_then(|name| {
                    let of_table = |own: &&Chain| own.table == chain.table && own.name == name;
                    own.iter().find(of_table)
                });
                match target {
                    Some(_) if rule.plain => self.jumps.push((chain.clone(), rule.handle)),
                    Some(target) => self.shared.push(target.clone()),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn deletions(&self) -> Vec<Deletion> {
        let mut all = Vec::new();
        for (chain, handle) in &self.jumps {
            all.push(Deletion::Rule(chain.clone(), *handle));
        }
        // A chain without rules cannot be emptied.
        let filled = self.chains.iter().filter(|(_, rules)| **rules > 0);
        all.extend(filled.map(|(chain, _)| Deletion::Rules(chain.clone())));
        let unshared = self
            .chains
            .keys()
            .filter(|chain| !self.shared.contains(chain));
        all.extend(unshared.map(|chain| Deletion::Chain(chain.clone())));
        let tables = self.tables.iter().cloned();
        all.extend(tables.map(|(family, table)| Deletion::Table(family, table)));
        all
    }
}

/// Remove them, all at once, and tell what they were.
///
/// # Errors
/// The kernel refuses: then all of them are there.
pub fn remove() -> io::Result<Rules> {
    let mut attempt = 1;
    loop {
        let rules = Rules::read()?;
        if rules.is_empty() {
            return Ok(rules);
        }
        match nft::delete(&rules.deletions()) {
            Ok(()) => return Ok(rules),
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The tables of iptables-legacy in this network namespace; it has them once somebody used them.
fn legacy_tables() -> Vec<String> {
    let mut tables = Vec::new();
    for (file, family) in [("ip_tables_names", "ip"), ("ip6_tables_names", "ip6")] {
        let names = std::fs::read_to_string(Path::new("/proc/net").join(file)).unwrap_or_default();
        tables.extend(names.lines().map(|name| format!("{family} {name}")));
    }
    tables
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.chains.is_empty() {
            let rules: usize = self.chains.values().sum();
            parts.push(format!(
                "iptables: {} chains LIBVIRT_* with {rules} rules, {} jumps to them",
                self.chains.len(),
                self.jumps.len()
            ));
        }
        for (family, table) in &self.tables {
            parts.push(format!("nftables: table {} {table}", family.name()));
        }
        match parts.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&parts.join("; ")),
        }
    }
}
