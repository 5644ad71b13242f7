//! The host's `/etc/resolv.conf`, where it leads nowhere.
//!
//! dnsmasq watches the folder of the file that a link leads to, and ends where there is none: on a host whose
//! `systemd-resolved` or `resolvconf` does not run yet, or has gone. Guests would have no DHCP for lack of
//! names. So it starts without the host's name servers there, and is replaced once the folder exists; whether
//! the file does is nothing to it.

use std::fs;
use std::path::{Path, PathBuf};

/// What dnsmasq reads where its configuration names no other file.
const FILE: &str = "/etc/resolv.conf";

/// As many links dnsmasq follows (MAXSYMLINKS).
const MAX_LINKS: usize = 20;

/// What a configuration ends with that does without the host's name servers.
pub(super) const WITHOUT: &str = "## What names the host's name servers leads to a folder that does not exist.\n\
                                  no-resolv\n";

/// The file of name servers at which dnsmasq would end with this configuration.
pub(super) fn dangling(conf: &str) -> Option<PathBuf> {
    files(conf).into_iter().find(|path| !can_be_watched(path))
}

/// The files of name servers that dnsmasq reads with this configuration.
fn files(conf: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in conf.lines() {
        let (option, value) = line.split_once('=').unwrap_or((line, ""));
        match (option.trim(), value.trim()) {
            ("no-resolv", _) | ("port", "0") => return Vec::new(),
            ("resolv-file", file) => files.push(PathBuf::from(file)),
            _ => {}
        }
    }
    if files.is_empty() {
        files.push(PathBuf::from(FILE));
    }
    files
}

/// Is there a folder where the file is, or would be?
fn can_be_watched(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Some(folder) = path.parent().map(Path::to_owned) else {
            return false;
        };
        match fs::read_link(&path) {
            // An absolute one takes the place of the folder.
            Ok(target) => path = folder.join(target),
            Err(_) => return folder.is_dir(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_counts_is_the_folder_that_the_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(can_be_watched(&at("none")), "its folder is there");
        assert!(!can_be_watched(&at("no/folder")));
        symlink("run/resolv.conf", at("relative")).unwrap();
        symlink(at("relative"), at("two")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        for name in ["relative", "two", "loop"] {
            assert!(!can_be_watched(&at(name)), "{name}");
        }
        fs::create_dir(at("run")).unwrap();
        assert!(can_be_watched(&at("relative")) && can_be_watched(&at("two")));
        assert!(!can_be_watched(&at("loop")));
        fs::remove_dir(at("run")).unwrap();
        fs::write(at("run"), "").unwrap();
        assert!(!can_be_watched(&at("two")), "a file is no folder");
    }

    #[test]
    fn only_files_that_are_read_count() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            files("strict-order\ninterface=br0\nport=53\n"),
            paths(&[FILE])
        );
        assert_eq!(
            files("resolv-file=/x\n resolv-file = /y\n"),
            paths(&["/x", "/y"])
        );
        for conf in [
            "a\nno-resolv\nb",
            "resolv-file=/x\nno-resolv",
            "port=0\n",
            " port = 0",
        ] {
            assert_eq!(files(conf), paths(&[]), "{conf}");
        }
        assert_eq!(
            dangling("resolv-file=/no/such/folder/x"),
            Some("/no/such/folder/x".into())
        );
        assert_eq!(
            dangling(&format!("resolv-file=/no/such/folder/x\n{WITHOUT}")),
            None
        );
    }
}
