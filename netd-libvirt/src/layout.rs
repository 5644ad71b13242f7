//! Which versions of libvirt the module knows, and where their tables differ.
//!
//! The tables are private: a wrong place in one makes the daemon jump to a wrong function. So a version
//! that nobody looked at is refused. A test compares what stands here with libvirt's own headers,
//! another one runs under libvirt 9.0, 11.3 and 12.8.
//!
//! From 9.0 to 12.8 members were added to `virHypervisorDriver` and none was moved or taken away; which
//! version added one is said beside it in libvirt's drivers. The only ones in front of a member that is
//! used here are `domainGetAutostartOnce` and `domainSetAutostartOnce`, of 11.2. `virNetworkDriver` got
//! its metadata functions at its end, with 9.7; `virConnectDriver` did not change.

/// A version as libvirt counts it: 9 000 000 is 9.0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// Major and minor number.
    const fn of(major: u64, minor: u64) -> Self {
        Self(major * 1_000_000 + minor * 1_000)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(number) = self;
        let (major, minor, release) = (number / 1_000_000, number / 1_000 % 1_000, number % 1_000);
        write!(f, "{major}.{minor}.{release}")
    }
}

/// Indices of members in `virHypervisorDriver`; the name is member 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// `name`.
    pub name: usize,
    /// `connectOpen`.
    pub open: usize,
    /// `connectClose`.
    pub close: usize,
    /// `connectSupportsFeature`.
    pub supports_feature: usize,
    /// `connectIsEncrypted`.
    pub is_encrypted: usize,
    /// `connectIsSecure`.
    pub is_secure: usize,
    /// `connectIsAlive`.
    pub is_alive: usize,
}

/// From this version on, with which members; up to the next one.
const SINCE: &[(Version, Members)] = &[
    (Version::of(9, 0), members(0)),
    (Version::of(11, 2), members(2)),
];

/// The first version that nobody looked at.
const UNKNOWN: Version = Version::of(12, 9);

/// The first version with events of metadata.
const METADATA_EVENTS: Version = Version::of(9, 8);

/// What is known, for those who have something else.
pub const RANGE: &str = "9.0 to 12.8";

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where functions of connections stand.
    pub members: Members,
    /// Are there events of metadata?
    pub metadata_events: bool,
}

/// The members where so many were added in front of `connectIsEncrypted`.
const fn members(added: usize) -> Members {
    Members {
        name: 0,
        open: 2,
        close: 3,
        supports_feature: 5,
        is_encrypted: 128 + added,
        is_secure: 129 + added,
        is_alive: 195 + added,
    }
}

/// The layout of a version; none where nobody looked at it.
pub fn of(version: Version) -> Option<Layout> {
    if version >= UNKNOWN {
        return None;
    }
    let known = SINCE.iter().rev().find(|(since, _)| version >= *since);
    known.map(|(_, members)| Layout {
        members: *members,
        metadata_events: version >= METADATA_EVENTS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_nobody_looked_at_are_refused() {
        for number in [0, 8_010_000, 8_999_999, 12_009_000, 13_000_000, u64::MAX] {
            assert_eq!(of(Version(number)), None, "{number}");
        }
    }

    #[test]
    fn members_move_with_the_version_that_added_some() {
        for (number, is_alive) in [
            (9_000_000, 195),
            (10_000_000, 195),
            (11_001_000, 195),
            (11_002_000, 197),
            (11_003_000, 197),
            (12_008_000, 197),
            (12_008_001, 197),
        ] {
            let members = of(Version(number)).map(|layout| layout.members.is_alive);
            assert_eq!(members, Some(is_alive), "{number}");
        }
    }

    #[test]
    fn versions_read_as_they_are_known() {
        assert_eq!(Version(11_003_000).to_string(), "11.3.0");
    }
}
