//! What an administrator may set. Everything is optional, and anything else is an error. Which files it is
//! read from is in [`settings`](crate::settings).

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use netd_common::abi::DEFAULT_FLOWS;
use netd_common::clock::ticks;
use netd_common::timeout::{TIMEOUTS, Timeout};
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::Firewall;

/// Least and greatest size of the flow table, in flows of one family.
pub const FLOWS: RangeInclusive<u32> = 1024..=8_388_608;

/// Shortest and longest timeout. The longest is more than three weeks, and keeps sums of two far
/// from the end of the datapath's clock.
pub const SECONDS: RangeInclusive<u32> = 1..=2_000_000;

/// All settings of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[flows]`.
    pub flows: FlowLimits,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[xdp]`.
    pub xdp: Xdp,
    /// `[datapath]`.
    pub datapath: Datapath,
    /// `[sockets]`.
    pub sockets: Sockets,
}

/// Most clients that may be set.
pub const CLIENTS: RangeInclusive<u32> = 50..=100_000;

/// `[sockets]`: who may talk to the agent, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sockets {
    /// Does netd serve the sockets of libvirt's network daemon?
    pub libvirt: bool,
    /// Where those are.
    pub directory: PathBuf,
    /// Members of this group may change networks over them.
    pub group: String,
    /// What others may do over them.
    pub others: Others,
    /// Clients at one time, within [`CLIENTS`].
    #[serde(deserialize_with = "max_clients")]
    pub max_clients: u32,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            libvirt: false,
            directory: PathBuf::from("/run/libvirt"),
            group: "libvirt".to_owned(),
            others: Others::Auto,
            max_clients: 5000,
        }
    }
}

/// What users may do over libvirt's sockets who are neither root nor in the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// Look; where the group does not exist but a system bus does, what polkit says.
    #[default]
    Auto,
    /// What polkit says.
    Polkit,
    /// Look.
    Read,
    /// Nothing.
    Nothing,
}

/// `[datapath]`: how netd comes to the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Datapath {
    /// How programs of traffic control are attached to devices.
    pub attach: Attach,
    /// What the host's own rules may do to networks whose definition does not say.
    pub firewall: Firewall,
}

/// How programs of traffic control are attached to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// By TCX where the kernel has it, else by `clsact`.
    #[default]
    Auto,
    /// By links of their own (Linux 6.6).
    Tcx,
    /// As filters of the qdisc `clsact`.
    Clsact,
}

/// `[xdp]`: which devices have the XDP fast path (see docs/performance.md). None unless it is said:
/// many drivers restart their queues for it, and it does nothing for TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Xdp {
    /// Physical uplinks whose drivers redirect.
    pub physical: bool,
    /// Other devices, by name; `*` at the end stands for any rest.
    pub on: Vec<String>,
    /// Devices that never have it, by name.
    pub off: Vec<String>,
}

impl Xdp {
    /// May any device have it?
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.physical || !self.on.is_empty()
    }

    /// Is the device to have it, if its driver can? `physical` says what it is.
    #[must_use]
    pub fn wants(&self, device: &str, physical: bool) -> bool {
        let named = |names: &[String]| {
            names.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => device.starts_with(start),
                None => device == name,
            })
        };
        !named(&self.off) && (named(&self.on) || (self.physical && physical))
    }
}

/// `[flows]`: how many flows there may be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowLimits {
    /// Flows of each family, over all networks, within [`FLOWS`].
    #[serde(deserialize_with = "max_flows")]
    pub max: u32,
    /// Flows of each family that one network may have; 0 is no limit but `max`.
    #[serde(deserialize_with = "max_per_network")]
    pub max_per_network: u32,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            max: DEFAULT_FLOWS,
            max_per_network: 0,
        }
    }
}

/// A time in seconds, within [`SECONDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Seconds(u32);

impl Seconds {
    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

macro_rules! declare_timeouts {
    ($($variant:ident = $setting:ident, $seconds:literal, $doc:literal;)*) => {
        /// `[timeouts]`: how long a flow in each state lives without a packet. Names and defaults
        /// are those of netfilter's `nf_conntrack_*_timeout_*`.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Timeouts {
            $(#[doc = $doc] pub $setting: Seconds,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($setting: Seconds($seconds),)* }
            }
        }

        impl Timeouts {
            /// In the datapath's ticks, by [`Timeout`].
            #[must_use]
            pub fn in_ticks(&self) -> [u32; TIMEOUTS] {
                let mut all = [0; TIMEOUTS];
                $(all[Timeout::$variant as usize] = ticks(u64::from(self.$setting.get()));)*
                all
            }
        }
    };
}
netd_common::timeouts!(declare_timeouts);

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file says something wrong.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Config {
    /// Reads the file's text; `path` is for messages.
    ///
    /// # Errors
    /// Something in it is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Invalid {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: with_hint(error.message().replace('\n', ", ")),
            }
        })
    }
}

/// The words of an error, and what was meant, if one of the names that would do is like the one that does not.
fn with_hint(message: String) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = message
        .starts_with("unknown ")
        .then(|| names.next())
        .flatten();
    let Some(unknown) = unknown else {
        return message;
    };
    let far = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match names
        .min_by_key(far)
        .filter(|name| far(name) * 3 <= unknown.len().max(3))
    {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message,
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        within(deserializer, &SECONDS, "seconds").map(Self)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

fn max_flows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    within(deserializer, &FLOWS, "flows")
}

fn max_per_network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    within(deserializer, &(0..=*FLOWS.end()), "flows, 0 for no limit")
}

fn max_clients<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    within(deserializer, &CLIENTS, "clients")
}

fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: &RangeInclusive<u32>,
    what: &str,
) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (start, end) = (range.start(), range.end());
            serde::de::Error::custom(format_args!(
                "{number} is not within {start} to {end} {what}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that packages install.
    const EXAMPLE: &str = include_str!("../../dist/netd.toml");

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/netd/netd.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_is_optional() {
        for text in ["", "# nothing", "[flows]", "[timeouts]\n[flows]\n"] {
            assert_eq!(parse(text), Ok(Config::default()), "{text}");
        }
        let config = parse("[timeouts]\nudp = 45\n[flows]\nmax = 2_048").unwrap();
        assert_eq!(config.timeouts.udp.get(), 45);
        assert_eq!(config.flows.max, 2048);
        let rest = Config {
            flows: FlowLimits {
                max: 2048,
                ..FlowLimits::default()
            },
            timeouts: Timeouts {
                udp: Seconds(45),
                ..Timeouts::default()
            },
            ..Config::default()
        };
        assert_eq!(config, rest);
    }

    #[test]
    fn errors_guess_what_was_meant() {
        let hint = |text| {
            let error = parse(text).unwrap_err();
            error
                .split_once("; did you mean ")
                .map(|(_, hint)| hint.to_owned())
        };
        for (text, wanted) in [
            ("[flow]", Some("`flows`?")),
            ("[timeouts]\nudp_steam = 5", Some("`udp_stream`?")),
            ("[datapath]\nattach = 'clsct'", Some("`clsact`?")),
            ("[datapath]\nattach = 'nothing'", None),
            ("[flows]\nmax = 1", None),
        ] {
            assert_eq!(hint(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn limits_are_part_of_the_range() {
        for text in [
            "[flows]\nmax = 1024\nmax_per_network = 0",
            "[flows]\nmax = 8388608\nmax_per_network = 8388608",
            "[timeouts]\ntcp_established = 2000000\nsctp_closing = 1",
        ] {
            parse(text).unwrap();
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, at, words) in [
            ("[flows\n", "line 1, column", "table"),
            ("flows = 3", "line 1, column 9", "FlowLimits"),
            ("[flow]", "line 1, column 2", "unknown field `flow`"),
            (
                "# é\n[flows]\n  maximum = 5",
                "line 3, column 3",
                "unknown field `maximum`, expected `max` or `max_per_network`",
            ),
            (
                "[timeouts]\nudp_steam = 5",
                "line 2, column 1",
                "`udp_stream`",
            ),
            (
                "[flows]\nmax = 1023",
                "line 2, column 7",
                "1023 is not within 1024 to 8388608 flows",
            ),
            (
                "[flows]\nmax = 8388609",
                "line 2, column 7",
                "8388609 is not within",
            ),
            (
                "[flows]\nmax_per_network = -1",
                "line 2, column 19",
                "-1 is not within 0 to 8388608 flows, 0 for no limit",
            ),
            (
                "[timeouts]\nudp = 0",
                "line 2, column 7",
                "0 is not within 1 to 2000000 seconds",
            ),
            (
                "[timeouts]\nicmp = 2000001",
                "line 2, column 8",
                "2000001 is not within",
            ),
            (
                "[timeouts]\nicmp = 4294967326",
                "line 2, column 8",
                "4294967326 is not within",
            ),
            (
                "[datapath]\nattach = 'tc'",
                "line 2, column 10",
                "unknown variant `tc`, expected one of `auto`, `tcx`, `clsact`",
            ),
            (
                "[sockets]\nmax_clients = 49",
                "line 2, column 15",
                "49 is not within 50 to 100000 clients",
            ),
            (
                "[sockets]\nothers = 'all'",
                "line 2, column 10",
                "unknown variant `all`, expected one of `auto`, `polkit`, `read`, `nothing`",
            ),
            ("[timeouts]\nudp = '5s'", "line 2, column 7", "string"),
            ("[timeouts]\nudp = 1.5", "line 2, column 7", "float"),
            (
                "[timeouts]\nudp = 5\nudp = 6",
                "line 3, column 1",
                "duplicate key",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with("/etc/netd/netd.toml, line"), "{error}");
            assert!(error.contains(at), "{text}\n{error}");
            assert!(error.contains(words), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_example_shows_every_setting_with_its_default() {
        assert_eq!(parse(EXAMPLE), Ok(Config::default()));
        let uncommented: String = EXAMPLE
            .lines()
            .filter_map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    Some(format!("{setting}\n"))
                }
                Some(_) => None,
                None => Some(format!("{line}\n")),
            })
            .collect();
        assert_eq!(parse(&uncommented), Ok(Config::default()), "{uncommented}");
        let settings = uncommented.lines().filter(|line| line.contains('='));
        assert_eq!(settings.count(), 30);
    }

    #[test]
    fn devices_have_the_xdp_fast_path_by_kind_and_name() {
        let of = |text: &str| parse(text).unwrap().xdp;
        assert!(!of("").is_used());
        let xdp = of("[xdp]\nphysical = true\non = ['vnet*', 'up']\noff = ['vnet7', 'bad*']");
        assert!(xdp.is_used());
        for (device, physical, wanted) in [
            ("eno1", true, true),
            ("eno1", false, false),
            ("bad1", true, false),
            ("vnet1", false, true),
            ("vnet7", false, false),
            ("vnet77", false, true),
            ("up", false, true),
            ("up1", false, false),
        ] {
            assert_eq!(xdp.wants(device, physical), wanted, "{device}");
        }
    }

    #[test]
    fn defaults_are_the_datapaths_own() {
        assert_eq!(
            Timeouts::default().in_ticks(),
            netd_common::timeout::DEFAULT_TIMEOUTS
        );
    }
}
