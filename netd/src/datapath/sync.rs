//! Making a map hold what it is to hold, with what can go wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};

use super::{DatapathError, Result, chain};

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

/// Make a hash map hold exactly (without `prune`: at least) `wanted`; returns whether it changed.
pub(super) fn sync<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    wanted: &BTreeMap<K, V>,
    prune: bool,
) -> Result<bool> {
    let mut changed = false;
    let mut stale = Vec::new();
    let mut same = BTreeSet::new();
    for entry in map.iter() {
        let (key, value) = entry.map_err(error("read", name))?;
        match wanted.get(&key) {
            None if prune => stale.push(key),
            None => {}
            Some(want) if *want == value => {
                same.insert(key);
            }
            Some(_) => {}
        }
    }
    for (key, value) in wanted.iter().filter(|(key, _)| !same.contains(key)) {
        map.insert(key, value, 0).map_err(error("write", name))?;
        changed = true;
    }
    for key in stale {
        remove(map, name, &key)?;
        changed = true;
    }
    Ok(changed)
}
