//! File descriptors for as many clients as there may be.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rpc::limits::Limits;

/// What an agent needs beside its clients: maps, programs, links, its own sockets, and those of the
/// guests' ports.
const OWN: u64 = 1024;

/// Raises this process's limit of open files to what `limits` needs. Where that is not possible, the
/// limits that are: a client more than there are descriptors for could be neither served nor told.
#[must_use]
pub fn provide(limits: Limits) -> Limits {
    let held = getrlimit(Resource::Nofile);
    let wanted = needed(limits.clients);
    if held.current.is_none_or(|current| current >= wanted) {
        return limits;
    }
    // Root may raise the upper limit, too, unless the service manager took that from it.
    let new = Rlimit {
        current: Some(wanted),
        maximum: held.maximum.map(|maximum| maximum.max(wanted)),
    };
    let Err(error) = setrlimit(Resource::Nofile, new) else {
        return limits;
    };
    let most = Rlimit {
        current: held.maximum,
        maximum: held.maximum,
    };
    let available = match setrlimit(Resource::Nofile, most) {
        Ok(()) => held.maximum,
        Err(_) => held.current,
    };
    let clients = clients(available.unwrap_or(wanted)).min(limits.clients);
    tracing::warn!(
        %error, wanted, ?available, clients,
        "cannot open enough files for all clients that are allowed; raise LimitNOFILE= of the service"
    );
    Limits::for_clients(clients)
}

/// Descriptors for so many clients, those that wait included: one each.
fn needed(clients: usize) -> u64 {
    let waiting = 2 * Limits::for_clients(clients).waiting;
    OWN + (clients + waiting) as u64
}

/// How many clients so many descriptors are enough for.
fn clients(descriptors: u64) -> usize {
    let mut clients = usize::try_from(descriptors).unwrap_or(usize::MAX / 4);
    while clients > 10 && needed(clients) > descriptors {
        clients -= clients.div_ceil(20);
    }
    clients
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_enough_for_the_clients() {
        assert_eq!(needed(5000), 7024);
        for descriptors in [2000, 4096, 20_000, 1 << 20] {
            let clients = clients(descriptors);
            assert!(needed(clients) <= descriptors, "{descriptors}: {clients}");
            assert!(clients > 10);
        }
    }
}
