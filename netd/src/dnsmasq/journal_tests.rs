//! What is read is what happened, wherever it is written; and a lease costs the same beside many as beside few.

use std::os::unix::fs::symlink;

use super::*;

const EXPIRY: i64 = 2_000_000_000;

fn lease(number: u32, hostname: &str) -> StoredLease {
    let [.., high, low] = number.to_be_bytes();
    StoredLease {
        iaid: None,
        ip: IpAddr::from([10, 20, high, low]),
        mac: Some(format!("52:54:00:00:{high:02x}:{low:02x}")),
        hostname: Some(hostname.to_owned()),
        client_id: None,
        server_duid: None,
        expiry: EXPIRY,
    }
}

fn stored(number: u32, hostname: &str) -> Change {
    Change::Stored(lease(number, hostname))
}

fn removed(number: u32) -> Change {
    Change::Removed {
        removed: lease(number, "").ip,
    }
}

/// A status file with that many leases.
fn with_leases(dir: &Path, number: u32) -> PathBuf {
    let status = dir.join("virbr0.status");
    let leases: Vec<_> = (0..number).map(|at| lease(at, "first")).collect();
    replace(&status, &leases).unwrap();
    status
}

/// Bytes that this thread has read and written so far, as it asked for them.
fn bytes() -> u64 {
    let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
    let of = |name: &str| -> u64 {
        let line = counts.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    of("rchar:") + of("wchar:")
}

/// How many bytes a change takes beside that many leases, when all of them change one after the other, as
/// dnsmasq tells them after SIGHUP.
fn bytes_for_a_change(leases: u32) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let status = with_leases(dir.path(), leases);
    let before = bytes();
    for at in 0..leases {
        note(&status, stored(at, "again"), false).unwrap();
    }
    let after = bytes();
    assert_eq!(load(&status).unwrap().len(), leases as usize);
    (after - before) / u64::from(leases)
}

#[test]
fn a_lease_costs_no_more_beside_thousands_than_beside_a_hundred() {
    let [few, many] = [100, 3000].map(bytes_for_a_change);
    assert!(
        many * 2 < few * 3,
        "{few} bytes for each of 100 leases, {many} for each of 3000"
    );
}

#[test]
fn what_is_read_is_what_happened() {
    for number in [3, 500] {
        let dir = tempfile::tempdir().unwrap();
        let status = with_leases(dir.path(), number);
        for change in [
            stored(0, "second"),
            removed(1),
            stored(number, "new"),
            stored(0, "third"),
            removed(2),
            stored(2, "back"),
            removed(number + 7),
        ] {
            note(&status, change, true).unwrap();
        }
        // Small files have no journal, so that others see each change at once.
        assert_eq!(path(&status).exists(), number > 100);
        let check = || {
            let leases = load(&status).unwrap();
            assert_eq!(leases.len(), number as usize);
            let last = &leases[leases.len() - 3..];
            let expected = [lease(number, "new"), lease(0, "third"), lease(2, "back")];
            assert_eq!(last, expected);
            assert!(!leases.contains(&lease(1, "first")));
        };
        check();
        assert_eq!(fold(&status).unwrap(), number > 100);
        assert!(!path(&status).exists() && !fold(&status).unwrap());
        assert_eq!(status_file::read(&status).unwrap(), load(&status).unwrap());
        check();
    }
}

#[test]
fn a_line_that_was_cut_off_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let status = with_leases(dir.path(), 500);
    note(&status, stored(600, "before"), false).unwrap();
    let whole = fs::read(path(&status)).unwrap();
    let cut = [&whole[..], br#"{"ip-address":"10.20."#].concat();
    fs::write(path(&status), cut).unwrap();
    note(&status, stored(601, "after"), false).unwrap();
    let leases = load(&status).unwrap();
    assert_eq!(leases[500..], [lease(600, "before"), lease(601, "after")]);
}

#[test]
fn what_was_folded_may_be_folded_again() {
    let dir = tempfile::tempdir().unwrap();
    let status = with_leases(dir.path(), 500);
    for change in [stored(3, "x"), removed(4), stored(700, "y")] {
        note(&status, change, false).unwrap();
    }
    let journal = fs::read(path(&status)).unwrap();
    fold(&status).unwrap();
    let folded = status_file::read(&status).unwrap();
    // As if it had died between the two.
    fs::write(path(&status), journal).unwrap();
    assert_eq!(load(&status).unwrap(), folded);
}

#[test]
fn libvirts_copy_follows_at_the_latest_with_a_quarter_of_the_leases() {
    let (own, stock) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = stock.path().join("virbr0.status");
    symlink(&copy, own.path().join("virbr0.nss")).unwrap();
    let status = with_leases(own.path(), 500);
    for at in 0..250 {
        note(&status, stored(1000 + at, "new"), false).unwrap();
    }
    let late = 750 - status_file::read(&copy).unwrap().len();
    assert!(late < 250, "{late} of 250 are missing");
    fold(&status).unwrap();
    assert_eq!(status_file::read(&copy).unwrap().len(), 750);
}
