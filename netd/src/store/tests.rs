//! Tests of the store on a temporary directory and on a full file system.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Paths::below(dir.path())).unwrap();
    (dir, store)
}

fn network(name: &str) -> Network {
    Network {
        name: name.to_owned(),
        ..Network::default()
    }
}

fn names(store: &Store) -> Vec<String> {
    let (stored, errors) = store.load();
    assert!(errors.is_empty(), "{errors:?}");
    stored.into_iter().map(|s| s.network.name).collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn saves_loads_and_removes() {
    let (_dir, store) = open();
    for name in ["b", ".hidden", "it's \"a\" name", "a"] {
        store.save(&network(name)).unwrap();
    }
    assert_eq!(names(&store), [".hidden", "a", "b", "it's \"a\" name"]);

    let changed = Network {
        title: Some("second".to_owned()),
        ..network("a")
    };
    store.save(&changed).unwrap();
    assert_eq!(store.load().0[1].network, changed);

    store.remove("a").unwrap();
    store.remove("a").unwrap();
    assert_eq!(names(&store), [".hidden", "b", "it's \"a\" name"]);
}

#[test]
fn belongs_to_its_owner_alone() {
    let (dir, store) = open();
    store.save(&network("a")).unwrap();
    store.save_active(&network("a"), &1).unwrap();
    for path in ["etc", "etc/networks", "etc/autostart", "run/networks"] {
        assert_eq!(mode(&dir.path().join(path)), 0o700, "{path}");
    }
    for path in [
        "etc/networks/a.xml",
        "run/networks/a.xml",
        "run/networks/a.json",
    ] {
        assert_eq!(mode(&dir.path().join(path)), 0o600, "{path}");
    }
}

#[test]
fn file_says_how_to_change_it() {
    let (dir, store) = open();
    store.save(&network("a")).unwrap();
    let text = fs::read_to_string(dir.path().join("etc/networks/a.xml")).unwrap();
    assert!(
        text.starts_with("<!--") && text.contains("net-edit"),
        "{text}"
    );
    assert!(model::parse(&text).is_ok());
}

#[test]
fn autostart_is_a_relative_link() {
    let (dir, store) = open();
    store.save(&network("a")).unwrap();
    assert!(!store.load().0[0].autostart);
    store.set_autostart("a", true).unwrap();
    store.set_autostart("a", true).unwrap();
    assert!(store.load().0[0].autostart);
    let link = dir.path().join("etc/autostart/a.xml");
    assert_eq!(link.read_link().unwrap(), Path::new("../networks/a.xml"));
    assert!(link.is_file());

    store.set_autostart("a", false).unwrap();
    store.set_autostart("a", false).unwrap();
    assert!(!store.load().0[0].autostart);

    store.set_autostart("a", true).unwrap();
    store.remove("a").unwrap();
    assert!(link.symlink_metadata().is_err());
    assert!(store.load().1.is_empty());
}

#[test]
fn autostart_needs_a_definition() {
    let (dir, store) = open();
    let error = store.set_autostart("ghost", true).unwrap_err().to_string();
    assert!(error.contains("networks/ghost.xml"), "{error}");

    std::os::unix::fs::symlink(
        "../networks/gone.xml",
        dir.path().join("etc/autostart/gone.xml"),
    )
    .unwrap();
    let (_, errors) = store.load();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].to_string().contains("autostart/gone.xml"));
}

#[test]
fn bad_files_are_reported_and_kept() {
    let (dir, store) = open();
    store.save(&network("good")).unwrap();
    let networks = dir.path().join("etc/networks");
    let big = vec![b' '; MAX_FILE as usize + 1];
    let cases: [(&str, &[u8], &str); 5] = [
        ("broken", b"<network>", "broken.xml"),
        ("other", b"<network><name>name</name></network>", "'name'"),
        ("binary", b"\xff\xfe", "UTF-8"),
        ("big", &big, "larger"),
        ("empty", b"", "empty.xml"),
    ];
    for (name, content, _) in cases {
        fs::write(networks.join(format!("{name}.xml")), content).unwrap();
    }
    fs::create_dir(networks.join("dir.xml")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        networks.join("pipe.xml"),
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    fs::write(networks.join("README"), "not a network").unwrap();

    let (stored, errors) = store.load();
    assert_eq!(stored.len(), 1);
    assert_eq!(errors.len(), cases.len() + 2, "{errors:?}");
    for (name, content, expected) in cases {
        let path = networks.join(format!("{name}.xml"));
        let error = errors.iter().find(|e| e.path == path).unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read(path).unwrap(), content, "{name} was changed");
    }
}

#[test]
fn names_cannot_lead_elsewhere() {
    let (_dir, store) = open();
    let long = "n".repeat(201);
    for name in ["", ".", "..", "../x", "a/b", "a\nb", "a\0b", &long] {
        assert!(store.save(&network(name)).is_err(), "{name:?}");
        assert!(store.remove(name).is_err(), "{name:?}");
        assert!(store.set_autostart(name, true).is_err(), "{name:?}");
        assert!(store.set_autostart(name, false).is_err(), "{name:?}");
        assert!(store.save_active(&network(name), &()).is_err(), "{name:?}");
        assert!(store.remove_active(name).is_err(), "{name:?}");
    }
    assert!(store.save(&network(&"n".repeat(200))).is_ok());
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let (_dir, store) = open();
    store.save(&network("a")).unwrap();
    let huge = Network {
        description: Some("x".repeat(MAX_FILE as usize)),
        ..network("a")
    };
    assert!(matches!(
        store.save(&huge).unwrap_err().reason,
        Reason::TooLarge(_)
    ));
    assert_eq!(store.load().0[0].network, network("a"));
}

#[test]
fn opening_clears_unfinished_writes_only() {
    let (dir, store) = open();
    store.save(&network("a")).unwrap();
    let left = dir.path().join("etc/networks/.new-abc.tmp");
    fs::write(&left, "half").unwrap();
    let store = Store::open(&Paths::below(dir.path())).unwrap();
    assert!(!left.exists());
    assert_eq!(names(&store), ["a"]);
    drop(store);
}

#[test]
fn active_records() {
    let (dir, store) = open();
    let data = vec![("bridge".to_owned(), 3_u32)];
    store.save_active(&network("a"), &data).unwrap();
    store.save_active(&network("b"), &data).unwrap();
    let (records, errors) = store.load_active::<Vec<(String, u32)>>();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].network, network("a"));
    assert_eq!(records[0].data, data);

    fs::write(dir.path().join("run/networks/a.json"), "{").unwrap();
    fs::remove_file(dir.path().join("run/networks/b.json")).unwrap();
    let (records, errors) = store.load_active::<Vec<(String, u32)>>();
    // The network runs, and must not go unguarded for want of its data.
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.data.is_empty()));
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().contains("a.json"), "{}", errors[0]);

    store.remove_active("a").unwrap();
    store.remove_active("a").unwrap();
    store.remove_active("b").unwrap();
    assert_eq!(
        fs::read_dir(dir.path().join("run/networks"))
            .unwrap()
            .count(),
        0
    );
}

/// Set for the copy of the test binary that runs in a mount namespace of its own.
const FULL_DISK_DIR: &str = "NETD_TEST_FULL_DISK";

/// Runs [`full_disk_keeps_the_last_good_file_inside`] where a small file system can be mounted
/// without anybody else seeing it.
#[test]
fn full_disk_keeps_the_last_good_file() {
    let dir = tempfile::tempdir().unwrap();
    let probe = Command::new("unshare").args(["-m", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        // Written past the test harness, which would keep it to itself.
        writeln!(
            io::stderr(),
            "SKIPPED: no mount namespace here (root is needed), the full disk is not tested"
        )
        .unwrap();
        return;
    }
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec"])
        .arg(r#"mount -t tmpfs -o size=128k tmpfs "$0"; exec "$@""#)
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("store::tests::full_disk_keeps_the_last_good_file_inside")
        .env(FULL_DISK_DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "run by full_disk_keeps_the_last_good_file in a namespace with a small file system"]
fn full_disk_keeps_the_last_good_file_inside() {
    let Some(dir) = std::env::var_os(FULL_DISK_DIR).map(PathBuf::from) else {
        return;
    };
    let store = Store::open(&Paths::below(&dir)).unwrap();
    store.save(&network("a")).unwrap();
    store.save_active(&network("a"), &"data").unwrap();

    // Fill the disk to the last byte, so that not even a small file fits.
    let mut filler = fs::File::create(dir.join("filler")).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}

    let large = Network {
        description: Some("x".repeat(100_000)),
        ..network("a")
    };
    for _ in 0..2 {
        let error = store.save(&large).unwrap_err();
        let Reason::Io(io) = &error.reason else {
            panic!("{error}")
        };
        assert_eq!(io.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().contains("networks/a.xml"), "{error}");
    }
    assert!(
        store
            .save_active(&network("a"), &"x".repeat(100_000))
            .is_err()
    );

    let (stored, errors) = store.load();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(stored[0].network, network("a"));
    assert_eq!(store.load_active::<String>().0[0].data, "data");
    assert_eq!(
        fs::read_dir(dir.join("etc/networks")).unwrap().count(),
        1,
        "a leftover"
    );

    // Space comes back: so does writing.
    drop(filler);
    fs::remove_file(dir.join("filler")).unwrap();
    store.save(&large).unwrap();
    assert_eq!(store.load().0[0].network, large);
}
