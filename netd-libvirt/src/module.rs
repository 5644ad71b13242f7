//! The module as a whole: what every function of the driver works with, and the border to libvirt.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crate::abi::{Conn, Net, Port, Uuid};
use crate::error::{Error, Returned, checked};
use crate::events::Events;
use crate::identity;
use crate::libvirt::Libvirt;
use crate::memory::{self, Owned};
use crate::pool::Pool;

/// What a call does to netd's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it may be asked again.
    Read,
    /// Something: it must not be asked again where nobody knows whether it was done.
    Write,
}

/// All there is.
pub struct Module {
    /// libvirt's functions.
    pub libvirt: &'static Libvirt,
    /// The way to netd.
    pub pool: Pool,
    /// Who wants to know of changes.
    pub events: Events,
}

/// Set before the driver is registered, so that every function of it finds it.
static MODULE: OnceLock<Module> = OnceLock::new();

/// Sets the one module up; none where there is one.
pub fn set_up(
    libvirt: &'static Libvirt,
    socket: String,
    events: Events,
) -> Option<&'static Module> {
    let pool = Pool::new(libvirt, socket);
    let module = Module {
        libvirt,
        pool,
        events,
    };
    MODULE.set(module).ok()?;
    MODULE.get()
}

/// Runs a function of the driver. What goes wrong becomes libvirt's last error; no panic leaves it.
pub fn answer<T: Returned>(work: impl FnOnce(&'static Module) -> Result<T, Error>) -> T {
    let Some(module) = MODULE.get() else {
        return T::FAILED;
    };
    // What is behind locks is consistent at every point, see `pool` and `events`.
    let result = catch_unwind(AssertUnwindSafe(|| work(module)))
        .unwrap_or_else(|_| Err(Error::internal("netd's module for libvirt has a fault")));
    match result {
        Ok(value) => value,
        Err(error) => {
            error.raise(module.libvirt);
            T::FAILED
        }
    }
}

/// The same for what libvirt does not ask but tells; nobody hears what goes wrong.
pub fn told(work: impl FnOnce(&'static Module)) {
    if let Some(module) = MODULE.get() {
        // The panic's message is on standard error already.
        let _ = catch_unwind(AssertUnwindSafe(|| work(module)));
    }
}

impl Module {
    /// Has netd do something over a connection that belongs to who asks.
    ///
    /// # Errors
    /// netd's, or there is no netd.
    pub fn ask<T>(
        &'static self,
        access: Access,
        work: impl Fn(Conn) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let identity = identity::current(self.libvirt);
        let mut again = access == Access::Read;
        loop {
            let lease = self.pool.take(identity.as_ref())?;
            let error = match work(lease.conn()?) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if lease.is_alive() {
                return Err(error);
            }
            if !again {
                let why = error.message();
                return Err(Error::failed(format!(
                    "the connection to netd was lost; whether this was done is not known: {why}"
                )));
            }
            again = false;
        }
    }

    /// The same with a value of libvirt's that may say that it failed.
    ///
    /// # Errors
    /// As [`Module::ask`].
    pub fn ask_for<T: Returned>(
        &'static self,
        access: Access,
        work: impl Fn(Conn) -> T,
    ) -> Result<T, Error> {
        self.ask(access, |conn| checked(self.libvirt, work(conn)))
    }

    /// Has netd do something with a network of a client.
    ///
    /// # Errors
    /// As [`Module::ask`].
    pub fn with_network<T>(
        &'static self,
        access: Access,
        network: Net,
        work: impl Fn(Net) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let known = self.name_of(network)?;
        self.ask(access, |conn| work(self.network(conn, &known)?.get()))
    }

    /// The same with a value of libvirt's.
    ///
    /// # Errors
    /// As [`Module::ask`].
    pub fn on_network<T: Returned>(
        &'static self,
        access: Access,
        network: Net,
        work: impl Fn(Net) -> T,
    ) -> Result<T, Error> {
        self.with_network(access, network, |net| checked(self.libvirt, work(net)))
    }

    /// Has netd do something with a port of a client.
    ///
    /// # Errors
    /// As [`Module::ask`].
    pub fn on_port<T: Returned>(
        &'static self,
        access: Access,
        port: Port,
        work: impl Fn(Port) -> T,
    ) -> Result<T, Error> {
        let libvirt = self.libvirt;
        let network = checked(libvirt, libvirt.network_port_get_network(port))?;
        let network = network.ok_or_else(|| Error::last(libvirt))?;
        let uuid = self.uuid_of_port(port)?;
        self.with_network(access, network, |net| {
            let found = libvirt.get_network_port(net, uuid.as_ptr());
            let port = found.ok_or_else(|| Error::last(libvirt))?;
            let port = Owned::new(port, libvirt);
            checked(libvirt, work(port.get()))
        })
    }

    /// A network that netd named, as one of a client's connection.
    ///
    /// # Errors
    /// libvirt's.
    pub fn local(&'static self, conn: Conn, remote: Net) -> Result<Owned<'static, Net>, Error> {
        self.network(conn, &self.name_of(remote)?)
    }

    /// A port that netd named, as one of a client's network.
    ///
    /// # Errors
    /// libvirt's.
    pub fn local_port(
        &'static self,
        net: Net,
        remote: Port,
    ) -> Result<Owned<'static, Port>, Error> {
        let uuid = self.uuid_of_port(remote)?;
        let port = self.libvirt.get_network_port(net, uuid.as_ptr());
        let port = port.ok_or_else(|| Error::last(self.libvirt))?;
        Ok(Owned::new(port, self.libvirt))
    }

    /// Name and UUID of a network.
    ///
    /// # Errors
    /// libvirt's.
    pub fn name_of(&self, network: Net) -> Result<(CString, Uuid), Error> {
        let name = memory::text(self.libvirt.network_get_name(network));
        let name = name.ok_or_else(|| Error::last(self.libvirt))?;
        let mut uuid = Uuid::default();
        let told = self.libvirt.network_get_uuid(network, uuid.as_mut_ptr());
        checked(self.libvirt, told)?;
        Ok((name, uuid))
    }

    /// A network of a connection by name and UUID; nobody is asked whether it exists.
    ///
    /// # Errors
    /// libvirt's.
    pub fn network(
        &'static self,
        conn: Conn,
        (name, uuid): &(CString, Uuid),
    ) -> Result<Owned<'static, Net>, Error> {
        let network = self.libvirt.get_network(conn, name.as_ptr(), uuid.as_ptr());
        let network = network.ok_or_else(|| Error::last(self.libvirt))?;
        Ok(Owned::new(network, self.libvirt))
    }

    fn uuid_of_port(&self, port: Port) -> Result<Uuid, Error> {
        let mut uuid = Uuid::default();
        let told = self.libvirt.network_port_get_uuid(port, uuid.as_mut_ptr());
        checked(self.libvirt, told)?;
        Ok(uuid)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;

    use super::*;

    #[test]
    #[ignore = "needs libvirt's library: cargo xtask test"]
    fn a_fault_becomes_an_error_of_libvirts() {
        // SAFETY: libvirt's initializers may run in any process.
        let library =
            unsafe { libc::dlopen(c"libvirt.so.0".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!library.is_null(), "no libvirt.so.0");
        let libvirt = Libvirt::find().expect("libvirt's functions");
        let libvirt: &'static Libvirt = Box::leak(Box::new(libvirt));
        // libvirt's errors have no place before its library was set up, which this has it do.
        assert!(crate::libvirt::version().is_some());
        let missing: c_int = answer(|_| Ok(0));
        assert_eq!(missing, -1, "nothing was set up yet");
        let module = set_up(
            libvirt,
            "/nowhere/netd-sock".into(),
            Events::new(libvirt, true),
        );
        let module = module.expect("the one module");
        let said = || {
            let text = memory::text(libvirt.get_last_error_message());
            text.expect("a message").into_string().expect("text")
        };

        let failed: c_int = answer(|_| panic!("a fault, as the test wants it"));
        assert_eq!(failed, -1);
        assert_eq!(
            said(),
            "internal error: netd's module for libvirt has a fault"
        );
        told(|_| panic!("another one"));

        let failed: Option<Net> = answer(|m| m.ask_for(Access::Write, |_| None));
        assert!(failed.is_none());
        assert!(
            said().starts_with("operation failed: netd does not answer at /nowhere/netd-sock: ")
        );
        assert!(module.pool.take(None).is_err());
    }
}
