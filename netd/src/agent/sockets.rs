//! The sockets that the agent serves: its own, those of libvirt's network daemon, and those that a
//! service manager listens on for it.
//!
//! libvirt's admin socket is not among them: without it `virt-admin` says that it is not there, which is
//! true; with it, that every call is unknown.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use nix::unistd::Group;
use tokio::sync::watch;

use crate::api::{self, ApiError, ErrorCode};
use crate::config::{self, Sockets};
use crate::rpc;
use crate::rpc::Door;
use crate::rpc::access::{Access, Others};
use crate::rpc::socket::SocketFile;
use crate::store::file::{self, Lasting};

/// Name of the agent's own socket.
const OWN: &str = "netd-sock";
/// Name of libvirt's socket.
const LIBVIRT: &str = "virtnetworkd-sock";
/// Name of libvirt's socket for those who only look.
const LIBVIRT_RO: &str = "virtnetworkd-sock-ro";

/// Where the system bus is, unless the environment says otherwise.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Opens those that it has as long as it runs; `inherited` are the service manager's, by name, and `own`
/// is the path of the agent's own. The second is `true` where libvirt's are among them.
///
/// # Errors
/// The agent's own socket cannot be opened.
pub(super) fn open(
    settings: &Sockets,
    inherited: Vec<(String, OwnedFd)>,
    own: &Path,
) -> anyhow::Result<(Vec<Door>, bool)> {
    let access = |read_only| access(settings, read_only);
    let mut doors = Vec::new();
    let mut has = [false; 3];
    for (name, socket) in inherited {
        let (number, access) = match name.as_str() {
            OWN => (0, Access::ROOT),
            LIBVIRT => (1, access(false)),
            LIBVIRT_RO => (2, access(true)),
            _ => {
                tracing::error!(
                    name,
                    "the service manager listens on a socket that netd does not know; \
                     FileDescriptorName= is one of {OWN}, {LIBVIRT}, {LIBVIRT_RO}"
                );
                continue;
            }
        };
        doors.push(take(socket, access, &name)?);
        has[number] = true;
    }
    let [has_own, has_rw, has_ro] = has;
    if !has_own {
        doors.push(rpc::bind(own, Access::ROOT)?);
    }
    let inherits = has_rw || has_ro;
    if settings.libvirt && !inherits {
        match bind_libvirts(settings) {
            Ok(pair) => doors.extend(pair),
            Err(error) => tell(&error),
        }
    }
    Ok((doors, inherits || settings.libvirt))
}

/// The networks come first: they do not wait for libvirt's clients.
fn tell(error: &io::Error) {
    tracing::error!(
        %error,
        "libvirt's clients cannot reach netd; stop and mask libvirt's network daemon \
         (virtnetworkd and its sockets), then restart netd"
    );
}

/// libvirt's sockets as a switch from libvirt has them served (`netd libvirt adopt`), beyond what
/// `netd.toml` and the service manager say.
pub(super) struct Adopted {
    settings: Sockets,
    /// They are served anyway.
    anyway: bool,
    /// There where an agent that starts is to serve them.
    mark: PathBuf,
    doors: watch::Sender<Arc<Vec<Door>>>,
    files: Vec<SocketFile>,
}

impl Adopted {
    /// They are served if the mark in the state directory says so.
    pub(super) fn new(settings: &Sockets, anyway: bool, state_dir: &Path) -> Self {
        let mut adopted = Self {
            settings: settings.clone(),
            anyway,
            mark: state_dir.join("libvirt/serves"),
            doors: watch::channel(Arc::default()).0,
            files: Vec::new(),
        };
        if !anyway
            && adopted.mark.exists()
            && let Err(error) = adopted.bind()
        {
            tell(&error);
        }
        adopted
    }

    /// The doors, for the server.
    pub(super) fn doors(&self) -> rpc::MoreDoors {
        self.doors.subscribe()
    }

    /// Serve them from now on, or no longer; the next agent does the same.
    pub(super) fn serve(&mut self, on: bool) -> api::Result<()> {
        if self.anyway {
            return match on {
                true => Ok(()),
                false => Err(ApiError::new(
                    ErrorCode::OperationInvalid,
                    "netd serves libvirt's sockets because of libvirt = true in netd.toml, or of the unit \
                     netd-libvirt.socket; take that away and restart netd",
                )),
            };
        }
        if on {
            if self.files.is_empty() {
                self.bind().map_err(ApiError::internal)?;
            }
            if let Some(dir) = self.mark.parent() {
                std::fs::create_dir_all(dir).map_err(ApiError::internal)?;
            }
            return Ok(file::write(&self.mark, b"", Lasting::Always)?);
        }
        // The mark first: what is removed twice does no harm.
        file::remove(&self.mark, Lasting::Always)?;
        self.close().map_err(ApiError::internal)
    }

    fn bind(&mut self) -> io::Result<()> {
        let mut doors = bind_libvirts(&self.settings)?;
        let files = doors.iter_mut().filter_map(|door| door.file.take());
        self.files = files.collect();
        // The server may have ended.
        self.doors.send_replace(Arc::new(doors.into()));
        Ok(())
    }

    /// Close them, and remove their files.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.doors.send_replace(Arc::default());
        let removed = self.files.drain(..).map(|file| file.remove());
        removed.fold(Ok(()), Result::and)
    }
}

fn take(socket: OwnedFd, access: Access, name: &str) -> anyhow::Result<Door> {
    let door = rpc::socket::inherited(socket, access)
        .with_context(|| format!("cannot serve the service manager's socket {name}"))?;
    tracing::info!(name, ?access, "serving a socket of the service manager");
    Ok(door)
}

/// Both of libvirt's sockets, or none.
fn bind_libvirts(settings: &Sockets) -> io::Result<[Door; 2]> {
    let rw = rpc::bind(&settings.directory.join(LIBVIRT), access(settings, false))?;
    let ro = rpc::bind(&settings.directory.join(LIBVIRT_RO), access(settings, true));
    if ro.is_err()
        && let Some(file) = &rw.file
    {
        file.remove()?;
    }
    let ro = ro?;
    tracing::info!(directory = %settings.directory.display(), access = ?rw.access, "serving libvirt's sockets");
    Ok([rw, ro])
}

/// The rule of one of libvirt's sockets.
fn access(settings: &Sockets, read_only: bool) -> Access {
    let group = match settings.group.as_str() {
        "" => None,
        name => group(name),
    };
    let others = match settings.others {
        config::Others::Polkit => Others::Polkit,
        config::Others::Read => Others::Read,
        config::Others::Nothing => Others::Nothing,
        config::Others::Auto if group.is_none() && has_bus() => Others::Polkit,
        config::Others::Auto => Others::Read,
    };
    Access {
        read_only,
        group,
        others,
    }
}

fn group(name: &str) -> Option<u32> {
    match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        Ok(None) => {
            tracing::debug!(name, "there is no such group");
            None
        }
        Err(error) => {
            tracing::warn!(name, %error, "cannot look up the group; only root may change networks");
            None
        }
    }
}

fn has_bus() -> bool {
    std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some() || Path::new(SYSTEM_BUS).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_do_follows_from_the_settings() {
        let of = |text: &str, read_only| {
            let config = config::Config::parse(text, Path::new("netd.toml")).unwrap();
            access(&config.sockets, read_only)
        };
        // Every system has this one.
        let root = of("[sockets]\ngroup = 'root'", false);
        assert_eq!((root.group, root.others), (Some(0), Others::Read));
        let none = of("[sockets]\ngroup = ''\nothers = 'nothing'", true);
        assert_eq!(
            (none.group, none.others, none.read_only),
            (None, Others::Nothing, true)
        );
        let missing = of(
            "[sockets]\ngroup = 'no such group'\nothers = 'polkit'",
            false,
        );
        assert_eq!((missing.group, missing.others), (None, Others::Polkit));
    }

    #[tokio::test]
    async fn libvirts_sockets_are_both_served_or_none_is() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Sockets {
            directory: dir.path().to_owned(),
            group: String::new(),
            others: config::Others::Read,
            ..Sockets::default()
        };
        let other = std::os::unix::net::UnixListener::bind(dir.path().join(LIBVIRT_RO)).unwrap();
        let error = bind_libvirts(&settings).unwrap_err();
        assert!(error.to_string().contains(LIBVIRT_RO), "{error}");
        assert!(!dir.path().join(LIBVIRT).exists());
        drop(other);
        let doors = bind_libvirts(&settings).unwrap();
        assert_eq!(
            doors.each_ref().map(|door| door.access.read_only),
            [false, true]
        );
    }
}
