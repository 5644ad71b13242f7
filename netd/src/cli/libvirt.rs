//! `netd libvirt`: what libvirt's own network driver has on this host, and the switch from it to netd.

use clap::Subcommand;

use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::libvirt::daemon::Driver;
use crate::libvirt::{Places, Survey};

/// Commands on libvirt's own network driver.
#[derive(Debug, Subcommand)]
pub enum LibvirtCommand {
    /// Show libvirt's daemons, networks and rules on this host
    #[command(after_help = "\
Nothing is changed. Works with and without a running agent.

Examples:
  netd libvirt status")]
    Status,
}

/// Runs one of its commands.
pub(super) fn libvirt(output: &mut Output, command: &LibvirtCommand) -> Result<(), Failure> {
    match command {
        LibvirtCommand::Status => status(output),
    }
}

fn status(output: &mut Output) -> Result<(), Failure> {
    let survey = Survey::take(&Places::default())
        .map_err(|error| Failure::from(format!("cannot look at libvirt's networks: {error:#}")))?;
    print_daemons(&survey, output);
    output.extra("\n");
    print_networks(&survey, output);
    output.data(format!(
        "\nRules of libvirt's in the kernel: {}\n",
        survey.rules
    ));
    if !survey.rules.legacy.is_empty() {
        output.data(format!(
            "iptables-legacy has the tables {}, which netd does not read; libvirt's rules there, if any: \
             iptables-legacy-save | grep LIBVIRT_\n",
            survey.rules.legacy.join(", ")
        ));
    }
    for obstacle in survey.obstacles() {
        output.data(format!("In the way of `netd libvirt adopt`: {obstacle}\n"));
    }
    Ok(())
}

fn print_daemons(survey: &Survey, output: &mut Output) {
    let Some(kind) = survey.kind else {
        output.data("libvirt has no network daemon on this host.\n");
        return;
    };
    let version = survey.version.map(|version| format!(" {version}"));
    output.data(format!(
        "libvirt{}; its networks are served by {}.\n",
        version.unwrap_or_default(),
        kind.program()
    ));
    if survey.daemons.is_empty() {
        output.data(format!("{} does not run.\n", kind.program()));
    }
    for daemon in &survey.daemons {
        let driver = match &daemon.driver {
            Driver::Stock => "libvirt's own network driver".to_owned(),
            Driver::Netd(path) => format!("the network driver {}", path.display()),
            Driver::Absent => "no network driver".to_owned(),
        };
        output.data(format!(
            "{} runs (pid {}) with {driver}.\n",
            daemon.kind.program(),
            daemon.pid
        ));
    }
}

fn print_networks(survey: &Survey, output: &mut Output) {
    let mut table = Table::new(&[
        "Network",
        "State",
        "Autostart",
        "Persistent",
        "Bridge",
        "Ports",
        "Leases",
        "dnsmasq",
    ]);
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let dash = || "-".to_owned();
    for network in &survey.networks {
        let running = network.running.as_ref();
        let bridge = network
            .network()
            .and_then(|network| network.bridge.name.clone());
        let dnsmasq = running.and_then(|running| running.dnsmasq.as_ref());
        table.row(&[
            network.name.clone(),
            running.map_or("inactive", |_| "active").to_owned(),
            yes_no(network.autostart),
            yes_no(network.definition.is_some()),
            bridge.unwrap_or_else(dash),
            running.map_or_else(dash, |running| running.ports.len().to_string()),
            running.map_or_else(dash, |running| running.leases.to_string()),
            dnsmasq.map_or_else(dash, |process| format!("pid {}", process.pid())),
        ]);
    }
    table.print(output);
}
