//! `netd teardown`: what it removed, and what is left.

use std::io;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::args::TeardownArgs;
use crate::dnsmasq::nss;
use crate::libvirt::units::VIRTNETWORKD;
use crate::libvirt::{Places, journal, module};
use crate::paths::Paths;
use crate::store::Store;

/// Removes everything, prints what that was, and deletes what an administrator keeps, too, if
/// asked to.
///
/// # Errors
/// An agent is running, or something could not be removed.
pub(super) async fn teardown(args: TeardownArgs) -> anyhow::Result<()> {
    let paths = args.paths;
    anyhow::ensure!(
        !(args.purge && journal::is_interrupted(&paths.state_dir)),
        "a switch from libvirt's network driver, or back to it, was interrupted; nothing was removed: \
         systemctl start netd, then `netd libvirt release` takes back what it had begun"
    );
    let networks = running(&paths)?;
    let _locks = crate::agent::teardown(paths.clone()).await?;
    if networks.is_empty() {
        println!("No network was running. Programs and maps were removed.");
    } else {
        println!(
            "Stopped {}; their bridges, dnsmasq processes, programs and maps were removed.",
            networks.join(", ")
        );
        println!("Guests are no longer connected: add their interfaces to the bridge again later.");
    }
    let kept = kept(&paths);
    if args.purge {
        purge(&paths, &kept)?;
    } else if !kept.is_empty() {
        println!("Kept (--purge deletes them): {}", kept.join(" "));
    }
    Ok(())
}

/// What an administrator keeps goes, and what a switch from libvirt left behind on its side.
fn purge(paths: &Paths, kept: &[String]) -> anyhow::Result<()> {
    let defaults = module::forget(&Places::default(), &paths.state_dir)?;
    let serves = paths.libvirt_dir().join("serves").exists();
    let names = nss::forget_all(&paths.dnsmasq_dir());
    names.context("cannot remove what libvirt's NSS modules read of guests")?;
    for path in kept {
        remove(Path::new(path))?;
        println!("Deleted {path}.");
    }
    remove(&paths.lock_dir())?;
    for dir in [&paths.config_dir, &paths.state_dir, &paths.run_dir] {
        // Where others keep something there as well, it stays.
        if std::fs::remove_dir(dir).is_ok() {
            println!("Deleted {}.", dir.display());
        }
    }
    if let Some(defaults) = defaults {
        println!(
            "libvirtd has its own network driver again ({}) from its next start on: \
             systemctl restart libvirtd",
            defaults.display()
        );
    }
    if serves {
        println!(
            "virtnetworkd is masked since `netd libvirt adopt`: systemctl unmask {0}; \
             systemctl start {1}",
            VIRTNETWORKD.join(" "),
            VIRTNETWORKD[0]
        );
    }
    Ok(())
}

/// Names of the networks that records tell of.
fn running(paths: &Paths) -> anyhow::Result<Vec<String>> {
    if !paths.run_dir.exists() {
        return Ok(Vec::new());
    }
    // A record that cannot be read is reported by the teardown itself.
    let (records, _) = Store::open(paths)?.load_active::<serde_json::Value>();
    Ok(records.into_iter().map(|r| r.network.name).collect())
}

/// What belongs to the administrator and exists. Other files in the directories are not netd's.
fn kept(paths: &Paths) -> Vec<String> {
    let candidates = [
        paths.networks_dir(),
        paths.autostart_dir(),
        paths.config_file(),
        paths.config_drop_ins(),
        paths.dnsmasq_dir(),
        paths.bans_file(),
        paths.identity_file(),
        paths.libvirt_dir(),
    ];
    let there = candidates.iter().filter(|path| path.exists());
    there.map(|path| path.display().to_string()).collect()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_netds_is_purged() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert!(kept(&paths).is_empty());
        std::fs::create_dir_all(paths.networks_dir()).unwrap();
        std::fs::write(paths.networks_dir().join("a.xml"), "x").unwrap();
        std::fs::write(paths.config_file(), "").unwrap();
        let foreign = paths.config_dir.join("notes");
        std::fs::write(&foreign, "").unwrap();
        let kept_paths = kept(&paths);
        assert_eq!(kept_paths.len(), 2, "{kept_paths:?}");
        for path in &kept_paths {
            remove(Path::new(path)).unwrap();
        }
        assert!(foreign.exists() && kept(&paths).is_empty());
    }
}
