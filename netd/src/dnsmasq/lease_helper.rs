//! `netd lease-helper`: the script that dnsmasq runs on every change of a lease.
//!
//! With `--leasefile-ro` dnsmasq keeps no lease file of its own: it tells this program what
//! happens (`add`, `old`, `del`) and asks it for the whole list when it starts (`init`). The
//! files have libvirt's format, so that its readers (the NSS modules, for one) can use them.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::files::create_public_dir;
use super::journal::{self, Change};
use super::leases::interface_name;
use super::status_file::StoredLease;
use super::{HELPER_BRIDGE_VARIABLE, HELPER_DIR_VARIABLE};

/// Longest text of a guest's that is kept; a DUID written in hexadecimal has at most 389.
const MAX_TEXT: usize = 1024;

/// Where the files are when the environment does not say.
const DEFAULT_DIR: &str = "/var/lib/netd/dnsmasq";

/// Why the helper refuses.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error(
        "usage: netd lease-helper add|old|del MAC-OR-DUID ADDRESS [HOSTNAME], or: netd lease-helper init"
    )]
    Usage,
    #[error("neither DNSMASQ_INTERFACE nor VIR_BRIDGE_NAME names the bridge")]
    NoBridge,
    #[error("{what} is not usable: {value:?}")]
    BadValue { what: &'static str, value: String },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// What dnsmasq asks.
enum Action {
    Init,
    /// `add`, `old` and `del`. `lasting`: what must not be forgotten. dnsmasq says `old` of every lease
    /// when it starts and when it reads its hosts again.
    Note {
        change: Change,
        lasting: bool,
    },
    /// Something dnsmasq reports that is not about leases.
    Ignore,
}

/// Run the helper. `args` is what follows the command's name, `env` looks up a variable. Returns
/// the exit status; errors go to stderr, which dnsmasq's log receives.
pub fn main(args: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> i32 {
    let outcome = run(args, env, &mut io::stdout().lock());
    match outcome {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("netd lease-helper: {e}");
            1
        }
    }
}

fn run(
    args: &[OsString],
    env: impl Fn(&str) -> Option<OsString>,
    out: &mut dyn Write,
) -> Result<(), HelperError> {
    let variable = |name: &str| {
        let value = env(name)?.to_string_lossy().into_owned();
        Some(value).filter(|v| !v.is_empty())
    };
    let args: Vec<_> = args
        .iter()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let action = parse(&args, &variable)?;
    if matches!(action, Action::Ignore) {
        return Ok(());
    }

    let bridge = variable("DNSMASQ_INTERFACE")
        .or_else(|| variable(HELPER_BRIDGE_VARIABLE))
        .ok_or(HelperError::NoBridge)?;
    let bridge = interface_name(&bridge).ok_or_else(|| HelperError::BadValue {
        what: "the bridge's name",
        value: bridge.clone(),
    })?;
    let dir = env(HELPER_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from);
    let path = dir.join(format!("{bridge}.status"));

    create_public_dir(&dir).map_err(|e| io_error("create", &dir, e))?;
    let _lock = journal::lock(&dir, FlockOperation::LockExclusive)
        .map_err(|e| io_error("lock", &dir, e))?;
    match action {
        Action::Ignore => Ok(()),
        Action::Init => {
            // It is the one moment when all of them are read anyway.
            let leases = journal::load_or_start_over(&path);
            let leases = leases.map_err(|e| io_error("read", &path, e))?;
            let duid = variable("DNSMASQ_SERVER_DUID");
            print(&leases, duid.as_deref(), out).map_err(|e| io_error("print", &path, e))
        }
        Action::Note { change, lasting } => {
            journal::note(&path, change, lasting).map_err(|e| io_error("write", &path, e))
        }
    }
}

fn parse(args: &[&str], variable: &impl Fn(&str) -> Option<String>) -> Result<Action, HelperError> {
    let (identity, ip, hostname) = match *args {
        ["init"] => return Ok(Action::Init),
        // Sent for every file that TFTP delivers.
        ["tftp", ..] => return Ok(Action::Ignore),
        ["add" | "old" | "del", identity, ip] => (identity, ip, None),
        ["add" | "old" | "del", identity, ip, hostname] => (identity, ip, Some(hostname)),
        _ => return Err(HelperError::Usage),
    };
    let ip: IpAddr = ip.parse().map_err(|_| HelperError::BadValue {
        what: "the address",
        value: ip.chars().take(64).collect(),
    })?;
    let removed = Action::Note {
        change: Change::Removed { removed: ip },
        lasting: true,
    };
    if args[0] == "del" {
        return Ok(removed);
    }
    let expiry = match variable("DNSMASQ_LEASE_EXPIRES") {
        None => 0,
        Some(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|seconds| *seconds >= 0)
            .ok_or(HelperError::BadValue {
                what: "DNSMASQ_LEASE_EXPIRES",
                value: text,
            })?,
    };
    let identity = Some(identity.to_owned()).filter(|text| !text.is_empty());
    let iaid = variable("DNSMASQ_IAID");
    let (mac, client_id) = if iaid.is_some() {
        (variable("DNSMASQ_MAC"), identity)
    } else {
        (identity, variable("DNSMASQ_CLIENT_ID"))
    };
    let hostname = hostname
        .map(str::to_owned)
        .filter(|name| !name.is_empty())
        .or_else(|| variable("DNSMASQ_SUPPLIED_HOSTNAME"))
        .or_else(|| variable("DNSMASQ_OLD_HOSTNAME"));
    let server_duid = variable("DNSMASQ_SERVER_DUID").filter(|_| iaid.is_some());
    let Some(mac) = mac.and_then(text) else {
        return Ok(removed);
    };
    let lease = StoredLease {
        iaid: iaid.and_then(text),
        ip,
        mac: Some(mac),
        hostname: hostname.and_then(text),
        client_id: client_id.and_then(text),
        server_duid: server_duid.and_then(text),
        expiry,
    };
    Ok(Action::Note {
        change: Change::Stored(lease),
        lasting: args[0] == "add",
    })
}

/// Text that may be kept: of bounded length and without control characters.
fn text(value: String) -> Option<String> {
    (value.len() <= MAX_TEXT && !value.chars().any(char::is_control)).then_some(value)
}

/// The leases as dnsmasq reads its own lease file.
fn print(leases: &[StoredLease], duid: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let (v4, v6): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.ip.is_ipv4());
    for lease in v4 {
        if let Some(mac) = word(lease.mac.as_deref()) {
            print_line(lease, mac, out)?;
        }
    }
    let stored = || leases.iter().find_map(|l| word(l.server_duid.as_deref()));
    let Some(duid) = word(duid).or_else(stored) else {
        return out.flush();
    };
    writeln!(out, "duid {duid}")?;
    for lease in v6 {
        if let Some(iaid) = word(lease.iaid.as_deref()) {
            print_line(lease, iaid, out)?;
        }
    }
    out.flush()
}

fn print_line(lease: &StoredLease, identity: &str, out: &mut dyn Write) -> io::Result<()> {
    let host = lease
        .hostname
        .as_deref()
        .filter(|name| is_label(name))
        .unwrap_or("*");
    let client = word(lease.client_id.as_deref()).unwrap_or("*");
    writeln!(
        out,
        "{} {identity} {} {host} {client}",
        lease.expiry, lease.ip
    )
}

/// A field of the list: no blank in it, and no longer than dnsmasq reads.
fn word(value: Option<&str>) -> Option<&str> {
    value.filter(|v| !v.is_empty() && v.len() <= 764 && v.bytes().all(|b| b.is_ascii_graphic()))
}

/// dnsmasq trusts the names it is given at `init`, and a stored name may be one a guest asked for
/// and did not get. dnsmasq's own are single labels; anything with a dot in it could stand for
/// somebody else's domain.
fn is_label(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=63).contains(&name.len()) && name.bytes().all(legal)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> HelperError {
    HelperError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "lease_helper_tests.rs"]
mod tests;
