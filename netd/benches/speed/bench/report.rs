//! Samples, and how they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::json;

use super::Choice;
use super::kind::{Cable, Kind};
use super::programs::Run;

/// Less than this share of the packets at the other end is worth a mark.
const DELIVERED: f64 = 0.99;
/// Whom netd is compared with, in the order of the columns.
const COMPARED: [Kind; 5] = [
    Kind::Limit,
    Kind::LimitTc,
    Kind::Plain,
    Kind::Nft,
    Kind::Flowtable,
];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "`name` says it")]
pub enum Case {
    FlowsUp,
    FlowsDown,
    Forwards,
    ForwardsOpened,
    NetworksUp,
    NetworksDown,
    NetworksOpened,
    StreamsUp(Cable),
    StreamsDown(Cable),
    Connections(Cable),
    LatencyTcp(Cable),
    LatencyTcp99(Cable),
    LatencyUdp(Cable),
    LatencyUdp99(Cable),
    NetStart,
    FirstStart,
    Restart,
    FirstForward,
    ForwardAdd,
    HostAdd,
    Memory,
    IdleMemory,
}

impl Case {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        use Cable::{Tap, Veth};
        match self {
            Self::FlowsUp => "small packets, guest to outside",
            Self::FlowsDown => "small packets, outside to guest",
            Self::Forwards => "small packets, outside to published port",
            Self::ForwardsOpened => "first packets, outside to published port",
            Self::NetworksUp => "small packets, guest to outside, other networks",
            Self::NetworksDown => "small packets, outside to guest, other networks",
            Self::NetworksOpened => "first packets, guest to outside, other networks",
            Self::StreamsUp(Veth) => "TCP, guest to outside",
            Self::StreamsUp(Tap) => "TCP, guest at a tap to outside",
            Self::StreamsDown(Veth) => "TCP, outside to guest",
            Self::StreamsDown(Tap) => "TCP, outside to guest at a tap",
            Self::Connections(Veth) => "short TCP connections, guest to outside",
            Self::Connections(Tap) => "short TCP connections, guest at a tap to outside",
            Self::LatencyTcp(Veth) => "TCP question and answer, median",
            Self::LatencyTcp(Tap) => "TCP question and answer, guest at a tap, median",
            Self::LatencyTcp99(Veth) => "TCP question and answer, 99th percentile",
            Self::LatencyTcp99(Tap) => "TCP question and answer, guest at a tap, 99th percentile",
            Self::LatencyUdp(Veth) => "UDP question and answer, median",
            Self::LatencyUdp(Tap) => "UDP question and answer, guest at a tap, median",
            Self::LatencyUdp99(Veth) => "UDP question and answer, 99th percentile",
            Self::LatencyUdp99(Tap) => "UDP question and answer, guest at a tap, 99th percentile",
            Self::NetStart => "net-start until dnsmasq answers",
            Self::FirstStart => "agent start that makes the networks",
            Self::Restart => "agent start that finds the networks",
            Self::FirstForward => "forward add --live, the first of all",
            Self::ForwardAdd => "forward add --live, another one",
            Self::HostAdd => "net-update add ip-dhcp-host --live, by virsh",
            Self::Memory => "agent's resident memory, 131072 flows",
            Self::IdleMemory => "agent's resident memory, no flows",
        }
    }

    /// What its number counts.
    pub fn counts(self) -> &'static str {
        match self {
            Self::FlowsUp | Self::FlowsDown => "flows",
            Self::Forwards | Self::ForwardsOpened => "published ports",
            Self::StreamsUp(_) | Self::StreamsDown(_) => "streams",
            Self::NetworksUp
            | Self::NetworksDown
            | Self::NetworksOpened
            | Self::NetStart
            | Self::FirstStart
            | Self::Restart
            | Self::Memory
            | Self::IdleMemory
            | Self::FirstForward
            | Self::ForwardAdd
            | Self::HostAdd => "networks",
            Self::Connections(_)
            | Self::LatencyTcp(_)
            | Self::LatencyTcp99(_)
            | Self::LatencyUdp(_)
            | Self::LatencyUdp99(_) => "at a time",
        }
    }
}

/// In what it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Delivered packets for the time one processor worked, in millions a second.
    Rate,
    /// Time one processor worked for a packet that was sent, in nanoseconds.
    Nanoseconds,
    /// Share of the packets that arrived.
    Delivered,
    /// TCP payload.
    Gigabits,
    /// TCP payload for the time that both ends had the processor.
    GigabitsOfOne,
    /// Connections.
    PerSecond,
    /// Time.
    Microseconds,
    /// Time.
    Milliseconds,
    /// Memory.
    Mebibytes,
}

impl Metric {
    /// Its name in tables and files; the first word is the unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rate => "Mpps of one processor",
            Self::Nanoseconds => "ns of processor time a packet, generator subtracted",
            Self::Delivered => "share delivered",
            Self::Gigabits => "Gbit/s",
            Self::GigabitsOfOne => "Gbit/s of processor time",
            Self::PerSecond => "connections/s",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Rate | Self::Delivered | Self::Gigabits | Self::GigabitsOfOne | Self::PerSecond
        )
    }

    /// Is there a table of it?
    fn is_shown(self) -> bool {
        self != Self::Delivered
    }
}

/// One measurement.
struct Sample {
    case: Case,
    at: u64,
    peer: &'static str,
    metric: Metric,
    value: f64,
}

/// Everything that was measured, and what was not.
pub struct Report {
    machine: serde_json::Value,
    samples: Vec<Sample>,
    missing: BTreeSet<String>,
}

/// Values of one peer, in the order of the rounds.
type Values = Vec<f64>;

impl Report {
    /// An empty one that knows the machine.
    ///
    /// # Errors
    /// The kernel does not say what it is.
    pub fn new(choice: &Choice) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        let setting = |name: &str| read(&format!("/proc/sys/net/netfilter/{name}"));
        let setting = |name| setting(name).trim().parse::<u64>().ok();
        let kernel = rustix::system::uname();
        let machine = json!({
            "date": jiff::Timestamp::now().to_string(),
            "netd": env!("CARGO_PKG_VERSION"),
            "kernel": kernel.release().to_string_lossy(),
            "processor": model,
            "processors": std::thread::available_parallelism()?.get(),
            "load": read("/proc/loadavg").trim(),
            "nf_conntrack_max": setting("nf_conntrack_max"),
            "nf_conntrack_buckets": setting("nf_conntrack_buckets"),
            "rounds": choice.effort.rounds,
            "packets": choice.effort.packets,
        });
        Ok(Self {
            machine,
            samples: Vec::new(),
            missing: BTreeSet::new(),
        })
    }

    /// Notes a measurement.
    pub fn add(&mut self, case: Case, at: u64, peer: &'static str, metric: Metric, value: f64) {
        self.samples.push(Sample {
            case,
            at,
            peer,
            metric,
            value,
        });
    }

    /// Notes what became of packets.
    pub fn packets(&mut self, case: Case, at: u64, peer: &'static str, run: Run) {
        let (sent, delivered) = (run.sent as f64, run.delivered as f64);
        let busy = run.busy.as_secs_f64();
        for (metric, value) in [
            (Metric::Rate, delivered / busy / 1e6),
            (Metric::Nanoseconds, busy / sent * 1e9),
            (Metric::Delivered, delivered / sent),
        ] {
            self.add(case, at, peer, metric, value);
        }
    }

    /// Notes what could not be measured, and why.
    pub fn not_measured(&mut self, peer: &str, what: &str, why: &str) {
        let why = why.lines().collect::<Vec<_>>().join("; ");
        self.missing.insert(format!("{peer}: {what}: {why}"));
    }

    /// Medians over a case's number, peer by peer.
    pub fn curves(&self, case: Case, metric: Metric) -> BTreeMap<&'static str, Vec<(u64, f64)>> {
        let mut curves: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((_, _, at), peers) in
            self.table(|sample| sample.case == case && sample.metric == metric)
        {
            for (peer, values) in peers {
                curves.entry(peer).or_default().push((at, median(&values)));
            }
        }
        curves
    }

    fn table(
        &self,
        wanted: impl Fn(&Sample) -> bool,
    ) -> BTreeMap<(Case, Metric, u64), BTreeMap<&'static str, Values>> {
        let mut table: BTreeMap<_, BTreeMap<_, Values>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| wanted(sample)) {
            let peers = table
                .entry((sample.case, sample.metric, sample.at))
                .or_default();
            peers.entry(sample.peer).or_default().push(sample.value);
        }
        table
    }

    /// Tables in Markdown: medians, least and most of each peer, and netd as ratios to the others.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for name in ["date", "netd", "kernel", "processor", "processors", "load"] {
            let value = &self.machine[name];
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            let _ = writeln!(text, "- {name}: {value}");
        }
        let mut last = None;
        for ((case, metric, at), peers) in self.table(|sample| sample.metric.is_shown()) {
            let rows = self.net(metric, peers);
            let columns: Vec<_> = Kind::ALL
                .into_iter()
                .filter(|kind| self.has_column(case, metric, *kind))
                .collect();
            let compared: Vec<_> = COMPARED
                .into_iter()
                .filter(|kind| columns.contains(kind))
                .collect();
            if last.replace((case, metric)) != Some((case, metric)) {
                text += &head(case, metric, &columns, &compared);
            }
            let _ = write!(text, "| {at} |");
            for kind in &columns {
                let cell = rows.get(kind.name()).map_or("–".to_owned(), |values| {
                    let mark = if self.is_lossy(case, at, kind.name()) {
                        " **!**"
                    } else {
                        ""
                    };
                    spread(values) + mark
                });
                let _ = write!(text, " {cell} |");
            }
            for kind in &compared {
                let ratio = rows.get(Kind::Netd.name()).zip(rows.get(kind.name()));
                let cell = ratio.map_or("–".to_owned(), |(netd, peer)| ratio_of(netd, peer));
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text + &self.remarks()
    }

    /// Processor time of a packet without the generator's own, which the peer `empty` shows.
    fn net(
        &self,
        metric: Metric,
        mut peers: BTreeMap<&'static str, Values>,
    ) -> BTreeMap<&'static str, Values> {
        if metric == Metric::Nanoseconds
            && let Some(empty) = peers.remove(Kind::Empty.name())
        {
            let generator = median(&empty);
            for value in peers.values_mut().flatten() {
                *value -= generator;
            }
        }
        peers
    }

    fn has_column(&self, case: Case, metric: Metric, kind: Kind) -> bool {
        let is_generator = metric == Metric::Nanoseconds && kind == Kind::Empty;
        let measured = |sample: &Sample| {
            (sample.case, sample.metric, sample.peer) == (case, metric, kind.name())
        };
        !is_generator && self.samples.iter().any(measured)
    }

    fn is_lossy(&self, case: Case, at: u64, peer: &str) -> bool {
        self.samples.iter().any(|sample| {
            sample.metric == Metric::Delivered
                && (sample.case, sample.at, sample.peer) == (case, at, peer)
                && sample.value < DELIVERED
        })
    }

    /// Lost packets, and what was not measured.
    fn remarks(&self) -> String {
        let mut text = String::new();
        for ((case, _, at), peers) in self.table(|sample| sample.metric == Metric::Delivered) {
            for (peer, shares) in peers {
                let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
                if least < DELIVERED {
                    let _ = writeln!(
                        text,
                        "- **!** {peer} delivered {:.1} % at least: {}, {at} {}",
                        least * 100.0,
                        case.name(),
                        case.counts()
                    );
                }
            }
        }
        for missing in &self.missing {
            let _ = writeln!(text, "- Not measured: {missing}");
        }
        if text.is_empty() {
            text
        } else {
            format!("\n{text}")
        }
    }

    /// The machine, every sample, and what was not measured.
    ///
    /// # Errors
    /// A value that JSON has no word for.
    pub fn json(&self) -> Result<String> {
        let samples: Vec<_> = self
            .samples
            .iter()
            .map(|sample| {
                json!({
                    "case": sample.case.name(),
                    "at": sample.at,
                    "counts": sample.case.counts(),
                    "peer": sample.peer,
                    // The generator's time is in it here, and a sample of its own.
                    "unit": sample.metric.unit().trim_end_matches(", generator subtracted"),
                    "value": sample.value,
                })
            })
            .collect();
        let all = json!({
            "machine": self.machine,
            "samples": samples,
            "not_measured": self.missing,
        });
        let text = serde_json::to_string_pretty(&all).context("writing JSON")?;
        Ok(text + "\n")
    }
}

/// Title and head of a table.
fn head(case: Case, metric: Metric, columns: &[Kind], compared: &[Kind]) -> String {
    let better = if metric.more_is_better() {
        "more"
    } else {
        "less"
    };
    let mut text = format!(
        "\n{}: {}; {better} is better\n\n",
        case.name(),
        metric.unit()
    );
    let _ = write!(text, "| {} |", case.counts());
    for kind in columns {
        let _ = write!(text, " {} |", kind.name());
    }
    for kind in compared {
        let _ = write!(text, " netd ÷ {} |", kind.name());
    }
    text + "\n|" + &"---|".repeat(1 + columns.len() + compared.len()) + "\n"
}

/// Median, least and most.
fn spread(values: &Values) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(values);
    let digits = match median.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

/// Median of the ratios round by round: what slows a round down slows both.
fn ratio_of(netd: &Values, peer: &Values) -> String {
    let ratios: Values = netd
        .iter()
        .zip(peer)
        .map(|(netd, peer)| netd / peer)
        .collect();
    format!("{:.2}", median(&ratios))
}

fn median(values: &Values) -> f64 {
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
