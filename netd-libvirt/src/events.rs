//! Who wants to know of changes. The module has one connection for that, on which it asks netd for
//! everything; libvirt's event loop, the daemon's main thread, brings what netd tells, and from there
//! it goes to those who asked for it.
//!
//! netd's end is noticed by the connection's close; a thread then tries until netd is back. What
//! happened meanwhile is told to nobody.
//!
//! The main thread must never wait for netd, or it does not see netd's answers. So nothing is asked
//! with [`Events::state`] locked, and the main thread takes no other lock.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::abi::{Conn, EventCallback, FreeCallback, Opaque, Uuid};
use crate::connection::Connection;
use crate::libvirt::Libvirt;

/// The events of a network, by libvirt's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Defined, started, stopped, undefined.
    Lifecycle,
    /// Title, description or metadata changed.
    Metadata,
}

impl Kind {
    /// The kind by its number; none where this libvirt has none of it.
    pub fn of(number: c_int, metadata: bool) -> Option<Self> {
        match number {
            0 => Some(Self::Lifecycle),
            1 if metadata => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// Somebody who wants to know.
pub struct Registration {
    /// The client's connection, which we hold a reference of.
    pub conn: Conn,
    /// Of one network only.
    pub of: Option<Uuid>,
    /// Of what.
    pub kind: Kind,
    /// Whom to call.
    pub callback: EventCallback,
    /// With what.
    pub opaque: Opaque,
    free: Option<FreeCallback>,
    libvirt: &'static Libvirt,
}

// SAFETY: libvirt's connections may be used by any thread; what is opaque is only handed back to
// libvirt, which has its events come from any thread that runs the event loop.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: libvirt gave the function for this very value, and nobody uses it any more.
            unsafe { free(self.opaque) };
        }
        self.libvirt.connect_close(self.conn);
    }
}

#[derive(Default)]
struct State {
    next: c_int,
    registrations: BTreeMap<c_int, Arc<Registration>>,
    /// The connection is to be made again.
    lost: bool,
    /// The thread that does so is there.
    watched: bool,
}

/// All who want to know.
pub struct Events {
    libvirt: &'static Libvirt,
    /// Does this libvirt have events of metadata?
    metadata: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// Never locked by the main thread.
    link: Mutex<Option<Connection>>,
}

/// What somebody wants to know: the arguments of libvirt's call.
pub struct Wanted {
    /// See [`Registration`].
    pub conn: Conn,
    /// See [`Registration`].
    pub of: Option<Uuid>,
    /// See [`Registration`].
    pub kind: Kind,
    /// See [`Registration`].
    pub callback: EventCallback,
    /// See [`Registration`].
    pub opaque: Opaque,
    /// What frees `opaque`.
    pub free: Option<FreeCallback>,
}

impl Events {
    /// Nobody wants to know anything yet.
    pub fn new(libvirt: &'static Libvirt, metadata: bool) -> Self {
        Self {
            libvirt,
            metadata,
            state: Mutex::default(),
            changed: Condvar::new(),
            link: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done where a thread panics with the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kind by its number; none where this libvirt has none of it.
    pub fn kind(&self, number: c_int) -> Option<Kind> {
        Kind::of(number, self.metadata)
    }

    /// Is it to be asked for at netd?
    pub const fn has_metadata(&self) -> bool {
        self.metadata
    }

    /// Enters somebody; returns the number of the entry.
    pub fn add(&self, wanted: Wanted) -> c_int {
        self.libvirt.connect_ref(wanted.conn);
        let registration = Registration {
            conn: wanted.conn,
            of: wanted.of,
            kind: wanted.kind,
            callback: wanted.callback,
            opaque: wanted.opaque,
            free: wanted.free,
            libvirt: self.libvirt,
        };
        let mut state = self.state();
        let number = state.next;
        state.next = state.next.wrapping_add(1) & c_int::MAX;
        state.registrations.insert(number, Arc::new(registration));
        number
    }

    /// Strikes an entry out; false where the connection has none of that number.
    pub fn remove(&self, conn: Conn, number: c_int) -> bool {
        let mut state = self.state();
        let known = state.registrations.get(&number);
        if known.is_none_or(|known| known.conn != conn) {
            return false;
        }
        let removed = state.registrations.remove(&number);
        drop(state);
        // libvirt's function that frees it takes locks of its own.
        drop(removed);
        true
    }

    /// Those who want to know of a network's event.
    pub fn concerned(&self, kind: Kind, uuid: &Uuid) -> Vec<Arc<Registration>> {
        let state = self.state();
        let all = state.registrations.values();
        all.filter(|known| known.kind == kind && known.of.is_none_or(|of| of == *uuid))
            .cloned()
            .collect()
    }

    /// Sees to it that there is a connection by which netd tells of events; `open` makes one.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn link<E>(&self, open: impl FnOnce() -> Result<Connection, E>) -> Result<(), E> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.as_ref().is_some_and(Connection::is_alive) {
            return Ok(());
        }
        *link = None;
        *link = Some(open()?);
        Ok(())
    }

    /// The connection was lost, or could not be made.
    pub fn lost(&self) {
        self.state().lost = true;
        self.changed.notify_all();
    }

    /// Has a thread make the connection again whenever it was lost. `link` does that; where it fails, it
    /// says how long to wait before the next try.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn watch(&'static self, link: fn() -> Option<Duration>) -> std::io::Result<()> {
        let mut state = self.state();
        if state.watched {
            return Ok(());
        }
        let name = "netd-events".to_owned();
        thread::Builder::new().name(name).spawn(move || {
            loop {
                let state = self.state();
                let waiting = self.changed.wait_while(state, |state| !state.lost);
                waiting.unwrap_or_else(PoisonError::into_inner).lost = false;
                while let Some(pause) = link() {
                    thread::sleep(pause);
                }
            }
        })?;
        state.watched = true;
        Ok(())
    }
}
