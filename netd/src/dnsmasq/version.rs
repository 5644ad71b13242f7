//! Versions of dnsmasq.

use std::fmt;

/// Oldest dnsmasq whose options are all there.
pub(super) const MIN_VERSION: Version = Version {
    major: 2,
    minor: 81,
};

/// Version of a dnsmasq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 for many years.
    pub major: u32,
    /// What changes.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.major, self.minor)
    }
}

/// From "Dnsmasq version 2.90  Copyright …"; a suffix such as "rc1" or "-ubuntu" is ignored.
pub(super) fn parse_version(text: &str) -> Option<Version> {
    let rest = text.trim_start().strip_prefix("Dnsmasq version ")?;
    let (major, rest) = rest.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(Version {
        major: major.parse().ok()?,
        minor: rest[..digits].parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_understood() {
        let parse = |line| parse_version(line).map(|v| (v.major, v.minor));
        assert_eq!(parse("Dnsmasq version 2.90  Copyright (c)"), Some((2, 90)));
        assert_eq!(parse("Dnsmasq version 2.86rc3  C"), Some((2, 86)));
        assert_eq!(parse("Dnsmasq version 2.80-ubuntu"), Some((2, 80)));
        assert_eq!(parse("Dnsmasq version 2.9"), Some((2, 9)));
        assert_eq!(parse("dnsmasq: bad option"), None);
        let old = Version { major: 2, minor: 9 };
        assert!(old < MIN_VERSION);
    }
}
