//! How libvirtd comes to load netd's network driver in place of its own: a folder of links to libvirt's
//! drivers and netd's, and a line in the file that the daemon's environment is read from.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::places::Places;
use super::step::Module;
use crate::store::file::{self, Lasting};

/// The network driver's file, in either folder.
pub const DRIVER: &str = "libvirt_driver_network.so";

/// The variable that names the folder of drivers.
const VARIABLE: &str = "LIBVIRT_DRIVER_DIR";

/// Where the driver may be installed.
const INSTALLED: [&str; 2] = ["/usr/lib/netd", "/usr/local/lib/netd"];

/// Where everything of it is on this host.
///
/// # Errors
/// netd's driver or libvirt's folder is not there.
pub fn find(places: &Places, state_dir: &Path, given: Option<&Path>) -> Result<Module> {
    let file = match given {
        Some(path) => path.to_owned(),
        None => {
            let places = INSTALLED.map(|dir| Path::new(dir).join(DRIVER));
            let found = places.iter().find(|path| path.is_file()).cloned();
            found.with_context(|| {
                format!(
                    "netd's driver for libvirtd is not installed as {}; give its path with --module",
                    places[0].display()
                )
            })?
        }
    };
    if !file.is_file() {
        bail!("{} is no file", file.display());
    }
    let stock = places
        .libraries()
        .into_iter()
        .map(|dir| dir.join("libvirt/connection-driver"))
        .find(|dir| dir.is_dir())
        .context("libvirtd's folder of drivers (libvirt/connection-driver) is not there")?;
    let [debian, others] = places.defaults("libvirtd");
    let is_debian = debian.parent().is_some_and(Path::is_dir);
    Ok(Module {
        defaults: if is_debian { debian } else { others },
        folder: std::path::absolute(state_dir.join("libvirt/drivers"))?,
        stock,
        file: std::path::absolute(file)?,
    })
}

/// Have libvirtd load netd's driver at its next start.
///
/// # Errors
/// The folder or the line cannot be written.
pub fn set_up(module: &Module) -> Result<()> {
    make_folder(module)?;
    let text = read(&module.defaults)?;
    if let Some(other) = setting(&text).filter(|dir| Path::new(dir) != module.folder) {
        bail!(
            "{} sets {VARIABLE} to {other} already; remove that line if it is not needed",
            module.defaults.display()
        );
    }
    write(&module.defaults, &with_line(&text, &module.folder))
}

/// Have libvirtd load its own driver at its next start.
///
/// # Errors
/// The line or the folder cannot be removed.
pub fn remove(module: &Module) -> Result<()> {
    let text = read(&module.defaults)?;
    if setting(&text).is_some_and(|dir| Path::new(dir) == module.folder) {
        write(&module.defaults, &without_line(&text))?;
    }
    match fs::remove_dir_all(&module.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", module.folder.display()))
        }
        _ => Ok(()),
    }
}

/// Is libvirtd to load netd's driver?
#[must_use]
pub fn is_set_up(module: &Module) -> bool {
    let text = read(&module.defaults).unwrap_or_default();
    setting(&text).is_some_and(|dir| Path::new(dir) == module.folder)
}

/// The folder that libvirtd is to load its drivers from, where a file says one, and that file.
#[must_use]
pub fn configured(places: &Places) -> Option<(String, PathBuf)> {
    places.defaults("libvirtd").into_iter().find_map(|path| {
        let text = read(&path).ok()?;
        Some((setting(&text)?.to_owned(), path))
    })
}

/// Links to all of libvirt's drivers but the one for networks, and to netd's.
fn make_folder(module: &Module) -> Result<()> {
    let failed = || format!("cannot make {}", module.folder.display());
    let parent = module.folder.parent().with_context(failed)?;
    let new = tempfile::Builder::new()
        .prefix(".new-")
        .suffix(".tmp")
        .tempdir_in(parent)
        .with_context(failed)?;
    for entry in fs::read_dir(&module.stock).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if let Some(name) = path.file_name().filter(|name| *name != DRIVER) {
            symlink(&path, new.path().join(name)).with_context(failed)?;
        }
    }
    symlink(&module.file, new.path().join(DRIVER)).with_context(failed)?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755)).with_context(failed)?;
    // A folder cannot replace one that holds something.
    match fs::remove_dir_all(&module.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    fs::rename(new.keep(), &module.folder).with_context(failed)
}

fn read(path: &Path) -> Result<String> {
    match path.exists() {
        true => Ok(file::read(path)?),
        false => Ok(String::new()),
    }
}

/// Replace a file of settings, which stays open to all readers; one without content goes.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if text.is_empty() {
        return Ok(file::remove(path, Lasting::Always)?);
    }
    file::write(path, text.as_bytes(), Lasting::Always)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("cannot change the mode of {}", path.display()))
}

const COMMENT: &str =
    "# libvirtd's networks are netd's; `netd libvirt release` removes this line.\n";

/// The folder that is set, by the last line that sets one.
fn setting(text: &str) -> Option<&str> {
    let prefix = |line: &str| line.trim_start().starts_with(VARIABLE);
    let line = text.lines().rfind(|line| prefix(line))?;
    let value = line.split_once('=')?.1;
    Some(value.trim().trim_matches(['"', '\'']))
}

fn with_line(text: &str, folder: &Path) -> String {
    let mut text = without_line(text);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + COMMENT + &format!("{VARIABLE}={}\n", folder.display())
}

fn without_line(text: &str) -> String {
    let is_own = |line: &str| line.trim_start().starts_with(VARIABLE) || line == COMMENT;
    text.split_inclusive('\n')
        .filter(|line| !is_own(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_comes_and_goes_and_the_rest_stays() {
        let folder = Path::new("/var/lib/netd/libvirt/drivers");
        for text in ["", "# a comment\nLIBVIRTD_ARGS=\"-l\"\n"] {
            let with = with_line(text, folder);
            assert_eq!(setting(&with), folder.to_str());
            assert_eq!(with_line(&with, folder), with);
            assert_eq!(without_line(&with), text);
        }
        assert_eq!(setting("#LIBVIRT_DRIVER_DIR=/x\n"), None);
        assert_eq!(setting("LIBVIRT_DRIVER_DIR=\"/x\"\n"), Some("/x"));
        assert_eq!(with_line("A=1", folder).lines().next(), Some("A=1"));
    }

    #[test]
    fn a_folder_of_links_takes_the_place_of_libvirts() {
        let dir = tempfile::tempdir().unwrap();
        let stock = dir.path().join("stock");
        fs::create_dir(&stock).unwrap();
        for name in ["libvirt_driver_qemu.so", DRIVER] {
            fs::write(stock.join(name), name).unwrap();
        }
        let module = Module {
            defaults: dir.path().join("libvirtd"),
            folder: dir.path().join("drivers"),
            stock,
            file: dir.path().join("netd.so"),
        };
        fs::write(&module.file, "netd's").unwrap();
        for _ in 0..2 {
            set_up(&module).unwrap();
            let text = |name: &str| fs::read_to_string(module.folder.join(name)).unwrap();
            assert_eq!(text(DRIVER), "netd's");
            assert_eq!(text("libvirt_driver_qemu.so"), "libvirt_driver_qemu.so");
            assert!(is_set_up(&module));
        }
        remove(&module).unwrap();
        assert!(!module.folder.exists() && !module.defaults.exists());
        assert!(!is_set_up(&module));
        fs::write(&module.defaults, "LIBVIRT_DRIVER_DIR=/elsewhere\n").unwrap();
        let error = set_up(&module).unwrap_err();
        assert!(error.to_string().contains("/elsewhere"), "{error:#}");
        remove(&module).unwrap();
        assert!(module.defaults.exists(), "somebody else's setting went");
    }
}
