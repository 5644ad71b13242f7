//! `vm`: netd on kernels other than this machine's, each booted in QEMU.
//!
//! ```text
//! target/vm/SUITE/apt      apt's lists, for this suite alone
//! target/vm/SUITE/kernel   the kernel and its modules, unpacked
//! target/vm/SUITE/root     what becomes the initramfs
//! target/vm/SUITE/log      everything the machine said
//! ```
//!
//! The machine is emulated (TCG), so no hardware support is needed and nothing is installed in it: its
//! file system is an initramfs with busybox, dnsmasq, netd and the test programs. No root is needed
//! either.

pub mod image;
pub mod kernel;
mod machine;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::tools::{binary, build, built_tests, target};
use crate::{packages, verifier};

/// The kernels there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 12's
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's
    #[value(name = "6.12")]
    Trixie,
    /// Debian sid's
    Newest,
}

impl Kernel {
    /// Debian's name of the release that it is of.
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Newest => "sid",
        }
    }

    /// The tests of how programs are attached there: TCX came with Linux 6.6.
    fn attaching(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &CLSACT,
            Self::Trixie | Self::Newest => &TCX,
        }
    }
}

/// What to run, and where.
#[derive(Args)]
pub struct Choice {
    /// Kernels; all of them where none is named
    #[arg(value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Every packet test too, not the load and the smoke test alone: some minutes more for each
    #[arg(long)]
    packets: bool,
    /// Namespace tests to run instead of the smoke test's, by name or a part of it
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    only: Vec<String>,
    /// Record the verifier's instructions in tests/prog/verified.json
    #[arg(long)]
    write: bool,
    /// Ask Debian for newer kernels than those that were fetched before
    #[arg(long)]
    refresh: bool,
}

/// The smoke test: DHCP, NAT, forwards, isolation, a restart, teardown.
const SMOKE: [&str; 14] = [
    "dhcp_dns::a_lease_holds_what_the_definition_says",
    "dhcp_dns::an_isolated_guest_gets_an_address_and_no_way_out",
    "nat::tcp_udp_and_ping_reach_the_outside_and_come_back",
    "forwards::p35_p62_published_ports_are_reached_from_everywhere",
    "modes::guests_of_one_network_and_their_host_talk_in_every_mode",
    "life::nothing_is_lost_while_nothing_happens",
    "life::a_restart_loses_no_packet",
    "networks::destroying_a_network_leaves_nothing_of_it",
    "advertised::guests_configure_themselves_in_every_mode",
    // What the kernel of the machine that the tests run on may lack.
    "shaping::both_directions_without_an_agent_and_with_filters",
    "shaping::a_floor_is_kept_whatever_the_others_get",
    "closed_ports::whom_the_bridge_lets_in_goes_by_the_bridge",
    "ipsec_tunnels::guests_of_a_routed_network_talk_by_a_tunnel",
    "ipsec_tunnels::guests_of_a_nat_network_talk_by_a_tunnel",
];

/// One filter takes the place of another without a gap.
const CLSACT: [&str; 1] = ["clsact::agents_come_and_go_without_loss"];

/// What a new agent finds and what teardown leaves, where programs are attached by TCX.
const TCX: [&str; 2] = [
    "life::a_restart_leaves_the_programs_in_place",
    "networks::teardown_needs_no_agent_and_leaves_no_program_attached",
];

/// Boots each kernel and runs the tests on it; one that fails does not hide another.
pub fn vm(choice: &Choice) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the machines are amd64 ones, and this one cannot build programs for them");
    }
    packages::install(packages::VM)?;
    build()?;
    let programs = image::Programs {
        netd: binary()?,
        tests: built_tests(&["prog", "netns"])?,
    };
    let kernels = if choice.kernels.is_empty() {
        Kernel::value_variants()
    } else {
        &choice.kernels
    };
    let mut told = Vec::new();
    let mut failed = Vec::new();
    for kernel in kernels {
        match run(*kernel, choice, &programs) {
            Ok(report) => told.push(report.text()),
            Err(error) => {
                eprintln!("error: {}: {error:#}", kernel.suite());
                failed.push(kernel.suite());
            }
        }
    }
    for report in told {
        print!("{report}");
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not well: {}", failed.join(", "))
}

fn run(kernel: Kernel, choice: &Choice, programs: &image::Programs) -> Result<machine::Report> {
    let place = directory(kernel);
    let fetched = kernel::fetch(kernel.suite(), &place, choice.refresh)?;
    let runs = runs(kernel, choice);
    let initramfs = image::build(&place, &fetched, programs, &script(choice, &runs))?;
    let said = machine::boot(&place, &fetched.image, &initramfs)?;
    let wanted: Vec<usize> = runs.iter().map(|run| run.tests).collect();
    let report = machine::Report::new(&said, &wanted)
        .with_context(|| format!("see {}", place.join("log").display()))?;
    if choice.write {
        verifier::write(report.verified.clone())?;
    }
    Ok(report)
}

fn directory(kernel: Kernel) -> PathBuf {
    target().join("vm").join(kernel.suite())
}

/// A run of a test program.
struct Run {
    /// The program and what it is told.
    command: String,
    /// How many tests are to pass at least.
    tests: usize,
}

fn runs(kernel: Kernel, choice: &Choice) -> Vec<Run> {
    let run = |command: String, tests: usize| Run { command, tests };
    let mut runs = vec![run(
        "prog --nocapture --exact verified::no_program_costs_the_verifier_more_than_recorded"
            .to_owned(),
        1,
    )];
    if choice.packets {
        // What is measured here means nothing, and the first run had the verifier's.
        runs.push(run("prog --skip speed:: --skip verified::".to_owned(), 100));
    }
    runs.push(if choice.only.is_empty() {
        let tests = [SMOKE.as_slice(), kernel.attaching()].concat();
        run(format!("netns --exact {}", tests.join(" ")), tests.len())
    } else {
        run(format!("netns {}", choice.only.join(" ")), 1)
    });
    runs
}

/// What the machine does once its file systems are there.
fn script(choice: &Choice, runs: &[Run]) -> String {
    let mut script = String::new();
    if choice.write {
        script += "export NETD_VERIFIED_PRINT=1\n";
    }
    for run in runs {
        script += &format!(
            "run /t/{} --include-ignored --test-threads 1\n",
            run.command
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine is booted for minutes before it could say that a test has moved.
    #[test]
    fn the_tests_that_the_machines_run_exist() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/netns");
        for test in [SMOKE.as_slice(), &CLSACT, &TCX].concat() {
            let (module, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(format!("{folder}/{module}.rs")).unwrap();
            assert!(source.contains(&format!("fn {name}(")), "no test {test}");
        }
    }
}
