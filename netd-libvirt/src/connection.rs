//! One connection to netd, by libvirt's own client.

use std::ffi::{CStr, CString, c_int, c_uint};

use crate::abi::Conn;
use crate::error::{Error, checked};
use crate::identity::Identity;
use crate::libvirt::Libvirt;

/// Seconds of silence after which netd is asked whether it is alive.
const KEEP_ALIVE: c_int = 5;
/// How often it may leave that unanswered; then the connection is closed, and calls on it fail.
const UNANSWERED: c_uint = 3;

/// A connection, closed in the end.
pub struct Connection {
    conn: Conn,
    libvirt: &'static Libvirt,
    /// Whose it is; none where it is libvirtd's own.
    identity: Option<Identity>,
}

// SAFETY: libvirt's connections may be used by any thread, by several at a time.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Opens one. It may take for ever where netd takes the connection and says nothing.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(libvirt: &'static Libvirt, uri: &CStr) -> Result<Self, Error> {
        let conn = checked(libvirt, libvirt.connect_open(uri.as_ptr()))?;
        let connection = Self {
            conn: conn.ok_or_else(|| Error::last(libvirt))?,
            libvirt,
            identity: None,
        };
        let conn = connection.conn;
        checked(
            libvirt,
            libvirt.connect_set_keep_alive(conn, KEEP_ALIVE, UNANSWERED),
        )?;
        Ok(connection)
    }

    /// libvirt's own handle, valid as long as this.
    pub const fn conn(&self) -> Conn {
        self.conn
    }

    /// Can netd be called by it still?
    pub fn is_alive(&self) -> bool {
        self.libvirt.connect_is_alive(self.conn) == 1
    }

    /// Could it be used for somebody without asking netd again?
    pub fn serves(&self, identity: Option<&Identity>) -> bool {
        self.identity.as_ref() == identity
    }

    /// Could it be told that it is somebody's? One that was somebody's never is libvirtd's own again.
    pub const fn may_serve(&self, identity: Option<&Identity>) -> bool {
        identity.is_some() || self.identity.is_none()
    }

    /// Tells netd whose it is from now on.
    ///
    /// # Errors
    /// netd's.
    pub fn serve(&mut self, identity: Option<&Identity>) -> Result<(), Error> {
        if self.serves(identity) {
            return Ok(());
        }
        let Some(identity) = identity else {
            return Err(Error::internal("a connection cannot lose its identity"));
        };
        let parameters = identity.parameters();
        let count = c_int::try_from(parameters.len()).unwrap_or(0);
        let told = self
            .libvirt
            .connect_set_identity(self.conn, parameters.as_ptr(), count, 0);
        checked(self.libvirt, told)?;
        self.identity = Some(identity.clone());
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.libvirt.connect_close(self.conn);
    }
}

/// The URI that has libvirt's client go to a socket, inside a daemon as well.
pub fn uri(socket: &str) -> CString {
    let mut uri = String::from("network+unix:///system?socket=");
    for byte in socket.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                uri.push(byte.into());
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    CString::new(uri).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(
            uri("/run/a b&c?/sock%").to_str(),
            Ok("network+unix:///system?socket=/run/a%20b%26c%3F/sock%25")
        );
    }
}
