//! Connections, for those who ask. They are read beside the packets and without the agent's lock, in
//! pieces, so that a client that wants a million of them costs neither much memory nor anybody's time.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use aya::Pod;
use netd_common::abi::{
    Addr4, Addr6, FLOW_IN_STACK, FLOW_PROVEN, FLOW_REPLY, Flow as Entry, FlowKey,
};
use netd_common::proto;
use netd_common::state::State;
use netd_common::timeout::{TIMEOUTS, Timeout, expired, idle};

use super::Agent;
use super::controller::Controller;
use crate::api::{
    ApiError, Direction, ErrorCode, FILTER_GUESTS, FlowFilter, FlowHalf, FlowKill, FlowPiece,
    Result,
};
use crate::datapath::flow_table::{Addresses, FlowTable, now};

/// A piece is whole when it has so many entries. What was read with the last of them comes along.
const PIECE: usize = 32_768;

/// Or when the map was read so often, however few were meant: a million entries.
const READS: usize = 64;

/// How to look at the flow table: which flows are meant, and what to judge them by.
pub(super) struct FlowLook {
    dir: PathBuf,
    timeouts: [u32; TIMEOUTS],
    /// Networks that respect the host's rules, by bridge.
    respecting: BTreeSet<u32>,
    /// Devices at whose ingress somebody has filters.
    filtered: BTreeSet<u32>,
    /// The bridge of the network that is meant.
    bridge: Option<u32>,
    guests: HashSet<IpAddr>,
    filter: FlowFilter,
}

/// Where a listing goes on: in which family's map, behind which of its buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    ipv6: bool,
    bucket: Option<u32>,
}

impl Place {
    /// The beginning of the second family.
    const IPV6: Self = Self {
        ipv6: true,
        bucket: None,
    };

    /// As clients carry it: 0 is the beginning. They may send anything; a bucket that is not there is
    /// behind the last one.
    fn from_number(number: u64) -> Option<Self> {
        let bucket = (number & u64::from(u32::MAX)) as u32;
        let (ipv6, goes_on) = match number >> 32 {
            0 => (false, false),
            1 => (false, true),
            2 => (true, false),
            3 => (true, true),
            _ => return None,
        };
        (goes_on || bucket == 0).then_some(Self {
            ipv6,
            bucket: goes_on.then_some(bucket),
        })
    }

    fn number(self) -> u64 {
        let flags = u64::from(self.ipv6) << 1 | u64::from(self.bucket.is_some());
        flags << 32 | u64::from(self.bucket.unwrap_or_default())
    }
}

impl Agent {
    /// Some of the connections that are meant.
    pub(super) async fn some_flows(&self, filter: &FlowFilter, from: u64) -> Result<FlowPiece> {
        let place = Place::from_number(from).ok_or_else(|| {
            let detail = format!("connections go on at no place {from}");
            ApiError::new(ErrorCode::InvalidArg, detail)
        })?;
        let look = self.controller.lock().await.flow_look(filter)?;
        // One at a time, however many ask: the others' processors are the packets'.
        let _turn = self.flow_turns.lock().await;
        apart(move || look.piece(place)).await
    }

    /// End the connections that are meant.
    pub(super) async fn end_flows(&self, which: &FlowKill) -> Result<u64> {
        let filter = match which {
            FlowKill::All => FlowFilter::default(),
            FlowKill::Matching(filter) if filter.is_empty() => {
                return Err(ApiError::new(
                    ErrorCode::InvalidArg,
                    "nothing says which connections are to end",
                ));
            }
            FlowKill::Matching(filter) => filter.clone(),
        };
        let look = self.controller.lock().await.flow_look(&filter)?;
        let ended = {
            let _turn = self.flow_turns.lock().await;
            apart(move || look.end_all()).await?
        };
        if ended > 0 {
            self.sweep_flows().await?;
            tracing::info!(ended, ?filter, "ended connections");
        }
        Ok(ended)
    }

    /// Have the programs remove what is over, and others have the lock in between.
    async fn sweep_flows(&self) -> Result<()> {
        let sweeps = self.controller.lock().await.host.datapath()?.sweeps();
        for _ in 0..sweeps {
            let mut controller = self.controller.lock().await;
            let swept = controller.host.datapath_mut()?.sweep();
            swept.map_err(ApiError::internal)?;
        }
        Ok(())
    }
}

/// Do that on a thread of its own.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::internal(format!("cannot read the flow table: {error}")))?
}

impl Controller {
    fn flow_look(&self, filter: &FlowFilter) -> Result<FlowLook> {
        if filter.guests.len() > FILTER_GUESTS {
            let detail = format!("more than {FILTER_GUESTS} addresses of guests are given");
            return Err(ApiError::new(ErrorCode::InvalidArg, detail));
        }
        let bridge = match &filter.network {
            Some(name) => Some(self.bridge_of_active(name)?),
            None => None,
        };
        let datapath = self.host.datapath()?;
        let maps = &datapath.maps;
        Ok(FlowLook {
            dir: datapath.dir().to_owned(),
            timeouts: maps.timeouts().map_err(ApiError::internal)?,
            respecting: maps.respecting().map_err(ApiError::internal)?,
            filtered: maps.filtered().map_err(ApiError::internal)?,
            bridge,
            guests: filter.guests.iter().copied().collect(),
            filter: filter.clone(),
        })
    }

    /// The bridge (ifindex) of an active network.
    fn bridge_of_active(&self, name: &str) -> Result<u32> {
        let noted = self.host.noted.get(&self.uuid_of(name)?);
        noted.and_then(|noted| noted.bridge).ok_or_else(|| {
            let detail = format!("network '{name}' is not active");
            ApiError::new(ErrorCode::OperationInvalid, detail)
        })
    }
}

impl FlowLook {
    fn piece(&self, place: Place) -> Result<FlowPiece> {
        let (halves, bucket) = if place.ipv6 {
            self.read::<Addr6>(place.bucket)?
        } else {
            self.read::<Addr4>(place.bucket)?
        };
        let next = match bucket {
            None if place.ipv6 => 0,
            None => Place::IPV6.number(),
            bucket => Place { bucket, ..place }.number(),
        };
        Ok(FlowPiece { halves, next })
    }

    fn read<A>(&self, mut bucket: Option<u32>) -> Result<(Vec<FlowHalf>, Option<u32>)>
    where
        A: Addresses,
        FlowKey<A>: Pod + Default,
        Entry<A>: Pod + Default,
    {
        let mut table = FlowTable::<A>::open(&self.dir).map_err(ApiError::internal)?;
        let mut halves = Vec::new();
        for _ in 0..READS {
            let now = now();
            let read = table.each(bucket, |_, key, entry| {
                if self.means(key, entry) {
                    halves.push(self.half(key, entry, now));
                }
                Ok(())
            });
            bucket = read.map_err(ApiError::internal)?;
            if bucket.is_none() || halves.len() >= PIECE {
                break;
            }
        }
        Ok((halves, bucket))
    }

    fn end_all(&self) -> Result<u64> {
        Ok(self.end::<Addr4>()? + self.end::<Addr6>()?)
    }

    fn end<A>(&self) -> Result<u64>
    where
        A: Addresses,
        FlowKey<A>: Pod + Default,
        Entry<A>: Pod + Default,
    {
        let mut table = FlowTable::<A>::open(&self.dir).map_err(ApiError::internal)?;
        let mut ended = 0;
        let mut bucket = None;
        loop {
            let now = now();
            let read = table.each(bucket, |entries, key, entry| {
                if entry.flags & FLOW_REPLY == 0
                    && self.means(key, entry)
                    && let Some(answering) = entries.answering(key, entry)?
                    && self.lives(key.proto, entry, &answering, now)
                {
                    ended += u64::from(entries.end(key, entry)?);
                }
                Ok(())
            });
            bucket = read.map_err(ApiError::internal)?;
            if bucket.is_none() {
                return Ok(ended);
            }
        }
    }

    /// Is the flow with this entry meant? Either of its entries says the same.
    fn means<A: Addresses>(&self, key: &FlowKey<A>, entry: &Entry<A>) -> bool {
        let FlowFilter {
            // By number.
            network: _,
            guests: _,
            protocol,
            port,
            address,
        } = &self.filter;
        let guests = || {
            let source = (entry.in_bridge != 0).then_some(key.src);
            let destination = (entry.out_bridge != 0).then_some(entry.new_dst);
            let mut both = source.into_iter().chain(destination);
            both.any(|guest| self.guests.contains(&guest.into()))
        };
        let addresses = [key.src, key.dst, entry.new_src, entry.new_dst];
        let ports = [key.sport, key.dport, entry.new_sport, entry.new_dport];
        self.bridge
            .is_none_or(|bridge| [entry.in_bridge, entry.out_bridge].contains(&bridge))
            && protocol.is_none_or(|protocol| protocol == key.proto)
            && port.is_none_or(|port| ports.contains(&port.to_be_bytes()))
            && address.is_none_or(|prefix| addresses.iter().any(|it| prefix.has((*it).into())))
            && (self.guests.is_empty() || guests())
    }

    fn timeout<A>(&self, protocol: u8, entry: &Entry<A>) -> u32 {
        self.timeouts[Timeout::of(protocol, State::from_u8(entry.state)) as usize]
    }

    /// Has the flow with these entries not been silent for too long?
    fn lives<A>(&self, protocol: u8, opener: &Entry<A>, answering: &Entry<A>, now: u32) -> bool {
        let timeout = self.timeout(protocol, opener);
        !expired(timeout, opener.last_seen, answering.last_seen, now)
    }

    /// An entry as clients are told.
    fn half<A: Addresses>(&self, key: &FlowKey<A>, entry: &Entry<A>, now: u32) -> FlowHalf {
        let at = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
        let bridges = [entry.in_bridge, entry.out_bridge];
        let is_respectful = bridges.iter().any(|it| self.respecting.contains(it));
        let is_proven = entry.flags & FLOW_PROVEN != 0 && key.proto != proto::SCTP;
        FlowHalf {
            protocol: key.proto,
            state: State::from_u8(entry.state),
            answers: entry.flags & FLOW_REPLY != 0,
            idle: seconds(idle(entry.last_seen, now)),
            timeout: seconds(self.timeout(key.proto, entry)),
            packets: Direction {
                source: at(key.src, key.sport),
                destination: at(key.dst, key.dport),
                bridge: entry.in_bridge,
                way_out: entry.next_hop.ifindex,
                by_stack: entry.next_hop.ifindex == 0
                    || entry.flags & FLOW_IN_STACK != 0
                    || (is_respectful && !is_proven),
                packets: entry.packets,
                bytes: entry.bytes,
            },
            new_source: at(entry.new_src, entry.new_sport),
            new_destination: at(entry.new_dst, entry.new_dport),
            // Answers come by the device that it leaves by.
            is_filtered: self.filtered.contains(&entry.next_hop.ifindex),
        }
    }
}

/// Ticks in seconds.
pub(super) fn seconds(ticks: u32) -> u32 {
    ((u64::from(ticks) << 30) / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests;
