//! What libvirt's network driver put into the kernel's packet filter, and its removal. Nothing else is
//! touched: of iptables' tables only the chains that libvirt calls its own, and the jumps to them; of
//! nftables only libvirt's own tables.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::nft::{self, Chain, Deletion, Family};
use crate::firewall::{self, Action, Ruleset, legacy_tables};

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
    /// Tables of the older iptables, whose rules netd does not read, each as `iptables-legacy -t filter`.
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
        let legacy = legacy_tables();
        Ruleset::read().map(|ruleset| Self {
            legacy,
            ..Self::of(&ruleset)
        })
    }

    /// Those among all rules.
    fn of(ruleset: &Ruleset) -> Self {
        let mut rules = Self::default();
        let tables = ruleset.tables.iter().filter(|(_, table)| table == TABLE);
        rules.tables.extend(
            tables.filter_map(|(family, table)| Some((Family::of(family)?, table.clone()))),
        );
        let chains: Vec<(Chain, &firewall::Chain)> = ruleset
            .chains
            .iter()
            .filter(|chain| TABLES.contains(&chain.table.as_str()))
            .filter_map(|chain| Some((named(chain)?, chain)))
            .collect();
        let is_own = |chain: &Chain| CHAINS.contains(&chain.name.as_str());
        let (own, others): (Vec<_>, Vec<_>) =
            chains.into_iter().partition(|(chain, _)| is_own(chain));
        let sizes = own.into_iter();
        rules.chains = sizes
            .map(|(chain, filled)| (chain, filled.rules.len()))
            .collect();
        for (chain, filled) in others {
            for rule in &filled.rules {
                rules.note_jumps(&chain, rule);
            }
        }
        rules
    }

    /// Does a rule of somebody else's chain lead to one of libvirt's?
    fn note_jumps(&mut self, chain: &Chain, rule: &firewall::Rule) {
        for action in &rule.actions {
            let Action::Jump(name) = action else {
                continue;
            };
            let target = Chain {
                name: name.clone(),
                ..chain.clone()
            };
            if !self.chains.contains_key(&target) {
                continue;
            }
            if rule.plain {
                self.jumps.push((chain.clone(), rule.handle));
            } else {
                self.shared.push(target);
            }
        }
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

fn named(chain: &firewall::Chain) -> Option<Chain> {
    Some(Chain {
        family: Family::of(chain.family)?,
        table: chain.table.clone(),
        name: chain.name.clone(),
    })
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
