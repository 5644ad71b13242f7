//! The limits that netd's unit sets, for agents that tests start without systemd.
//!
//! They are read from the unit itself: capabilities, no new privileges, system calls, address families and
//! namespaces. What needs a mount namespace (`ProtectSystem=` and its like) is not: tests' agents keep their
//! files elsewhere, and beside each other. That is shown under systemd (`heavy::confined` in `tests/guests`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::str::FromStr as _;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use syscalls::Sysno;

/// netd's unit, as its packages install it.
pub const UNIT: &str = include_str!("../../dist/netd.service");

/// What a call is answered that the filter refuses (`SystemCallErrorNumber=`).
const REFUSED: u32 = 1;

/// What the unit leaves an agent.
struct Limits {
    /// Capabilities that it loses for ever.
    lost: CapabilitySet,
    /// System calls; `None` where nobody is there who knows what systemd's groups have.
    filter: Option<BpfProgram>,
}

/// Has a command run as the unit has the agent run, as far as that goes without systemd.
///
/// # Errors
/// The unit says what this does not understand.
pub fn confine(command: &mut Command) -> Result<()> {
    static LIMITS: OnceLock<std::result::Result<Limits, String>> = OnceLock::new();
    let limits = LIMITS.get_or_init(|| Limits::of(UNIT).map_err(|error| format!("{error:#}")));
    let limits = match limits {
        Ok(limits) => limits,
        Err(error) => bail!("the limits of dist/netd.service: {error}"),
    };
    // SAFETY: between fork and exec these are system calls alone: nothing is allocated, no lock is taken.
    unsafe {
        command.pre_exec(|| limits.apply());
    }
    Ok(())
}

impl Limits {
    fn of(unit: &str) -> Result<Self> {
        let settings = settings(unit)?;
        let of = |key: &str| settings.get(key).cloned().unwrap_or_default();
        ensure!(
            of("NoNewPrivileges") == ["yes"] && of("SystemCallErrorNumber") == ["EPERM"],
            "NoNewPrivileges=yes and SystemCallErrorNumber=EPERM is what this can do"
        );
        let mut kept = CapabilitySet::empty();
        for name in words(&of("CapabilityBoundingSet")) {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            let known = CapabilitySet::from_name(bare);
            kept |= known.with_context(|| format!("unknown capability {name}"))?;
        }
        Ok(Self {
            lost: CapabilitySet::all() - kept,
            filter: filter(&settings)?,
        })
    }

    fn apply(&self) -> io::Result<()> {
        for (_, capability) in self.lost.iter_names() {
            remove_capability_from_bounding_set(capability)?;
        }
        set_no_new_privs(true)?;
        match &self.filter {
            Some(filter) => apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                _ => io::ErrorKind::InvalidInput.into(),
            }),
            None => Ok(()),
        }
    }
}

/// The section `[Service]`: all values of each key.
fn settings(unit: &str) -> Result<BTreeMap<&str, Vec<&str>>> {
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in unit.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Service]" && !line.is_empty() && !line.starts_with('#') {
            ensure!(
                !line.ends_with('\\'),
                "a line that goes on in the next: {line}"
            );
            let (key, value) = line.split_once('=').context("a line without =")?;
            settings.entry(key).or_default().push(value);
        }
    }
    Ok(settings)
}

fn words<'a>(values: &'a [&str]) -> impl Iterator<Item = &'a str> {
    values.iter().flat_map(|value| value.split_whitespace())
}

/// `SystemCallFilter=`, `RestrictAddressFamilies=` and `RestrictNamespaces=` as one filter.
fn filter(settings: &BTreeMap<&str, Vec<&str>>) -> Result<Option<BpfProgram>> {
    let empty = Vec::new();
    let of = |key: &str| settings.get(key).unwrap_or(&empty);
    let mut allowed = BTreeSet::new();
    for value in of("SystemCallFilter") {
        let (value, denies) = match value.strip_prefix('~') {
            Some(value) => (value, true),
            None => (*value, false),
        };
        for word in value.split_whitespace() {
            let Some(calls) = calls(word)? else {
                eprintln!(
                    "SKIPPED: no systemd-analyze, so agents run without a filter of system calls"
                );
                return Ok(None);
            };
            match denies {
                true => allowed.retain(|call| !calls.contains(call)),
                false => allowed.extend(calls),
            }
        }
    }
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed
        .iter()
        .map(|call| (i64::from(call.id()), Vec::new()))
        .collect();
    let families = words(of("RestrictAddressFamilies")).map(family);
    let families = families.collect::<Result<Vec<_>>>()?;
    only(&mut rules, Sysno::socket, 0, &families)?;
    ensure!(
        of("RestrictNamespaces") == &["net"],
        "RestrictNamespaces=net is what this can do"
    );
    let net = u64::from(u32::try_from(libc_net())?);
    only(&mut rules, Sysno::unshare, 0, &[net])?;
    only(&mut rules, Sysno::setns, 1, &[net])?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(REFUSED),
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    Ok(Some(filter.try_into()?))
}

/// `CLONE_NEWNET`.
fn libc_net() -> i32 {
    nix::sched::CloneFlags::CLONE_NEWNET.bits()
}

/// The call has one of these values as that argument, or is refused.
fn only(
    rules: &mut BTreeMap<i64, Vec<SeccompRule>>,
    call: Sysno,
    argument: u8,
    values: &[u64],
) -> Result<()> {
    let Some(rule) = rules.get_mut(&i64::from(call.id())) else {
        return Ok(());
    };
    for value in values {
        let is =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        rule.push(SeccompRule::new(vec![is])?);
    }
    Ok(())
}

/// The number of an address family.
fn family(name: &str) -> Result<u64> {
    let family = match name {
        "AF_UNIX" => rustix::net::AddressFamily::UNIX,
        "AF_INET" => rustix::net::AddressFamily::INET,
        "AF_INET6" => rustix::net::AddressFamily::INET6,
        "AF_NETLINK" => rustix::net::AddressFamily::NETLINK,
        "AF_PACKET" => rustix::net::AddressFamily::PACKET,
        _ => bail!("unknown address family {name}"),
    };
    Ok(u64::from(family.as_raw()))
}

/// The system calls that a word of `SystemCallFilter=` stands for, as far as this machine has them.
fn calls(word: &str) -> Result<Option<BTreeSet<Sysno>>> {
    if !word.starts_with('@') {
        let call = Sysno::from_str(word);
        let call = call
            .ok()
            .with_context(|| format!("unknown system call {word}"))?;
        return Ok(Some(BTreeSet::from([call])));
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["--no-pager", "syscall-filter", word]);
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.context("asking systemd-analyze")?,
    };
    ensure!(
        output.status.success(),
        "systemd-analyze does not know {word}: {output:?}"
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = BTreeSet::new();
    for line in text.lines().skip(1).map(str::trim) {
        if line.starts_with('@') {
            found.extend(calls(line)?.unwrap_or_default());
        } else if let Ok(call) = Sysno::from_str(line) {
            found.insert(call);
        }
    }
    ensure!(!found.is_empty(), "{word} has no system call: {text}");
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_understood_and_takes_something() {
        let limits = Limits::of(UNIT).unwrap();
        assert!(limits.lost.contains(CapabilitySet::SYS_MODULE));
        assert!(!limits.lost.contains(CapabilitySet::NET_ADMIN));
    }

    /// A program that has no more than the agent: what it may not do fails.
    #[test]
    #[ignore = "needs root"]
    fn a_confined_program_is_confined() {
        let told = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            confine(&mut command).unwrap();
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let status = told("cat /proc/self/status");
        let known = CapabilitySet::all()
            .iter_names()
            .fold(0, |all, (_, one)| all | one.bits());
        let kept = known & !Limits::of(UNIT).unwrap().lost.bits();
        let bounding = format!("CapBnd:\t{kept:016x}");
        assert!(status.contains(&bounding), "{bounding} is not in {status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        if Limits::of(UNIT).unwrap().filter.is_some() {
            assert!(status.contains("Seccomp:\t2"), "{status}");
            assert_eq!(
                told("unshare --uts true 2>/dev/null || echo refused"),
                "refused\n"
            );
        }
    }
}
