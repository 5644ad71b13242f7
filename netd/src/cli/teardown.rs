//! `netd teardown`: what it removed, and what is left.

use std::io;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::args::TeardownArgs;
use crate::paths::Paths;
use crate::store::Store;

/// Removes everything, prints what that was, and deletes what an administrator keeps, too, if
/// asked to.
///
/// # Errors
/// An agent is running, or something could not be removed.
pub(super) async fn teardown(args: TeardownArgs) -> anyhow::Result<()> {
    let paths = args.paths;
    let networks = running(&paths)?;
    crate::agent::teardown(paths.clone()).await?;
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
        for path in &kept {
            remove(path)?;
            println!("Deleted {path}.");
        }
    } else if !kept.is_empty() {
        println!("Kept (--purge deletes them): {}", kept.join(" "));
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
        paths.dnsmasq_dir(),
    ];
    let there = candidates.iter().filter(|path| path.exists());
    there.map(|path| path.display().to_string()).collect()
}

fn remove(path: &str) -> anyhow::Result<()> {
    let path = Path::new(path);
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
        let paths = Paths {
            config_dir: dir.path().join("etc"),
            state_dir: dir.path().join("lib"),
            run_dir: dir.path().join("run"),
            bpffs: dir.path().join("bpf"),
        };
        assert!(kept(&paths).is_empty());
        std::fs::create_dir_all(paths.networks_dir()).unwrap();
        std::fs::write(paths.networks_dir().join("a.xml"), "x").unwrap();
        std::fs::write(paths.config_file(), "").unwrap();
        let foreign = paths.config_dir.join("notes");
        std::fs::write(&foreign, "").unwrap();
        let kept_paths = kept(&paths);
        assert_eq!(kept_paths.len(), 2, "{kept_paths:?}");
        for path in &kept_paths {
            remove(path).unwrap();
        }
        assert!(foreign.exists() && kept(&paths).is_empty());
    }
}
