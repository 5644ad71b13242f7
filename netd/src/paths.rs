//! Where one agent keeps everything it touches. Two agents with different settings, each in its
//! own network namespace, never meet.

use std::path::PathBuf;

/// The directories and the socket of one agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Paths {
    /// Paths and definitions: netd.toml, networks/NAME.xml and autostart/NAME.xml
    #[arg(long, value_name = "DIR", default_value = "/etc/netd")]
    pub config_dir: PathBuf,
    /// Persistent state: DHCP leases, dnsmasq's configuration, bans
    #[arg(long, value_name = "DIR", default_value = "/var/lib/netd")]
    pub state_dir: PathBuf,
    /// Runtime state, lost at reboot: active networks, pid files
    #[arg(long, value_name = "DIR", default_value = "/run/netd")]
    pub run_dir: PathBuf,
    /// Pinned eBPF programs, links and maps; a bpf file system is mounted there if there is none
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/netd")]
    pub bpffs: PathBuf,
}

/// Default path of the agent's socket.
pub const DEFAULT_SOCKET: &str = "/run/netd/netd-sock";

impl Paths {
    /// The directories of a test, below one of its own.
    #[cfg(test)]
    pub(crate) fn below(dir: &std::path::Path) -> Self {
        Self {
            config_dir: dir.join("etc"),
            state_dir: dir.join("lib"),
            run_dir: dir.join("run"),
            bpffs: dir.join("bpf"),
        }
    }

    /// Definitions.
    #[must_use]
    pub fn networks_dir(&self) -> PathBuf {
        self.config_dir.join("networks")
    }

    /// Symbolic links of the networks that start with the agent.
    #[must_use]
    pub fn autostart_dir(&self) -> PathBuf {
        self.config_dir.join("autostart")
    }

    /// What an administrator set beside the networks; see [`Config`](crate::config::Config).
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config_dir.join("netd.toml")
    }

    /// Files that say more, or something else, than that one: `*.toml`.
    #[must_use]
    pub fn config_drop_ins(&self) -> PathBuf {
        self.config_dir.join("netd.toml.d")
    }

    /// The administrator's programs that are run when networks start, stop and change.
    #[must_use]
    pub fn hooks_dir(&self) -> PathBuf {
        self.config_dir.join("hooks")
    }

    /// dnsmasq's configuration, host files and leases.
    #[must_use]
    pub fn dnsmasq_dir(&self) -> PathBuf {
        self.state_dir.join("dnsmasq")
    }

    /// Bans that have not ended.
    #[must_use]
    pub fn bans_file(&self) -> PathBuf {
        self.state_dir.join("bans.json")
    }

    /// Who this host is to DHCPv6 servers.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.state_dir.join("dhcpv6-identity")
    }

    /// An empty directory, which the agent locks.
    #[must_use]
    pub fn lock_dir(&self) -> PathBuf {
        self.state_dir.join("lock")
    }

    /// What a switch from libvirt's own network driver left: its journal while it goes on, the folder that
    /// libvirtd loads its drivers from, and whether libvirt's sockets are served.
    #[must_use]
    pub fn libvirt_dir(&self) -> PathBuf {
        self.state_dir.join("libvirt")
    }

    /// One record per active network.
    #[must_use]
    pub fn active_dir(&self) -> PathBuf {
        self.run_dir.join("networks")
    }

    /// The names of the network namespaces of networks' services, by bridge.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    /// What is known of the networks' relays, by bridge.
    #[must_use]
    pub fn relay_dir(&self) -> PathBuf {
        self.run_dir.join("relay")
    }

    /// A directory for each network with ports, with a file for each: NETWORK/UUID.xml.
    #[must_use]
    pub fn ports_dir(&self) -> PathBuf {
        self.run_dir.join("ports")
    }
}
