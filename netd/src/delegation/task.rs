//! A client at work: one task for each network.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::client::{Action, Client, Given};
use super::link::Link;
use crate::model::{GivenPrefix, Prefix};

/// How often it is tried to ask by a device that cannot be asked by.
const AGAIN: Duration = Duration::from_secs(1);
/// The largest message of a server that is read.
const MAX_MESSAGE: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The network.
    pub network: Uuid,
    /// The device by which its prefix comes.
    pub from: String,
    /// The length of prefix that is asked for.
    pub length: u8,
    /// The host's identity (DUID).
    pub identity: Vec<u8>,
    /// What the network has from before.
    pub before: Vec<GivenPrefix>,
}

/// The prefixes that a network has from now on.
pub type Told = (Uuid, Vec<GivenPrefix>);

/// Asks for the prefixes of a network for as long as it lives.
#[derive(Debug)]
pub struct Task {
    stop: oneshot::Sender<()>,
}

impl Task {
    /// Begin. What the network gets is sent to `tell`.
    pub fn start(order: Order, tell: mpsc::Sender<Told>) -> Self {
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(run(order, tell, stopped));
        Self { stop }
    }

    /// The network goes: its prefixes are given back. Without this the server keeps them for it.
    pub fn release(self) {
        // A task that has ended has nothing to give back.
        let _ = self.stop.send(());
    }
}

/// Time since boot, sleep included: servers' clocks go on.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

fn random() -> u32 {
    Uuid::new_v4().as_u128() as u32
}

/// The number of a network at the server (IAID), the same whenever it asks.
fn number(network: Uuid) -> [u8; 4] {
    let (words, _) = network.as_bytes().as_chunks::<4>();
    words.iter().fold([0; 4], |sum, word| {
        [0, 1, 2, 3].map(|i: usize| sum[i] ^ word[i])
    })
}

async fn run(order: Order, tell: mpsc::Sender<Told>, mut stop: oneshot::Receiver<()>) {
    let before: Vec<Given> = order
        .before
        .iter()
        .filter_map(|given| as_client(*given))
        .collect();
    let identity = order.identity.clone();
    let number = number(order.network);
    let mut client = Client::new(
        identity,
        number,
        order.length,
        &before,
        now(),
        Box::new(random),
    );
    let mut link = None;
    let mut why_not = String::new();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        if link.is_none() {
            match Link::open(&order.from) {
                Ok(open) => {
                    link = Some(open);
                    client.link_changed(now());
                    why_not.clear();
                }
                Err(error) => tell_once(&order, &mut why_not, &error),
            }
        }
        let wait = client.deadline().saturating_sub(now());
        let wait = match link {
            Some(_) => wait,
            None => wait.min(AGAIN),
        };
        let actions = tokio::select! {
            stopped = &mut stop => {
                // The agent ends, and the network stays; or the network goes.
                if stopped.is_ok() {
                    release(&mut client, link.as_ref()).await;
                }
                return;
            }
            () = tokio::time::sleep(wait) => client.act(now()),
            received = receive(link.as_ref(), &mut buffer) => match received {
                Ok(length) => client.receive(&buffer[..length], now()),
                Err(_) => {
                    link = None;
                    Vec::new()
                }
            },
        };
        for action in actions {
            match action {
                Action::Send(bytes) => {
                    let sent = match &link {
                        Some(link) => link.send(&bytes).await,
                        None => Ok(()),
                    };
                    if let Err(error) = sent {
                        tell_once(&order, &mut why_not, &error);
                        link = None;
                    }
                }
                Action::Use(given) => {
                    let given = given.iter().filter_map(as_model).collect();
                    // Nobody listens any more: the agent ends.
                    if tell.send((order.network, given)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Say what keeps a network from its prefix, when that is something new.
fn tell_once(order: &Order, said: &mut String, error: &io::Error) {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another DHCPv6 client of this host has port 546 at {}; have it leave IPv6 at that device \
             alone, or give the network an <ip family='ipv6'> of the prefix that it gets",
            order.from
        ),
        _ => error.to_string(),
    };
    if *said != why {
        tracing::warn!(network = %order.network, from = order.from, "no prefix can be asked for: {why}");
        *said = why;
    }
}

async fn receive(link: Option<&Link>, buffer: &mut [u8]) -> io::Result<usize> {
    match link {
        Some(link) => link.receive(buffer).await,
        None => std::future::pending().await,
    }
}

async fn release(client: &mut Client, link: Option<&Link>) {
    let Some(link) = link else { return };
    if let Some(bytes) = client.release(now())
        && let Err(error) = link.send(&bytes).await
    {
        tracing::warn!(%error, "a prefix was not given back; its server keeps it until its time is over");
    }
}

fn as_client(given: GivenPrefix) -> Option<Given> {
    match given.prefix.address() {
        IpAddr::V6(address) => Some(Given {
            prefix: (address, given.prefix.bits()),
            is_preferred: given.is_preferred,
        }),
        IpAddr::V4(_) => None,
    }
}

fn as_model(given: &Given) -> Option<GivenPrefix> {
    let (address, len) = given.prefix;
    Some(GivenPrefix {
        prefix: Prefix::new(address.into(), len)?,
        is_preferred: given.is_preferred,
    })
}
