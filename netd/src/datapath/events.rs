//! Records of drops, read from the programs' ring buffer.

use std::collections::VecDeque;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use netd_common::abi::DropEvent;
use rustix::time::{ClockId, clock_gettime};

use super::error::Result;
use super::names;
use super::sync::take;

/// Records that are kept.
pub const KEPT: usize = 1024;

/// A record with its number: they are counted from the agent's start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number; the first one has 1.
    pub number: u64,
    /// The record.
    pub event: DropEvent,
}

/// The latest records.
pub struct Events {
    ring: RingBuf<MapData>,
    kept: VecDeque<Numbered>,
    /// Number of the last record.
    last: u64,
}

impl Events {
    /// Take the ring buffer out of the loaded object.
    ///
    /// # Errors
    /// It is not there.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            ring: take(ebpf, names::EVENTS)?,
            kept: VecDeque::new(),
            last: 0,
        })
    }

    /// Read what the programs have written.
    pub fn drain(&mut self) {
        while let Some(item) = self.ring.next() {
            let Some(event) = read(&item) else {
                continue;
            };
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.last += 1;
            self.kept.push_back(Numbered {
                number: self.last,
                event,
            });
        }
    }

    /// The records behind number `since` that are still kept, in their order.
    pub fn since(&self, since: u64) -> impl Iterator<Item = Numbered> + '_ {
        self.kept
            .iter()
            .filter(move |numbered| numbered.number > since)
            .copied()
    }
}

/// A record from its bytes; `None` for those of another layout.
fn read(bytes: &[u8]) -> Option<DropEvent> {
    let mut rest = bytes;
    let mut next = |len: usize| {
        let (field, others) = rest.split_at_checked(len)?;
        rest = others;
        Some(field)
    };
    let event = DropEvent {
        time: u64::from_ne_bytes(next(8)?.try_into().ok()?),
        reason: u32::from_ne_bytes(next(4)?.try_into().ok()?),
        ifindex: u32::from_ne_bytes(next(4)?.try_into().ok()?),
        suppressed: u32::from_ne_bytes(next(4)?.try_into().ok()?),
        len: u32::from_ne_bytes(next(4)?.try_into().ok()?),
        ether_type: next(2)?.try_into().ok()?,
        proto: *next(1)?.first()?,
        pad: *next(1)?.first()?,
        sport: next(2)?.try_into().ok()?,
        dport: next(2)?.try_into().ok()?,
        src: next(16)?.try_into().ok()?,
        dst: next(16)?.try_into().ok()?,
    };
    rest.is_empty().then_some(event)
}

/// How long ago the programs' clock showed `time`.
#[must_use]
pub fn age(time: u64) -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds).saturating_sub(Duration::from_nanos(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let event = DropEvent {
            time: 1,
            reason: 2,
            ifindex: 3,
            suppressed: 4,
            len: 5,
            ether_type: [8, 0],
            proto: 17,
            pad: 0,
            sport: [0, 53],
            dport: [1, 2],
            src: [7; 16],
            dst: [9; 16],
        };
        let mut bytes = Vec::new();
        bytes.extend(event.time.to_ne_bytes());
        for word in [event.reason, event.ifindex, event.suppressed, event.len] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([8, 0, 17, 0, 0, 53, 1, 2]);
        bytes.extend(event.src);
        bytes.extend(event.dst);
        assert_eq!(bytes.len(), size_of::<DropEvent>());
        assert_eq!(read(&bytes), Some(event));
        assert_eq!(read(&bytes[1..]), None);
        bytes.push(0);
        assert_eq!(read(&bytes), None);
    }
}
