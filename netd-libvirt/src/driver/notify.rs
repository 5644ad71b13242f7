//! Events: who asks for them, and what netd tells.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::time::Duration;

use crate::abi::{
    Conn, EventCallback, FreeCallback, LifecycleCallback, MetadataCallback, Net, Opaque, Text,
};
use crate::connection::Connection;
use crate::error::{Error, checked};
use crate::events::{Kind, Registration, Wanted};
use crate::memory::Owned;
use crate::module::{Module, answer, told};

/// How long to wait before a netd that is not there is looked for again.
const AWAY: Duration = Duration::from_millis(250);
/// How long, where it is there and does not tell of events.
const REFUSED: Duration = Duration::from_secs(10);

pub unsafe extern "C" fn register(
    conn: Conn,
    network: Option<Net>,
    event: c_int,
    callback: EventCallback,
    opaque: Opaque,
    free: Option<FreeCallback>,
) -> c_int {
    answer(|m| {
        let unknown = || Error::internal(&format!("unsupported network event ID {event}"));
        let kind = m.events.kind(event).ok_or_else(unknown)?;
        let of = match network {
            Some(network) => Some(m.name_of(network)?.1),
            None => None,
        };
        match m.events.link(|| open(m)) {
            Ok(()) => {}
            // Who asks will be told once netd is there.
            Err(Error::Away(_)) => m.events.lost(),
            Err(error) => return Err(error),
        }
        m.events.watch(relink).map_err(|error| {
            Error::internal(&format!(
                "no thread to keep the connection to netd: {error}"
            ))
        })?;
        Ok(m.events.add(Wanted {
            conn,
            of,
            kind,
            callback,
            opaque,
            free,
        }))
    })
}

pub unsafe extern "C" fn deregister(conn: Conn, number: c_int) -> c_int {
    answer(|m| {
        if m.events.remove(conn, number) {
            return Ok(0);
        }
        Err(Error::internal(&format!(
            "could not find event callback {number} for deletion"
        )))
    })
}

/// A connection by which netd tells of the events of all networks.
fn open(module: &'static Module) -> Result<Connection, Error> {
    let lease = module.pool.take(None)?;
    let libvirt = module.libvirt;
    let conn = lease.conn()?;
    let subscribe = |number, callback| {
        let asked = libvirt.connect_network_event_register_any(
            conn,
            None,
            number,
            callback,
            null_mut(),
            None,
        );
        checked(libvirt, asked)
    };
    let closed = libvirt.connect_register_close_callback(conn, closed, null_mut(), None);
    checked(libvirt, closed)?;
    // SAFETY: libvirt calls the callback of an event with that event's arguments.
    subscribe(0, unsafe {
        std::mem::transmute::<LifecycleCallback, EventCallback>(lifecycle)
    })?;
    if module.events.has_metadata() {
        // SAFETY: as above.
        subscribe(1, unsafe {
            std::mem::transmute::<MetadataCallback, EventCallback>(metadata)
        })?;
    }
    let kept = lease.keep();
    kept.ok_or_else(|| Error::internal("a connection was given up while in use"))
}

/// Makes the connection again; says how long to wait before the next try where it is not there.
fn relink() -> Option<Duration> {
    let mut pause = Some(REFUSED);
    told(|m| {
        pause = match m.events.link(|| open(m)) {
            Ok(()) => None,
            Err(Error::Away(_)) => Some(AWAY),
            // libvirt has logged it.
            Err(_) => Some(REFUSED),
        };
    });
    pause
}

/// The connection to netd ended.
unsafe extern "C" fn closed(_: Conn, _: c_int, _: Opaque) {
    told(|m| m.events.lost());
}

/// netd tells of a network that was defined, started, stopped or undefined.
unsafe extern "C" fn lifecycle(_: Conn, network: Net, event: c_int, detail: c_int, _: Opaque) {
    told(|m| {
        for_each(m, Kind::Lifecycle, network, |known, local| {
            // SAFETY: who registered for this event gave a callback of this type.
            let callback =
                unsafe { std::mem::transmute::<EventCallback, LifecycleCallback>(known.callback) };
            // SAFETY: the registration, and with it what is opaque, is held until the call is over.
            unsafe { callback(known.conn, local, event, detail, known.opaque) };
        });
    });
}

/// netd tells of changed metadata.
unsafe extern "C" fn metadata(_: Conn, network: Net, kind: c_int, uri: Text, _: Opaque) {
    told(|m| {
        for_each(m, Kind::Metadata, network, |known, local| {
            // SAFETY: who registered for this event gave a callback of this type.
            let callback =
                unsafe { std::mem::transmute::<EventCallback, MetadataCallback>(known.callback) };
            // SAFETY: the registration, and with it what is opaque, is held until the call is over.
            unsafe { callback(known.conn, local, kind, uri, known.opaque) };
        });
    });
}

/// Does something for each who wants to know, with the network as one of their connection.
fn for_each(module: &'static Module, kind: Kind, network: Net, work: impl Fn(&Registration, Net)) {
    let Ok(named) = module.name_of(network) else {
        return;
    };
    for known in module.events.concerned(kind, &named.1) {
        if let Ok(local) = module.network(known.conn, &named) {
            let local: Owned<'_, Net> = local;
            work(&known, local.get());
        }
    }
}
