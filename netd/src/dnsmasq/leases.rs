//! Leases as clients are told: read from the file that the lease helper writes.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::files::create_public_dir;
use super::journal;
use super::status_file::StoredLease;
use crate::api::Lease;
use crate::model::{IpMask, Network};

/// The leases of `network`, which is behind `bridge`, that are valid at `now` (seconds since the
/// epoch); of one MAC address only when `mac` is given. No file means no leases.
///
/// # Errors
/// The file cannot be read, is larger than 32 MiB, or is no list in JSON.
pub fn read(
    dnsmasq_dir: &Path,
    bridge: &str,
    network: &Network,
    mac: Option<&str>,
    now: i64,
) -> io::Result<Vec<Lease>> {
    let bridge = interface_name(bridge).ok_or(io::ErrorKind::InvalidInput)?;
    let path = dnsmasq_dir.join(format!("{bridge}.status"));
    let stored = load(dnsmasq_dir, &path).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot read leases from {}: {e}", path.display()),
        )
    })?;
    let current = |lease: &StoredLease| lease.expiry <= 0 || lease.expiry >= now;
    let wanted = |lease: &StoredLease| match (mac, &lease.mac) {
        (None, _) => true,
        (Some(wanted), Some(mac)) => same_mac(wanted, mac),
        (Some(_), None) => false,
    };
    Ok(stored
        .into_iter()
        .filter(|lease| current(lease) && wanted(lease))
        .map(|lease| Lease {
            interface: bridge.to_owned(),
            expiry: lease.expiry,
            mac: lease.mac,
            iaid: lease.iaid,
            prefix: prefix(network, lease.ip),
            ip: lease.ip,
            hostname: lease.hostname,
            client_id: lease.client_id,
        })
        .collect())
}

/// Replace the leases of `bridge` in directory `to` by those in `from`, which one of libvirt's or
/// netd's lease helpers wrote.
///
/// # Errors
/// As [`read`]; or they cannot be written.
pub fn carry(bridge: &str, from: &Path, to: &Path) -> io::Result<()> {
    let bridge = interface_name(bridge).ok_or(io::ErrorKind::InvalidInput)?;
    let file = format!("{bridge}.status");
    let leases = load(from, &from.join(&file))?;
    create_public_dir(to)?;
    let _lock = journal::lock(to, FlockOperation::LockExclusive)?;
    journal::replace(&to.join(file), &leases)
}

/// Have the status files in a directory say all that is known, where lease helpers left that for later.
///
/// # Errors
/// The first file that could not be read or written; the others were.
pub fn fold(dnsmasq_dir: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in std::fs::read_dir(dnsmasq_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == journal::EXTENSION) {
            let locked = journal::lock(dnsmasq_dir, FlockOperation::LockExclusive);
            let folded =
                locked.and_then(|_lock| journal::fold(&path.with_extension("status")).map(drop));
            result = result.and(folded);
        }
    }
    result
}

/// How far the lease helpers of a bridge are with their work: another value whenever one has written.
#[must_use]
pub fn progress(dnsmasq_dir: &Path, bridge: &str) -> Progress {
    let look = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    let status = dnsmasq_dir.join(format!("{bridge}.status"));
    Progress([look(&status), look(&journal::path(&status))])
}

/// See [`progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress([Option<(u64, SystemTime)>; 2]);

/// How many leases are in the file of `bridge`, ended ones included.
///
/// # Errors
/// As [`read`].
pub fn count(dnsmasq_dir: &Path, bridge: &str) -> io::Result<usize> {
    let bridge = interface_name(bridge).ok_or(io::ErrorKind::InvalidInput)?;
    let leases = load(dnsmasq_dir, &dnsmasq_dir.join(format!("{bridge}.status")))?;
    Ok(leases.len())
}

/// The leases of a status file in that directory, which may not exist.
fn load(dnsmasq_dir: &Path, status: &Path) -> io::Result<Vec<StoredLease>> {
    let _lock = match journal::lock(dnsmasq_dir, FlockOperation::LockShared) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        lock => lock?,
    };
    journal::load(status)
}

/// The name of a network device, if it is one and therefore safe in a file name.
pub(super) fn interface_name(name: &str) -> Option<&str> {
    let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    let valid =
        !name.is_empty() && name.len() <= 15 && !matches!(name, "." | "..") && !name.contains(bad);
    valid.then_some(name)
}

/// Prefix of the first `<ip>` of the lease's family. For IPv6 only what the definition says, as
/// clients of libvirt know it.
fn prefix(network: &Network, lease: IpAddr) -> u32 {
    let mut family = network
        .ips
        .iter()
        .filter(|ip| ip.address.is_ipv4() == lease.is_ipv4());
    family.next().map_or(0, |ip| match (ip.address, ip.mask) {
        (IpAddr::V6(_), IpMask::Implied) => 0,
        _ => ip.prefix_len().into(),
    })
}

/// Do two texts mean the same MAC address, however they are written?
fn same_mac(a: &str, b: &str) -> bool {
    let octets = |text: &str| -> Option<Vec<u8>> {
        text.split([':', '-'])
            .map(|part| u8::from_str_radix(part, 16).ok())
            .collect()
    };
    match (octets(a), octets(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.eq_ignore_ascii_case(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsmasq::{MAX_STATUS_BYTES, nss, status_file};
    use crate::model::{Dhcp, Ip};

    fn network() -> Network {
        let ip = |address: &str, mask| Ip {
            address: address.parse().unwrap(),
            family: None,
            mask,
            local_ptr: None,
            tftp_root: None,
            dhcp: Dhcp::default(),
        };
        Network {
            ips: vec![
                ip("fd00::1", IpMask::Implied),
                ip("10.0.0.1", IpMask::Prefix(20)),
                ip("10.1.0.1", IpMask::Prefix(28)),
            ],
            ..Network::default()
        }
    }

    fn read_text(text: &str, mac: Option<&str>) -> io::Result<Vec<Lease>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("virbr0.status"), text).unwrap();
        read(dir.path(), "virbr0", &network(), mac, 1000)
    }

    const SOME: &str = r#"[
      {"ip-address":"10.0.0.5","mac-address":"52:54:00:0a:0B:01","hostname":"a","client-id":"01:x","expiry-time":1000},
      {"ip-address":"10.0.0.6","mac-address":"52:54:00:00:00:02","expiry-time":999},
      {"ip-address":"10.0.0.7","mac-address":"52:54:00:00:00:03","expiry-time":0},
      {"ip-address":"no address","expiry-time":5000},
      {"iaid":"7","ip-address":"fd00::5","mac-address":"52:54:00:00:00:04","client-id":"00:01","server-duid":"00:02","expiry-time":5000}
    ]"#;

    #[test]
    fn expired_and_broken_entries_are_left_out() {
        let leases = read_text(SOME, None).unwrap();
        let ips: Vec<_> = leases.iter().map(|l| l.ip.to_string()).collect();
        assert_eq!(ips, ["10.0.0.5", "10.0.0.7", "fd00::5"]);
        assert_eq!(
            leases[0],
            Lease {
                interface: "virbr0".into(),
                expiry: 1000,
                mac: Some("52:54:00:0a:0B:01".into()),
                iaid: None,
                ip: "10.0.0.5".parse().unwrap(),
                prefix: 20,
                hostname: Some("a".into()),
                client_id: Some("01:x".into()),
            }
        );
        assert_eq!((leases[1].expiry, leases[2].prefix), (0, 0));
        assert_eq!(leases[2].iaid.as_deref(), Some("7"));
    }

    #[test]
    fn a_mac_is_found_however_it_is_written() {
        for mac in ["52:54:00:0A:0b:01", "52-54-0-a-b-1"] {
            assert_eq!(read_text(SOME, Some(mac)).unwrap().len(), 1, "{mac}");
        }
        assert!(
            read_text(SOME, Some("52:54:00:0a:0b:ff"))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn nothing_is_no_leases_and_rubbish_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            read(dir.path(), "virbr0", &network(), None, 0)
                .unwrap()
                .is_empty()
        );
        assert!(read_text(" \n", None).unwrap().is_empty());
        assert!(read_text("{\"a\":1}", None).is_err());
        assert!(read_text("[", None).is_err());
        assert!(read(dir.path(), "../etc/x", &network(), None, 0).is_err());
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("virbr0.status")).unwrap();
        file.set_len(MAX_STATUS_BYTES + 1).unwrap();
        let error = read(dir.path(), "virbr0", &network(), None, 0).unwrap_err();
        assert!(error.to_string().contains("virbr0.status"), "{error}");
    }

    #[test]
    fn what_is_libvirts_is_written_as_long_as_it_is_asked_for() {
        let (own, stock) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let status = stock.path().join("virbr0.status");
        let store = || status_file::write(&own.path().join("virbr0.status"), &[]);
        store().unwrap();
        nss::tell_macs(own.path(), "virbr0", &crate::model::NetworkPorts::default()).unwrap();
        assert_eq!(std::fs::read_dir(stock.path()).unwrap().count(), 0);

        nss::begin(own.path(), "virbr0", stock.path()).unwrap();
        store().unwrap();
        nss::tell_macs(own.path(), "virbr0", &crate::model::NetworkPorts::default()).unwrap();
        assert_eq!(std::fs::read_to_string(&status).unwrap().trim(), "[]");
        assert!(stock.path().join("virbr0.macs").exists());

        nss::end(own.path(), "virbr0").unwrap();
        std::fs::remove_file(&status).unwrap();
        store().unwrap();
        assert!(!status.exists());

        nss::begin(own.path(), "virbr0", stock.path()).unwrap();
        store().unwrap();
        nss::forget(own.path(), "virbr0").unwrap();
        nss::forget(own.path(), "virbr0").unwrap();
        assert_eq!(std::fs::read_dir(stock.path()).unwrap().count(), 0);
        assert!(nss::begin(own.path(), "../virbr0", stock.path()).is_err());
    }
}
