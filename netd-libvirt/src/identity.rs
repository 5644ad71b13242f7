//! On whose behalf libvirtd calls: the client that it serves, which netd is told as libvirt's own
//! daemons tell each other.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null;

use crate::abi::{IdentityRef, ParameterValue, TypedParameter};
use crate::libvirt::{Caller, Libvirt};
use crate::memory;

/// `VIR_TYPED_PARAM_LLONG`.
const LLONG: c_int = 3;
/// `VIR_TYPED_PARAM_ULLONG`.
const ULLONG: c_int = 4;
/// `VIR_TYPED_PARAM_STRING`.
const STRING: c_int = 7;

/// Who a client of libvirtd is, as far as libvirtd knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    user_name: Option<CString>,
    user_id: Option<u64>,
    group_name: Option<CString>,
    group_id: Option<u64>,
    process_id: Option<i64>,
    process_time: Option<u64>,
}

/// Of whom this thread works; none where libvirtd works for itself.
pub fn current(libvirt: &Libvirt) -> Option<Identity> {
    let caller = libvirt.caller.as_ref()?;
    let identity = caller.current()?;
    let read = read(caller, identity);
    caller.unref(identity);
    Some(read)
}

fn read(caller: &Caller, identity: IdentityRef) -> Identity {
    // Each function returns 1 where it knows, and stores nothing where it does not.
    let (mut user, mut group) = (null(), null());
    let (mut user_id, mut group_id, mut process, mut time) = (0, 0, 0, 0);
    Identity {
        user_name: (caller.user_name(identity, &raw mut user) == 1)
            .then(|| memory::text(user))
            .flatten(),
        user_id: (caller.user_id(identity, &raw mut user_id) == 1).then(|| user_id.into()),
        group_name: (caller.group_name(identity, &raw mut group) == 1)
            .then(|| memory::text(group))
            .flatten(),
        group_id: (caller.group_id(identity, &raw mut group_id) == 1).then(|| group_id.into()),
        process_id: (caller.process_id(identity, &raw mut process) == 1).then(|| process.into()),
        process_time: (caller.process_time(identity, &raw mut time) == 1).then_some(time),
    }
}

impl Identity {
    /// It as libvirt's call takes it, with pointers to its strings.
    pub fn parameters(&self) -> Vec<TypedParameter> {
        let mut parameters = Vec::new();
        let mut add = |field: &CStr, kind, value: Option<ParameterValue>| {
            if let Some(value) = value {
                parameters.push(parameter(field, kind, value));
            }
        };
        let string = |text: &Option<CString>| {
            let text = text.as_ref();
            text.map(|text| ParameterValue {
                string: text.as_ptr(),
            })
        };
        let ullong = |number: Option<u64>| number.map(|ullong| ParameterValue { ullong });
        let llong = |number: Option<i64>| number.map(|llong| ParameterValue { llong });
        add(c"user-name", STRING, string(&self.user_name));
        add(c"unix-user-id", ULLONG, ullong(self.user_id));
        add(c"group-name", STRING, string(&self.group_name));
        add(c"unix-group-id", ULLONG, ullong(self.group_id));
        add(c"process-id", LLONG, llong(self.process_id));
        add(c"process-time", ULLONG, ullong(self.process_time));
        parameters
    }
}

fn parameter(name: &CStr, kind: c_int, value: ParameterValue) -> TypedParameter {
    let mut field: [c_char; 80] = [0; 80];
    for (place, byte) in field.iter_mut().zip(name.to_bytes()) {
        *place = byte.cast_signed();
    }
    TypedParameter { field, kind, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        let identity = Identity {
            user_id: Some(1000),
            process_id: Some(17),
            ..Identity::default()
        };
        let told: Vec<_> = identity
            .parameters()
            .iter()
            .map(|told| {
                // SAFETY: both are integers of that size.
                let value = unsafe { told.value.ullong };
                (told.field[..3].to_vec(), told.kind, value)
            })
            .collect();
        let start = |name: &str| -> Vec<c_char> {
            let bytes = name.bytes().take(3);
            bytes.map(u8::cast_signed).collect()
        };
        assert_eq!(
            told,
            [
                (start("unix-user-id"), ULLONG, 1000),
                (start("process-id"), LLONG, 17)
            ]
        );
    }
}
