//! Reading and writing maps, with what can go wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};

use super::error::{DatapathError, Result, chain};

/// A failed operation on a map.
pub(super) fn error<E: std::error::Error + 'static>(
    operation: &'static str,
    map: &'static str,
) -> impl Fn(E) -> DatapathError {
    move |error| DatapathError::Map {
        operation,
        map,
        message: chain(&error),
    }
}

/// Take a map out of the loaded object.
pub(super) fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Map {
        operation: "find",
        map: name,
        message: "not in the object".to_owned(),
    })?;
    // The types' sizes are compared here: a map of another layout is refused.
    T::try_from(map).map_err(error("use", name))
}

/// Did an insertion fail because there is such an entry?
pub(super) fn is_there(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::AlreadyExists,
        _ => false,
    }
}

/// Remove an entry, which may be gone already.
pub(super) fn remove<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(e) => Err(error("remove from", name)(e)),
    }
}

/// Write an entry.
pub(super) fn write<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
    value: &V,
) -> Result<()> {
    map.insert(key, value, 0).map_err(error("write", name))
}

/// All entries of a hash map.
pub(super) fn entries<K: aya::Pod + Ord, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<BTreeMap<K, V>> {
    map.iter()
        .map(|entry| entry.map_err(error("read", name)))
        .collect()
}

/// All keys of a hash map.
pub(super) fn keys<K: aya::Pod + Ord, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<BTreeSet<K>> {
    map.keys()
        .map(|key| key.map_err(error("read", name)))
        .collect()
}
