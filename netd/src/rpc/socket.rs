//! The agent's socket in the file system.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, setfsgid};
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::UnixListener;

use crate::rpc::access::Access;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that is listened on, and who may come in.
#[derive(Debug)]
pub struct Door {
    /// The socket.
    pub listener: UnixListener,
    /// Who may do what over it.
    pub access: Access,
    /// Its file, where it is netd's to remove: a service manager keeps those that it made.
    pub file: Option<SocketFile>,
}

/// The file of a socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    number: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            number: number(path)?,
        })
    }

    /// Removes it, unless somebody else's has taken its place.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match number(&self.path) {
            Ok(number) if number == self.number => std::fs::remove_file(&self.path),
            _ => Ok(()),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn number(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens on `path`, where those may connect whom `access` lets. A socket file nobody answers on any
/// more is replaced; one that is answered, or a file that is no socket, is an error.
///
/// Must be called inside a tokio runtime.
pub fn bind(path: &Path, access: Access) -> io::Result<Door> {
    bind_std(path, access).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", path.display()),
        )
    })
}

fn bind_std(path: &Path, access: Access) -> io::Result<Door> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    // Two agents that start at once must not both find the old file stale and the second remove
    // what the first has just made. The lock ends with this function; from then on the first
    // answers.
    let lock = File::open(directory)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    remove_stale(path)?;

    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The kernel gives the file the mode of the socket, so there is no moment at which the file
    // exists with a wider one, whatever the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match access.group {
        Some(group) => as_group(group, || rustix::net::bind(&socket, &address))?,
        None => rustix::net::bind(&socket, &address)?,
    }
    rustix::fs::chmod(path, access.mode())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Door {
        listener: UnixListener::from_std(socket.into())?,
        access,
        file: Some(SocketFile::new(path)?),
    })
}

/// What is made meanwhile belongs to that group. To give it away afterwards would take a capability that
/// the agent has no other use for (CAP_CHOWN); the thread's group takes CAP_SETGID, as dnsmasq's does.
fn as_group<T>(group: u32, make: impl FnOnce() -> rustix::io::Result<T>) -> io::Result<T> {
    let own = setfsgid(Gid::from_raw(group));
    let made = make();
    // It returns the group as of before, whether it changes it or not.
    let taken = setfsgid(own);
    if taken.as_raw() != group {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the agent may not make files of group {group}"),
        ));
    }
    Ok(made?)
}

/// A socket that a service manager listens on already.
///
/// Must be called inside a tokio runtime.
///
/// # Errors
/// It is none that clients could connect to.
pub fn inherited(socket: OwnedFd, access: Access) -> io::Result<Door> {
    let suits = sockopt::socket_domain(&socket)? == AddressFamily::UNIX
        && sockopt::socket_type(&socket)? == SocketType::STREAM
        && sockopt::socket_acceptconn(&socket)?;
    if !suits {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no stream socket in the file system that is listened on (ListenStream=/…)",
        ));
    }
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    Ok(Door {
        listener: UnixListener::from_std(socket)?,
        access,
        file: None,
    })
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way; move it, or choose another path",
        ));
    }
    // A full backlog answers EAGAIN on a non-blocking socket: somebody listens, if slowly.
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another daemon answers there; stop it, or choose another path",
        )),
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing the socket of a daemon that has stopped");
            std::fs::remove_file(path)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::rpc::access::Others;

    fn bind(path: &Path) -> io::Result<Door> {
        super::bind(path, Access::ROOT)
    }

    #[tokio::test]
    async fn a_socket_has_the_mode_of_its_rule() {
        let dir = tempfile::tempdir().unwrap();
        let gid = rustix::process::getgid().as_raw();
        for (number, others) in [Others::Nothing, Others::Read, Others::Polkit]
            .into_iter()
            .enumerate()
        {
            for (read_only, group) in [(false, None), (true, None), (false, Some(gid))] {
                let access = Access {
                    read_only,
                    group,
                    others,
                };
                let path = dir
                    .path()
                    .join(format!("new/{number}-{read_only}-{group:?}"));
                let _door = super::bind(&path, access).unwrap();
                let metadata = path.metadata().unwrap();
                let mode = metadata.permissions().mode() & 0o777;
                assert_eq!(mode, access.mode().bits(), "{access:?}");
                assert_eq!(metadata.gid(), gid);
            }
        }
    }

    #[tokio::test]
    async fn only_its_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = bind(&path).unwrap();
        first.file.unwrap().remove().unwrap();
        assert!(path.exists(), "it is the second's");
        let file = second.file.unwrap();
        assert_eq!(file.path(), path);
        file.remove().unwrap();
        assert!(!path.exists());
        file.remove().unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_nobody_can_connect_to_is_not_taken() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = inherited(one.into(), Access::ROOT).unwrap_err();
        assert!(error.to_string().contains("ListenStream"), "{error}");
        let udp = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        inherited(udp.into(), Access::ROOT).unwrap_err();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let door = inherited(listener.into(), Access::ROOT).unwrap();
        assert!(door.file.is_none(), "it is not netd's to remove");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
        drop(first);
        assert!(path.exists(), "the file stays behind");
        bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_too_long_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = bind(&dir.path().join("x".repeat(150))).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot listen on "),
            "{error}"
        );
    }
}
