//! Names of devices that go with a bridge.

/// Longest name of a device (IFNAMSIZ without the zero).
const MAX_NAME: usize = 15;

/// Name of a device that goes with a bridge: that and `-KIND`, or where it is too long the same every
/// time all the same.
#[must_use]
pub fn beside(bridge: &str, kind: &str) -> String {
    if bridge.len() + 1 + kind.len() <= MAX_NAME {
        return format!("{bridge}-{kind}");
    }
    // FNV-1a: the same in every build.
    let hash = bridge.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{kind}-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit() {
        assert_eq!(beside("virbr0", "svc"), "virbr0-svc");
        assert_eq!(beside("eleven-long", "svc"), "eleven-long-svc");
        let long = beside("fifteen-bytes-x", "back");
        assert!(
            long.len() <= MAX_NAME && long.starts_with("back-"),
            "{long}"
        );
        assert_ne!(long, beside("fifteen-bytes-y", "back"));
    }
}
