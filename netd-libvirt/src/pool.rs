//! Connections to netd, one for each call that is under way: who calls is told per connection, so no
//! two callers share one at a time. A few are kept for the next calls.
//!
//! Opening one is done by a thread of its own, since it may take for ever where netd takes the
//! connection and says nothing: callers wait for a bounded time only.

use std::ffi::CString;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::abi::Conn;
use crate::connection::{self, Connection};
use crate::error::Error;
use crate::identity::Identity;
use crate::libvirt::Libvirt;

/// How long a caller waits for netd to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it waits where netd has let somebody wait that long already.
const SILENT: Duration = Duration::from_secs(1);
/// How long a caller waits for netd to come back, where it was there a moment ago.
const RESTART: Duration = Duration::from_secs(5);
/// What a moment is.
const MOMENT: Duration = Duration::from_secs(10);
/// How long to wait before netd is looked for again.
const AGAIN: Duration = Duration::from_millis(100);
/// How many connections are kept.
const KEPT: usize = 4;

/// Connections to one netd.
pub struct Pool {
    libvirt: &'static Libvirt,
    socket: String,
    uri: CString,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// Since when somebody is opening one.
    opening: Option<Instant>,
    /// How often that failed, and why at last.
    failures: u64,
    failure: String,
    /// Did it fail at last?
    failing: bool,
    /// When netd was there at last.
    seen: Option<Instant>,
}

/// A connection that is in use, given back to the pool in the end.
pub struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Pool {
    /// A pool for the netd behind a socket; nothing is opened yet.
    pub fn new(libvirt: &'static Libvirt, socket: String) -> Self {
        Self {
            libvirt,
            uri: connection::uri(&socket),
            socket,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done where a thread panics with the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is somebody's, or libvirtd's own.
    ///
    /// # Errors
    /// netd is not there or does not answer, or it refuses the caller.
    pub fn take(&'static self, identity: Option<&Identity>) -> Result<Lease<'static>, Error> {
        let start = Instant::now();
        loop {
            let mut connection = self.any(identity, start)?;
            let mut why = "it closes connections at once".to_owned();
            if connection.is_alive() {
                let asked = Instant::now();
                match connection.serve(identity) {
                    Ok(()) => {
                        return Ok(Lease {
                            pool: self,
                            connection: Some(connection),
                        });
                    }
                    Err(error) if connection.is_alive() => return Err(error),
                    // It was there all the time: libvirt's client has given it up.
                    Err(_) if asked.elapsed() > ANSWER => return Err(self.silent()),
                    Err(error) => why = error.message(),
                }
            }
            if start.elapsed() > RESTART {
                return Err(self.away(&why));
            }
            // It was alive while nobody looked: netd may be on its way back.
            let mut state = self.state();
            state.seen = Some(Instant::now());
            let fresh = state.idle.is_empty();
            drop(state);
            if fresh {
                thread::sleep(AGAIN);
            }
        }
    }

    /// Any connection that may become the caller's, perhaps a dead one.
    fn any(
        &'static self,
        identity: Option<&Identity>,
        start: Instant,
    ) -> Result<Connection, Error> {
        let mut state = self.state();
        loop {
            if let Some(found) = state.pick(identity) {
                return Ok(found);
            }
            let patience = match state.opening {
                None => {
                    state.opening = Some(Instant::now());
                    self.open_one(&mut state);
                    ANSWER
                }
                Some(since) if since.elapsed() > ANSWER => SILENT,
                Some(_) => ANSWER,
            };
            let failures = state.failures;
            let waiting = |state: &mut State| {
                let suits = state.idle.iter().any(|idle| idle.may_serve(identity));
                state.failures == failures && state.opening.is_some() && !suits
            };
            let (guard, waited) = self
                .changed
                .wait_timeout_while(state, patience, waiting)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if waited.timed_out() {
                return Err(self.silent());
            }
            if state.failures == failures {
                continue;
            }
            let lately = state.seen.is_some_and(|seen| seen.elapsed() < MOMENT);
            if !lately || start.elapsed() > RESTART {
                return Err(self.away(&state.failure));
            }
            drop(state);
            thread::sleep(AGAIN);
            state = self.state();
        }
    }

    /// Has a thread open a connection and tell everybody who waits.
    fn open_one(&'static self, state: &mut State) {
        let opener = thread::Builder::new().name("netd-connect".to_owned());
        let failing = state.failing;
        let started = opener.spawn(move || {
            let opened = self.open(failing);
            let mut state = self.state();
            state.opening = None;
            match opened {
                Ok(connection) => {
                    state.seen = Some(Instant::now());
                    state.failing = false;
                    state.idle.push(connection);
                }
                Err(message) => state.failed(message),
            }
            drop(state);
            self.changed.notify_all();
        });
        if let Err(error) = started {
            state.opening = None;
            state.failed(format!("no thread to connect with: {error}"));
        }
    }

    /// Opens one. libvirt logs each socket that does not answer; so where the last one did not, it is
    /// first tried without libvirt.
    fn open(&self, failing: bool) -> Result<Connection, String> {
        if failing {
            let tried = UnixStream::connect(&self.socket);
            tried.map_err(|error| format!("connecting failed: {error}"))?;
        }
        Connection::open(self.libvirt, &self.uri).map_err(|error| error.message())
    }

    /// netd is not there.
    fn away(&self, why: &str) -> Error {
        let socket = &self.socket;
        Error::Away(format!(
            "netd does not answer at {socket}: {why}; is it running? systemctl start netd"
        ))
    }

    /// netd is there and silent.
    fn silent(&self) -> Error {
        let (socket, seconds) = (&self.socket, ANSWER.as_secs());
        Error::Away(format!(
            "netd takes connections at {socket} and has not answered for {seconds} s: \
             systemctl restart netd"
        ))
    }

    fn give_back(&self, connection: Connection) {
        let mut state = self.state();
        state.seen = Some(Instant::now());
        let surplus = if state.idle.len() < KEPT {
            state.idle.push(connection);
            None
        } else {
            Some(connection)
        };
        drop(state);
        self.changed.notify_all();
        // Closed outside the lock: it is a call.
        drop(surplus);
    }
}

impl State {
    /// The connection that suits best.
    fn pick(&mut self, identity: Option<&Identity>) -> Option<Connection> {
        let same = self.idle.iter().position(|idle| idle.serves(identity));
        let place = same.or_else(|| {
            let mut idle = self.idle.iter();
            idle.position(|idle| idle.may_serve(identity))
        })?;
        Some(self.idle.swap_remove(place))
    }

    fn failed(&mut self, why: String) {
        self.failures += 1;
        self.failing = true;
        self.failure = why;
    }
}

impl Lease<'_> {
    /// libvirt's own handle.
    ///
    /// # Errors
    /// There is none any more, which nobody sees: it is there until the lease is given up.
    pub fn conn(&self) -> Result<Conn, Error> {
        let connection = self.connection.as_ref().map(Connection::conn);
        connection.ok_or_else(|| Error::internal("a connection was given up while in use"))
    }

    /// Can netd be called by it still?
    pub fn is_alive(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_alive)
    }

    /// Takes the connection out of the pool.
    pub fn keep(mut self) -> Option<Connection> {
        self.connection.take()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}
