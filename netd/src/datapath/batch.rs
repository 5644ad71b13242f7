//! Hash maps of very many entries, read some thousand at a time and without keeping anybody from
//! them. aya has no call for this, and asks the kernel twice for each entry.
//!
//! The kernel hands out whole buckets and holds the lock of one at a time, for as long as it takes to
//! copy it (`__htab_map_lookup_and_delete_batch`); programs that look entries up need no lock. Where
//! it goes on is a bucket's number, so nothing is kept between two calls: an entry that is there all
//! the while is seen once, one that comes or goes meanwhile may be or may not.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::Pod;
use aya::maps::{MapData, MapType};

use super::error::{DatapathError, Result};
use super::sync::error;

/// Command of bpf(2), `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// What it reads of `union bpf_attr`, and writes: `count`.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash map, and room for some of its entries.
pub(super) struct Batches<K, V> {
    name: &'static str,
    map: OwnedFd,
    keys: Vec<K>,
    values: Vec<V>,
}

/// Some entries, and where to go on; nowhere behind the last ones.
pub(super) struct Batch<'a, K, V> {
    /// Their keys.
    pub keys: &'a [K],
    /// Their values, in the same order.
    pub values: &'a [V],
    /// The bucket that comes next.
    pub next: Option<u32>,
}

impl<K: Pod + Default, V: Pod + Default> Batches<K, V> {
    /// Read a map, up to `room` entries at a time; the entries of a bucket have to fit.
    ///
    /// # Errors
    /// It is no hash map of these keys and values.
    pub fn new(name: &'static str, map: &MapData, room: usize) -> Result<Self> {
        let info = map.info().map_err(error("look at", name))?;
        let kind = info.map_type().map_err(error("look at", name))?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if kind != MapType::Hash || sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(DatapathError::Map {
                operation: "use",
                map: name,
                message: format!("it has another layout: {kind:?}, {sizes:?}"),
            });
        }
        let map = map.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            name,
            map: map.map_err(error("open", name))?,
            keys: vec![K::default(); room],
            values: vec![V::default(); room],
        })
    }

    /// The entries of the buckets from `from` on, or of the first ones.
    ///
    /// # Errors
    /// The kernel does not hand them out.
    pub fn read(&mut self, from: Option<u32>) -> Result<Batch<'_, K, V>> {
        let mut next = 0u32;
        let mut batch = LookupBatch {
            in_batch: from
                .as_ref()
                .map_or(0, |from| std::ptr::from_ref(from) as u64),
            out_batch: (&raw mut next) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: self.map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads and writes `size_of::<LookupBatch>()` bytes of a structure that
        // outlives the call, as does all that it points to. It reads four bytes at `in_batch`, unless that
        // is 0, and writes as many to `out_batch`: a hash map goes on by a bucket's number. It writes
        // `count` keys and values at most, of which there are as many; they are of the map's sizes, as
        // `new` has seen, and every bit pattern is a value of a `Pod`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut batch,
                size_of::<LookupBatch>(),
            )
        };
        let failed = (result != 0).then(io::Error::last_os_error);
        // That is said of the last entries, or of a place behind them.
        let is_end = |failed: &io::Error| failed.raw_os_error() == Some(libc::ENOENT);
        match failed {
            Some(failed) if !is_end(&failed) => Err(error("read", self.name)(failed)),
            failed => {
                let found = (batch.count as usize).min(self.keys.len());
                Ok(Batch {
                    keys: &self.keys[..found],
                    values: &self.values[..found],
                    next: failed.is_none().then_some(next),
                })
            }
        }
    }
}
