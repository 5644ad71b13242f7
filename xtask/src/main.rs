//! Work on netd itself: `cargo xtask COMMAND`.

mod against;
mod apt;
mod bench;
mod checks;
mod demo;
mod differential;
mod dist;
mod documents;
mod exposure;
mod hosts;
mod msrv;
mod packages;
mod root;
mod run;
mod setup;
mod structure;
mod tools;
mod verifier;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tools::build;

/// Work on netd: everything a command needs is installed first, once, and said aloud.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start the agent as root with the network `default` (192.168.122.0/24 on virbr0)
    #[command(after_help = "Examples:
  cargo xtask run
  cargo xtask run --config-dir /tmp/a/etc --state-dir /tmp/a/lib --run-dir /tmp/a/run \\
      --bpffs /tmp/a/bpf --socket /tmp/a/run/netd-sock")]
    Run {
        /// Flags of `netd run`, passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Show a guest's way from DHCP to a page from outside, in namespaces that go away again
    Demo,
    /// Run every test: unit, packet and namespace tests; FILTER picks some by name
    #[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test model::
  cargo xtask test --test netns modes::
  cargo xtask test --clients
  cargo xtask test --clients life::")]
    Test {
        /// The tests with guests of every libvirt instead: Debian 12, 13 and sid are fetched, 2 GB in all
        #[arg(long)]
        clients: bool,
        /// Arguments of `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Send the same random traffic through netd and through the kernel's NAT with libvirt's rules,
    /// and compare what arrives; or the same random definitions to netd and to libvirt's own daemon
    #[command(after_help = "Examples:
  cargo xtask differential --seed 7 --packets 1000000
  cargo xtask differential --seed 7 --only tcp,errors,ipv6
  cargo xtask differential --xml 50000 --seed 7
  cargo xtask differential --xml 1 --seed 7 --from 4711")]
    Differential {
        /// What to run
        #[command(flatten)]
        choice: differential::Choice,
    },
    /// Measure netd beside the kernel's routing, libvirt's rules and the least that eBPF can do
    #[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench --full --json full.json --svg full.svg
  cargo xtask bench --only flows,latency
  cargo xtask bench --against v0.1.0")]
    Bench {
        /// What to measure
        #[command(flatten)]
        choice: bench::Choice,
    },
    /// Compare the verifier's instructions per program with tests/prog/verified.json, or record them
    Verifier {
        /// Compare or record
        #[command(flatten)]
        choice: verifier::Choice,
    },
    /// Boot Debian's kernels in QEMU and run the tests on them: load, smoke, packets
    #[command(after_help = "Examples:
  cargo xtask vm
  cargo xtask vm 6.1 --packets
  cargo xtask vm newest --only life::,nat::")]
    Vm {
        /// Which kernels, which tests
        #[command(flatten)]
        choice: vm::Choice,
    },
    /// Formatting, clippy (eBPF crate included), documentation, unused dependencies, structure, the unit
    Lint,
    /// Make Debian packages in target/debian: netd, and its driver for libvirtd. On Debian 12, so that they
    /// fit every later release
    Dist,
    /// Compile everything, the eBPF programs too, with the oldest Rust that Cargo.toml names
    Msrv,
    /// The part of `lint` about structure: circles between modules, long files and functions
    Structure,
    /// Install what the other commands need, and nothing else
    Setup,
    /// What `run` does once everything is built and it is root
    #[command(hide = true)]
    RunBuilt {
        /// Flags of `netd run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// What `demo` does once everything is built and it is root
    #[command(hide = true)]
    DemoBuilt,
    /// What `differential` does once everything is built and it is root
    #[command(hide = true)]
    DifferentialBuilt {
        /// Numbers and names
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// What `differential --xml` does once everything is built and it is root
    #[command(hide = true)]
    DocumentsBuilt {
        /// Numbers, and a file
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Run { flags } => {
            setup::build_tools()?;
            packages::install(packages::RUN)?;
            build()?;
            root::again("run-built", &flags)
        }
        Task::RunBuilt { flags } => run::run(&flags),
        Task::Demo => {
            setup::build_tools()?;
            packages::install(packages::DEMO)?;
            build()?;
            root::again("demo-built", &[])
        }
        Task::DemoBuilt => demo::demo(),
        Task::Differential { choice } => {
            setup::build_tools()?;
            packages::install(packages::DIFFERENTIAL)?;
            build()?;
            if let Some(count) = choice.xml {
                return documents::start(&choice.documents(count));
            }
            root::again("differential-built", &choice.words()?)
        }
        Task::DifferentialBuilt { words } => differential::run(&words),
        Task::DocumentsBuilt { words } => documents::run(&words),
        Task::Bench { choice } => {
            setup::build_tools()?;
            bench::bench(&choice)
        }
        Task::Verifier { choice } => {
            setup::build_tools()?;
            verifier::verifier(&choice)
        }
        Task::Vm { choice } => {
            setup::build_tools()?;
            vm::vm(&choice)
        }
        Task::Test { clients, arguments } => {
            setup::build_tools()?;
            packages::install(packages::TEST)?;
            hosts::install(clients)?;
            match clients {
                true => make_packages()?,
                false => build()?,
            }
            checks::test(clients, &arguments)
        }
        Task::Lint => {
            setup::build_tools()?;
            setup::lint_tools()?;
            checks::lint()
        }
        Task::Msrv => {
            setup::build_tools()?;
            msrv::msrv()
        }
        Task::Structure => checks::structure(),
        Task::Dist => {
            setup::build_tools()?;
            make_packages()
        }
        Task::Setup => {
            setup::build_tools()?;
            setup::lint_tools()?;
            packages::install(packages::TEST)?;
            hosts::install(false)
        }
    }
}

/// Debian's packages, of what is built first.
fn make_packages() -> Result<()> {
    setup::dist_tools()?;
    packages::install(packages::DIST)?;
    dist::dist()
}
