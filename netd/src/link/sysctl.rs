//! Kernel parameters below /proc/sys/net, of the calling thread's network namespace.
//!
//! They are named by path components. A dotted name cannot tell the dots of a device's name from
//! its own, and there are devices called `eth0.100`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::model::Family;

const ROOT: &str = "/proc/sys/net";

/// A kernel parameter that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel or the file system refused.
    #[error("cannot {action} {}: {source}", .key.display())]
    Io {
        /// "read" or "set … to".
        action: String,
        /// The parameter's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A component that would lead to another file.
    #[error("'{0}' cannot be part of a kernel parameter's name")]
    Component(String),
    /// A value nobody expects there.
    #[error("{} holds '{value}', which is not a number", .key.display())]
    Value {
        /// The parameter's file.
        key: PathBuf,
        /// What it holds.
        value: String,
    },
}

/// Reads a parameter, without the line's end: `read(&["ipv4", "ip_forward"])`.
pub fn read(path: &[&str]) -> Result<String, SysctlError> {
    let key = file(path)?;
    match fs::read_to_string(&key) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(SysctlError::Io {
            action: "read".to_owned(),
            key,
            source,
        }),
    }
}

/// Do the host's rules see what its bridges forward? Without br_netfilter there are no such parameters.
#[must_use]
pub fn bridged_rules() -> bool {
    ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .into_iter()
        .any(|name| read(&["bridge", name]).is_ok_and(|value| value == "1"))
}

/// Writes a parameter.
pub fn write(path: &[&str], value: &str) -> Result<(), SysctlError> {
    let key = file(path)?;
    // Without O_CREAT, which procfs answers with a misleading "permission denied".
    fs::OpenOptions::new()
        .write(true)
        .open(&key)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| SysctlError::Io {
            action: format!("write '{value}' to"),
            key,
            source,
        })
}

/// Whether the host forwards packets of this family. A kernel without IPv6 has no such parameter,
/// which is an error; see [`has_ipv6`].
pub fn forwarding(family: Family) -> Result<bool, SysctlError> {
    number(forwarding_path(family)).map(|value| value != 0)
}

/// Lets the host forward packets of this family, or stops it. The kernel resets other parameters
/// of all devices when the value changes, so it is written only then.
pub fn set_forwarding(family: Family, on: bool) -> Result<(), SysctlError> {
    if forwarding(family)? == on {
        return Ok(());
    }
    write(forwarding_path(family), if on { "1" } else { "0" })
}

/// The parameter's name as people write it.
#[must_use]
pub fn forwarding_name(family: Family) -> String {
    format!("net.{}", forwarding_path(family).join("."))
}

/// Lets a device forward packets of this family that come in there.
pub fn set_device_forwarding(family: Family, device: &str) -> Result<(), SysctlError> {
    write(&device_forwarding_path(family, device), "1")
}

/// The parameter's name as people write it.
#[must_use]
pub fn device_forwarding_name(family: Family, device: &str) -> String {
    format!("net.{}", device_forwarding_path(family, device).join("."))
}

fn device_forwarding_path(family: Family, device: &str) -> [&str; 4] {
    let family = match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    };
    [family, "conf", device, "forwarding"]
}

fn forwarding_path(family: Family) -> &'static [&'static str] {
    match family {
        Family::Ipv4 => &["ipv4", "ip_forward"],
        Family::Ipv6 => &["ipv6", "conf", "all", "forwarding"],
    }
}

fn number(path: &[&str]) -> Result<u32, SysctlError> {
    let value = read(path)?;
    match value.parse() {
        Ok(number) => Ok(number),
        Err(_) => Err(SysctlError::Value {
            key: file(path)?,
            value,
        }),
    }
}

/// Whether the kernel has IPv6 at all.
pub fn has_ipv6() -> Result<bool, SysctlError> {
    // With ipv6.disable=1 the module is there, but this directory is not.
    let all = file(&["ipv6", "conf", "all"])?;
    match fs::metadata(&all) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SysctlError::Io {
            action: "look for".to_owned(),
            key: all,
            source,
        }),
    }
}

/// Whether a device listens to router advertisements, as [`set_accept_ra`] has it; `None` when the
/// device is gone.
pub fn accept_ra(device: &str) -> Result<Option<u32>, SysctlError> {
    match number(&["ipv6", "conf", device, "accept_ra"]) {
        Ok(value) => Ok(Some(value)),
        Err(SysctlError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches IPv6 off or on for a device. Returns false where the kernel has no IPv6 at all, in
/// which case there is nothing to switch.
pub fn set_disable_ipv6(device: &str, disable: bool) -> Result<bool, SysctlError> {
    set_ipv6(device, "disable_ipv6", if disable { "1" } else { "0" })
}

/// Whether a device listens to router advertisements: 0 no, 1 unless the host forwards, 2 always.
/// Returns false where the kernel has no IPv6.
pub fn set_accept_ra(device: &str, value: u8) -> Result<bool, SysctlError> {
    set_ipv6(device, "accept_ra", &value.to_string())
}

/// Whether a device makes itself addresses from router advertisements. Returns false where the
/// kernel has no IPv6.
pub fn set_autoconf(device: &str, on: bool) -> Result<bool, SysctlError> {
    set_ipv6(device, "autoconf", if on { "1" } else { "0" })
}

fn set_ipv6(device: &str, parameter: &str, value: &str) -> Result<bool, SysctlError> {
    if !has_ipv6()? {
        return Ok(false);
    }
    write(&["ipv6", "conf", device, parameter], value)?;
    Ok(true)
}

fn file(path: &[&str]) -> Result<PathBuf, SysctlError> {
    let mut file = Path::new(ROOT).to_path_buf();
    for component in path {
        // The kernel allows no device of such a name either (dev_valid_name).
        if matches!(*component, "" | "." | "..") || component.contains(['/', '\0']) {
            return Err(SysctlError::Component((*component).to_owned()));
        }
        file.push(component);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_stay_one_component() {
        let path = file(&["ipv6", "conf", "eth0.100", "accept_ra"]).unwrap();
        assert_eq!(
            path,
            Path::new("/proc/sys/net/ipv6/conf/eth0.100/accept_ra")
        );
    }

    #[test]
    fn components_cannot_lead_elsewhere() {
        for bad in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            let error = file(&["ipv6", "conf", bad, "autoconf"]).unwrap_err();
            assert!(matches!(error, SysctlError::Component(ref c) if c == bad));
        }
    }

    #[test]
    fn a_missing_parameter_is_named() {
        let error = read(&["ipv4", "no_such_key"]).unwrap_err().to_string();
        assert!(
            error.contains("cannot read /proc/sys/net/ipv4/no_such_key: No such file"),
            "{error}"
        );
        let error = write(&["ipv4", "no_such_key"], "1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot write '1' to /proc/sys/net/ipv4/no_such_key: No such file"),
            "{error}"
        );
    }
}
