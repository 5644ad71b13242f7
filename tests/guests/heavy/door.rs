//! netd's module and a netd that closes its connections.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netd_tests::eventually;
use netd_tests::libvirt::{Host, PATIENCE, Root, check};

use super::module::{define, rows};

/// What becomes of the module's connections at [`Door`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They are netd's.
    Served,
    /// They are closed at once.
    Refused,
    /// They are opened, and closed at the first call.
    Dropped,
}

/// A socket before netd's.
struct Door {
    fate: Arc<Mutex<Fate>>,
    opened: Arc<AtomicUsize>,
}

impl Door {
    fn open(host: &Host, socket: &str) -> Result<Self> {
        let listener = UnixListener::bind(host.path(socket))?;
        let netd = host.path("/run/netd/netd-sock");
        let fate = Arc::new(Mutex::new(Fate::Served));
        let opened = Arc::new(AtomicUsize::new(0));
        let (decided, count) = (Arc::clone(&fate), Arc::clone(&opened));
        // The threads end with the connections and with the program.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a client");
                count.fetch_add(1, Ordering::Relaxed);
                if *decided.lock().expect("a fate") == Fate::Refused {
                    continue;
                }
                let agent = UnixStream::connect(&netd).expect("netd");
                let (mut from, mut to) = (
                    agent.try_clone().expect("a socket"),
                    client.try_clone().expect("a socket"),
                );
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let decided = Arc::clone(&decided);
                thread::spawn(move || serve(client, agent, &decided));
            }
        });
        Ok(Self { fate, opened })
    }

    fn decide(&self, fate: Fate) {
        *self.fate.lock().expect("a fate") = fate;
        self.opened.store(0, Ordering::Relaxed);
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

/// Hands a client's messages on until its fate says otherwise.
fn serve(mut client: UnixStream, mut agent: UnixStream, fate: &Mutex<Fate>) {
    // OPEN, what belongs to it, and pings, which have a program of their own with numbers below.
    const OPENING: [u32; 5] = [1, 2, 3, 60, 66];
    let mut message = || -> std::io::Result<bool> {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body)?;
        let procedure = u32::from_be_bytes(body[8..12].try_into().expect("four bytes"));
        let goes_on = match *fate.lock().expect("a fate") {
            Fate::Served => true,
            Fate::Refused => false,
            Fate::Dropped => OPENING.contains(&procedure),
        };
        if goes_on {
            agent.write_all(&[&length[..], &body].concat())?;
        }
        Ok(goes_on)
    };
    while matches!(message(), Ok(true)) {}
    let _ = client.shutdown(Shutdown::Both);
    let _ = agent.shutdown(Shutdown::Both);
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn a_netd_that_closes_every_connection_is_tried_for_a_while() {
    for root in Root::SUITES {
        check(root, |host| {
            host.use_module()?;
            host.start_netd()?;
            let door = Door::open(host, "/run/door")?;
            host.libvirtd.set_env("NETD_SOCKET", "/run/door");
            host.libvirtd.start()?;
            define(host)?;
            let list = || -> Result<Vec<String>> { Ok(rows(&host.virsh(["net-list", "--all"])?)) };
            ensure!(list()? == ["default inactive no yes"]);
            for fate in [Fate::Refused, Fate::Dropped] {
                door.decide(fate);
                let start = Instant::now();
                let said = host.virsh_fails(["net-list", "--all"])?;
                let lasted = start.elapsed();
                ensure!(said.contains("netd does not answer at /run/door"), "{said}");
                // Tried for 5 s, since it was there a moment ago, ten times a second at most. Each time it
                // is looked first whether anybody is there.
                ensure!(lasted > Duration::from_secs(4), "given up after {lasted:?}");
                let tried = door.opened();
                let most = 2 * 10 * (lasted.as_secs() + 1) + 10;
                ensure!(
                    (5..most).contains(&(tried as u64)),
                    "tried {tried} times in {lasted:?}"
                );
                // Nothing else of libvirtd waits.
                host.virsh(["list", "--all"])?;
                door.decide(Fate::Served);
                eventually(PATIENCE, || {
                    let list = list()?;
                    ensure!(list == ["default inactive no yes"], "{list:?}");
                    Ok(())
                })?;
            }
            Ok(())
        });
    }
}
