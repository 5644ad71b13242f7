//! Sets of ports: those that the administrator keeps for the host's own services
//! (`net.ipv4.ip_local_reserved_ports`), with which no guest is masqueraded, and those that are
//! published.

use std::path::Path;

use netd_common::abi::{PORTS_WORDS, PortsWord};

use super::error::{Result, io};

/// The list of the network namespace of whoever reads it.
const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Bits of a word.
const BITS: usize = PortsWord::BITS as usize;

/// A set of ports, laid out as the maps `reserved` and `dnat_ports` are.
#[derive(Clone, PartialEq, Eq)]
pub struct Ports {
    words: Box<[PortsWord; PORTS_WORDS]>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        write!(f, "{count} ports")
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            words: Box::new([0; PORTS_WORDS]),
        }
    }
}

/// Something in the kernel's list is no port or range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no port or range of ports")]
struct Invalid(String);

impl Ports {
    /// The reserved ones, as the kernel lists them.
    ///
    /// # Errors
    /// Its list cannot be read or understood.
    pub fn read() -> Result<Self> {
        let path = Path::new(FILE);
        let text = std::fs::read_to_string(path).map_err(io("read", path))?;
        Self::parse(&text)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            .map_err(io("read", path))
    }

    /// A list such as `8080,9148-9150`, in any order; empty for none.
    fn parse(text: &str) -> std::result::Result<Self, Invalid> {
        let mut ports = Self::default();
        for item in text.trim().split(',').filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if first <= last => ports.insert(first, last),
                _ => return Err(Invalid(item.to_owned())),
            }
        }
        Ok(ports)
    }

    /// Those of a map with these words.
    pub(super) fn from_words(words: &[PortsWord]) -> Self {
        let mut ports = Self::default();
        for (own, word) in ports.words.iter_mut().zip(words) {
            *own = *word;
        }
        ports
    }

    /// Add all of the others.
    pub fn add(&mut self, others: &Self) {
        for (own, other) in self.words.iter_mut().zip(others.words.iter()) {
            *own |= *other;
        }
    }

    /// Add the ports from `first` to `last`.
    pub fn insert(&mut self, first: u16, last: u16) {
        for port in first..=last {
            let port = usize::from(port);
            self.words[port / BITS] |= 1 << (port % BITS);
        }
    }

    /// Is this one of them?
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.words[port / BITS] >> (port % BITS) & 1 == 1
    }

    /// The map's entries.
    pub(super) fn words(&self) -> &[PortsWord] {
        &*self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<u16> {
        let ports = Ports::parse(text).unwrap();
        (0..=u16::MAX)
            .filter(|port| {
                let port = usize::from(*port);
                ports.words()[port / 64] >> (port % 64) & 1 == 1
            })
            .collect()
    }

    #[test]
    fn lists_as_the_kernel_prints_them() {
        assert!(list("\n").is_empty());
        assert!(list("").is_empty());
        assert_eq!(list("8080\n"), [8080]);
        assert_eq!(list("8080,9148-9150\n"), [8080, 9148, 9149, 9150]);
        assert_eq!(list("63-64,64,127-128"), [63, 64, 127, 128]);
    }

    #[test]
    fn both_ends() {
        assert_eq!(list("0,65535"), [0, 65535]);
        assert_eq!(list("0-65535").len(), 65536);
        assert_eq!(list("65535-65535"), [65535]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["x", "65536", "5-", "-5", "9-8", "1-2-3", "1;2", "-"] {
            let error = Ports::parse(text).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
