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
    let stock = stock(places)?;
    let [debian, others] = places.defaults("libvirtd");
    let is_debian = debian.parent().is_some_and(Path::is_dir);
    Ok(Module {
        defaults: if is_debian { debian } else { others },
        folder: folder(state_dir)?,
        stock,
        file: std::path::absolute(file)?,
    })
}

/// libvirt's folder of drivers.
fn stock(places: &Places) -> Result<PathBuf> {
    let mut dirs = places.libraries().into_iter();
    dirs.find_map(|dir| {
        let dir = dir.join("libvirt/connection-driver");
        dir.is_dir().then_some(dir)
    })
    .context("libvirtd's folder of drivers (libvirt/connection-driver) is not there")
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
    remove_folder(&module.defaults, &module.folder).map(drop)
}

/// The same for whatever of this host's is set up with a folder below the agent's state directory; returns
/// the file that told libvirtd of it, where one did.
///
/// # Errors
/// As [`remove`].
pub fn forget(places: &Places, state_dir: &Path) -> Result<Option<PathBuf>> {
    let folder = folder(state_dir)?;
    for defaults in places.defaults("libvirtd") {
        if remove_folder(&defaults, &folder)? {
            return Ok(Some(defaults));
        }
    }
    Ok(None)
}

/// Have libvirtd load the drivers that its packages have now: one may have been installed or removed since
/// the switch. Nothing is done on a host that was not switched.
///
/// # Errors
/// A folder cannot be read, or a link in the agent's cannot be made or removed.
pub fn refresh(places: &Places, state_dir: &Path) -> Result<()> {
    let folder = folder(state_dir)?;
    if !folder.is_dir() {
        return Ok(());
    }
    let failed = || format!("cannot renew {}", folder.display());
    let stock = stock(places)?;
    for entry in fs::read_dir(&folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.file_name() != DRIVER && !entry.path().exists() {
            fs::remove_file(entry.path()).with_context(failed)?;
        }
    }
    for entry in fs::read_dir(&stock).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name();
        let link = folder.join(&name);
        if name != DRIVER && link.symlink_metadata().is_err() {
            symlink(stock.join(&name), link).with_context(failed)?;
        }
    }
    Ok(())
}

fn folder(state_dir: &Path) -> io::Result<PathBuf> {
    std::path::absolute(state_dir.join("libvirt/drivers"))
}

/// The line first: a folder that libvirtd is told to load from has to be there. Tells whether it was told.
fn remove_folder(defaults: &Path, folder: &Path) -> Result<bool> {
    let text = read(defaults)?;
    let told = setting(&text).is_some_and(|dir| Path::new(dir) == folder);
    if told {
        write(defaults, &without_line(&text))?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(told),
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
    file::remove_leftovers(parent)?;
    let new = file::unfinished().tempdir_in(parent).with_context(failed)?;
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

    #[test]
    fn drivers_come_and_go_with_libvirts_packages() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let stock = dir.path().join("usr/lib/libvirt/connection-driver");
        fs::create_dir_all(&stock).unwrap();
        let (old, new) = ("libvirt_driver_interface.so", "libvirt_driver_lxc.so");
        fs::write(stock.join(old), "").unwrap();
        fs::write(stock.join(DRIVER), "libvirt's").unwrap();
        let state = dir.path().join("state");
        refresh(&places, &state).unwrap();
        assert!(!state.exists(), "this host was not switched");
        let folder = folder(&state).unwrap();
        fs::create_dir_all(&folder).unwrap();
        // netd's own is away while its package is replaced.
        symlink("/away", folder.join(DRIVER)).unwrap();
        refresh(&places, &state).unwrap();
        fs::remove_file(stock.join(old)).unwrap();
        fs::write(stock.join(new), "").unwrap();
        refresh(&places, &state).unwrap();
        let mut links: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        links.sort();
        assert_eq!(links, [new, DRIVER]);
        let target = |name: &str| fs::read_link(folder.join(name)).unwrap();
        assert_eq!(target(new), stock.join(new));
        assert_eq!(target(DRIVER), Path::new("/away"));
    }

    #[test]
    fn what_is_set_up_is_forgotten_with_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let [_, defaults] = places.defaults("libvirtd");
        let state = dir.path().join("state");
        let folder = folder(&state).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(defaults.parent().unwrap()).unwrap();
        fs::write(&defaults, with_line("A=1\n", &folder)).unwrap();
        let other = dir.path().join("another state");
        assert_eq!(forget(&places, &other).unwrap(), None);
        assert!(folder.exists());
        assert_eq!(forget(&places, &state).unwrap(), Some(defaults.clone()));
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(&defaults).unwrap(), "A=1\n");
        assert_eq!(forget(&places, &state).unwrap(), None);
    }
}
