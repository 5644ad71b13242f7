//! The bans that there are, and until when. No I/O.

use std::collections::BTreeMap;

use netd_common::abi::BANS;

use crate::api::{ApiError, Ban, BanChange, BanId, ErrorCode, Result};
use crate::model::Prefix;

/// Longest name of a ban's owner, in bytes.
const OWNER_MAX: usize = 64;

/// Longest time a ban may be given: 100 years. What is to last longer is to last for ever.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// The moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Seconds since 1970, rounded up.
    pub wall: i64,
    /// Seconds since boot (`CLOCK_BOOTTIME`), rounded up.
    pub boot: u32,
}

/// When a ban ends, by both clocks: the first outlives a boot, by the second packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    wall: Option<i64>,
    boot: u32,
}

impl End {
    const NEVER: Self = Self {
        wall: None,
        boot: u32::MAX,
    };

    fn after(seconds: Option<u64>, now: Now) -> Self {
        let Some(seconds) = seconds else {
            return Self::NEVER;
        };
        Self {
            wall: Some(now.wall.saturating_add_unsigned(seconds)),
            boot: later(now, seconds),
        }
    }

    fn at(wall: Option<i64>, now: Now) -> Self {
        let Some(wall) = wall else {
            return Self::NEVER;
        };
        let left = u64::try_from(wall.saturating_sub(now.wall));
        Self {
            wall: Some(wall),
            // What has ended did so before now.
            boot: left.map_or(0, |left| later(now, left)),
        }
    }
}

/// So many seconds after now, since boot.
fn later(now: Now, seconds: u64) -> u32 {
    now.boot
        .saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Every ban.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BanSet {
    bans: BTreeMap<BanId, End>,
}

impl BanSet {
    /// The bans that were listed earlier, by this agent or one before it.
    pub fn new(listed: Vec<Ban>, now: Now) -> Self {
        let bans = listed.into_iter().map(|ban| {
            let id = BanId {
                network: ban.network,
                prefix: ban.prefix,
                owner: ban.owner,
            };
            (id, End::at(ban.until, now))
        });
        let mut set = Self {
            bans: bans.collect(),
        };
        set.expire(now);
        set
    }

    /// All of them, by network and prefix.
    pub fn list(&self) -> Vec<Ban> {
        let bans = self.bans.iter().map(|(id, end)| Ban {
            network: id.network.clone(),
            prefix: id.prefix,
            owner: id.owner.clone(),
            until: end.wall,
        });
        bans.collect()
    }

    /// Forget what has ended; the programs go by the second that has begun. `true` where there was
    /// something.
    pub fn expire(&mut self, now: Now) -> bool {
        let before = self.bans.len();
        self.bans.retain(|_, end| end.boot >= now.boot);
        self.bans.len() != before
    }

    /// Make a change; `ours` are subnets of networks, whose guests are not outside. After an error
    /// only a part of it was made.
    ///
    /// # Errors
    /// There is no such ban; somebody may not be banned; there are too many.
    pub fn change(&mut self, change: &BanChange, ours: &[Prefix], now: Now) -> Result<()> {
        match change {
            BanChange::Add { bans, seconds } => {
                if seconds.is_some_and(|seconds| seconds == 0 || seconds > SECONDS_MAX) {
                    return Err(invalid(format_args!(
                        "a ban is for 1 to {SECONDS_MAX} seconds, or, without a time, for ever"
                    )));
                }
                let end = End::after(*seconds, now);
                for id in bans {
                    check(id, ours)?;
                    self.bans.insert(id.clone(), end);
                }
                if self.bans.len() > BANS {
                    return Err(invalid(format_args!(
                        "there would be {} bans, and there is room for {BANS}: ban a shorter prefix \
                         in place of many addresses, or delete some",
                        self.bans.len()
                    )));
                }
            }
            BanChange::Delete { bans, if_exists } => {
                for id in bans {
                    if self.bans.remove(id).is_none() && !if_exists {
                        return Err(invalid(self.no_such(id)));
                    }
                }
            }
        }
        Ok(())
    }

    fn no_such(&self, wanted: &BanId) -> String {
        let mut text = format!("{} is not banned{}", wanted.prefix, of(wanted));
        let others = self.bans.keys().filter(|id| id.prefix == wanted.prefix);
        let others: Vec<String> = others.map(of).collect();
        if !others.is_empty() {
            text += &format!("; it is{}", others.join(", and"));
        }
        text
    }

    /// Whom the programs are to keep from what: network, prefix, and when the ban ends, which is not
    /// before that of any prefix around it.
    pub fn effective(&self) -> Vec<(Option<&str>, Prefix, u32)> {
        let mut all: Vec<(Option<&str>, Prefix, u32)> = Vec::with_capacity(self.bans.len());
        // Those around the one at hand, the shortest first.
        let mut around: Vec<(Option<&str>, Prefix, u32)> = Vec::new();
        for (id, end) in &self.bans {
            let network = id.network.as_deref();
            while around
                .last()
                .is_some_and(|(of, outer, _)| *of != network || !outer.contains(id.prefix))
            {
                around.pop();
            }
            let until = around.last().map_or(0, |(_, _, until)| *until);
            let entry = (network, id.prefix, end.boot.max(until));
            // Another owner's of the same prefix.
            if let Some(last) = all
                .last_mut()
                .filter(|last| (last.0, last.1) == (network, id.prefix))
            {
                *last = entry;
            } else {
                all.push(entry);
            }
            around.push(entry);
        }
        all
    }
}

/// May this be banned?
fn check(id: &BanId, ours: &[Prefix]) -> Result<()> {
    let BanId {
        network: _,
        prefix,
        owner,
    } = id;
    let address = prefix.address();
    if prefix.is_everything() {
        return Err(invalid(format_args!(
            "{prefix} is everybody; to close a network, stop it or delete its forwards"
        )));
    }
    if address.is_multicast() || address.is_loopback() {
        return Err(invalid(format_args!(
            "nothing comes from {prefix} by a wire: it is multicast or loopback"
        )));
    }
    if let Some(own) = ours.iter().find(|own| own.overlaps(*prefix)) {
        return Err(invalid(format_args!(
            "{prefix} has addresses of a network's own subnet, {own}: bans are about what comes from \
             outside. To keep guests from each other, use <port isolated='yes'/>"
        )));
    }
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    if owner.len() > OWNER_MAX || !owner.bytes().all(is_word) {
        return Err(invalid(format_args!(
            "'{}' cannot be a ban's owner: up to {OWNER_MAX} letters, digits and - _ . : @ can",
            owner.escape_debug()
        )));
    }
    Ok(())
}

/// Of what, and on whose behalf, in words.
fn of(id: &BanId) -> String {
    let mut text = String::new();
    if let Some(network) = &id.network {
        text += &format!(" from network {network}");
    }
    if !id.owner.is_empty() {
        text += &format!(" by {}", id.owner);
    }
    if text.is_empty() {
        text += " from all networks";
    }
    text
}

fn invalid(detail: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::InvalidArg, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now {
        wall: 1_000,
        boot: 50,
    };

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn id(network: Option<&str>, text: &str, owner: &str) -> BanId {
        BanId {
            network: network.map(str::to_owned),
            prefix: prefix(text),
            owner: owner.to_owned(),
        }
    }

    fn add(set: &mut BanSet, id: BanId, seconds: Option<u64>) {
        let change = BanChange::Add {
            bans: vec![id],
            seconds,
        };
        set.change(&change, &[], NOW).unwrap();
    }

    #[test]
    fn a_short_ban_inside_a_long_one_ends_with_that() {
        let mut set = BanSet::default();
        add(&mut set, id(None, "203.0.113.7", ""), Some(10));
        add(&mut set, id(None, "203.0.113.0/24", ""), None);
        add(&mut set, id(Some("n"), "203.0.113.7", ""), Some(10));
        add(&mut set, id(None, "203.0.114.7", "a"), Some(20));
        add(&mut set, id(None, "203.0.114.7", "b"), Some(10));
        let until = |seconds| NOW.boot + seconds;
        assert_eq!(
            set.effective(),
            [
                (None, prefix("203.0.113.0/24"), u32::MAX),
                (None, prefix("203.0.113.7"), u32::MAX),
                (None, prefix("203.0.114.7"), until(20)),
                (Some("n"), prefix("203.0.113.7"), until(10)),
            ]
        );
        let later = Now {
            wall: NOW.wall + 11,
            boot: until(11),
        };
        assert!(set.expire(later) && !set.expire(later));
        assert_eq!(set.list().len(), 2, "{set:?}");
        // As the next agent reads it.
        assert_eq!(BanSet::new(set.list(), later).list(), set.list());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let ours = [prefix("192.168.122.0/24")];
        let mut set = BanSet::default();
        let mut add = |id: BanId, seconds| {
            let bans = vec![id];
            set.change(&BanChange::Add { bans, seconds }, &ours, NOW)
        };
        for (text, owner, seconds, words) in [
            ("0.0.0.0/0", "", None, "everybody"),
            ("192.168.0.0/16", "", None, "192.168.122.0/24"),
            ("192.168.122.9", "", None, "192.168.122.0/24"),
            ("224.0.0.1", "", None, "multicast"),
            ("203.0.113.7", "a b", None, "owner"),
            ("203.0.113.7", "", Some(0), "seconds"),
            ("203.0.113.7", "", Some(u64::MAX), "seconds"),
        ] {
            let error = add(id(None, text, owner), seconds).unwrap_err();
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
        add(id(Some("n"), "203.0.113.7", "x"), None).unwrap();
        let delete = |text: &str, if_exists| BanChange::Delete {
            bans: vec![id(None, text, "")],
            if_exists,
        };
        let error = set.change(&delete("203.0.113.7", false), &ours, NOW);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("it is from network n by x"), "{error}");
        set.change(&delete("203.0.113.7", true), &ours, NOW)
            .unwrap();
        assert_eq!(set.list().len(), 1);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut set = BanSet::default();
        let all = |count: usize| BanChange::Add {
            bans: (0..count as u32)
                .map(|n| {
                    id(
                        None,
                        &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string(),
                        "",
                    )
                })
                .collect(),
            seconds: None,
        };
        set.change(&all(BANS), &[], NOW).unwrap();
        let error = set.change(&all(BANS + 1), &[], NOW).unwrap_err();
        assert!(error.to_string().contains("65537 bans"), "{error}");
    }

    proptest! {
        /// The longest prefix alone says what all prefixes around an address say together.
        #[test]
        fn the_longest_prefix_says_how_long(
            bans in prop::collection::vec((0u32..4, 28u8..=32, prop::option::of(1u64..6), 0usize..2), 1..20),
            asked in 0u32..16,
        ) {
            let mut set = BanSet::default();
            for (address, len, seconds, owner) in bans {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + 4 * address).into();
                let prefix = Prefix::new(address, len).unwrap();
                add(&mut set, id(None, &prefix.to_string(), ["", "x"][owner]), seconds);
            }
            let asked = prefix(&std::net::Ipv4Addr::from(0x0a00_0000 + asked).to_string());
            let around = |prefix: &Prefix| prefix.contains(asked);
            let wanted = set.bans.iter().filter(|(id, _)| around(&id.prefix));
            let wanted = wanted.map(|(_, end)| end.boot).max();
            let effective = set.effective();
            let longest = effective.iter().filter(|(_, prefix, _)| around(prefix));
            let longest = longest.max_by_key(|(_, prefix, _)| prefix.bits());
            prop_assert_eq!(longest.map(|(_, _, until)| *until), wanted);
        }
    }
}
