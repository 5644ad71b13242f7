//! `netd libvirt`: what libvirt's own network driver has on this host, and the switch from it to netd.

mod status;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::output::{Failure, Output};
use crate::libvirt::daemon::{Driver, Kind};
use crate::libvirt::journal::Journal;
use crate::libvirt::step::Step;
use crate::libvirt::switch::Switch;
use crate::libvirt::units::Units;
use crate::libvirt::{Places, Survey, adopt, own, release};
use crate::rpc::Client;

/// Commands on libvirt's own network driver.
#[derive(Debug, Subcommand)]
pub enum LibvirtCommand {
    /// Show libvirt's daemons, networks and rules on this host
    #[command(after_help = "\
Nothing is changed. Works with and without a running agent.

Examples:
  netd libvirt status
  netd libvirt status --json")]
    Status(LibvirtStatusArgs),
    /// Take all networks over from libvirt's own driver, while guests run
    #[command(after_help = "\
Definitions, autostart, running networks with their bridges, ports and DHCP leases become netd's;
libvirt's dnsmasq processes and rules are removed. Where systemd runs the host, libvirtd is restarted with
netd's driver, or virtnetworkd is stopped and masked, and netd answers in its place. Guests keep running
and connected. If a step fails, those before it are taken back; `netd libvirt release` is the way back
later.

Examples:
  netd libvirt adopt --dry-run          print the steps
  netd libvirt adopt                    take them
  netd libvirt adopt --no-restart && systemctl restart libvirtd")]
    Adopt(AdoptArgs),
    /// Give all networks back to libvirt's own driver, while guests run
    #[command(after_help = "\
The way back from `netd libvirt adopt`. Where systemd does not run libvirt's daemon, or with --no-restart,
it has to be restarted while this waits for it.

Examples:
  netd libvirt release --dry-run        print the steps
  netd libvirt release                  take them
  netd libvirt release --no-restart & sleep 5; systemctl restart libvirtd; wait")]
    Release(ReleaseArgs),
}

/// Arguments of `libvirt status`.
#[derive(Clone, Debug, Args)]
pub struct LibvirtStatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of both directions.
#[derive(Clone, Debug, Args)]
pub struct SwitchArgs {
    /// Print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Leave it to you to restart, stop and start libvirt's daemons
    #[arg(long)]
    pub no_restart: bool,
    /// The agent's state directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/netd")]
    pub state_dir: PathBuf,
    /// netd's driver for libvirtd (default: /usr/lib/netd/libvirt_driver_network.so)
    #[arg(long, value_name = "PATH")]
    pub module: Option<PathBuf>,
}

/// Arguments of `libvirt adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Both directions'.
    #[command(flatten)]
    pub switch: SwitchArgs,
}

/// Arguments of `libvirt release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Both directions'.
    #[command(flatten)]
    pub switch: SwitchArgs,
    /// How long to wait for libvirtd to be restarted
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub wait: u64,
}

/// Runs one of its commands.
pub(super) async fn libvirt(
    socket: &Path,
    output: &mut Output,
    command: &LibvirtCommand,
) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::from(format!("{error:#}"));
    match command {
        LibvirtCommand::Status(args) => status::status(output, args.json).await,
        LibvirtCommand::Adopt(args) => adopt(socket, output, args).await.map_err(failed),
        LibvirtCommand::Release(args) => release(socket, output, args).await.map_err(failed),
    }
}

async fn adopt(socket: &Path, output: &mut Output, args: &AdoptArgs) -> anyhow::Result<()> {
    let places = Places::default();
    let options = adopt::Options {
        state_dir: args.switch.state_dir.clone(),
        module: args.switch.module.clone(),
        restart: !args.switch.no_restart,
    };
    let mut client = Client::connect(socket).await?;
    let units = systemd(&args.switch).await?;
    let units = units.as_ref();
    let journal = began(&mut client, &places, units, &args.switch, output).await?;
    let survey = Survey::take(&places, units).await?;
    let networks = own::read(&mut client, &places).await?;
    let steps = adopt::steps(&survey, &networks, &places, &options)?;
    let restarts = steps
        .iter()
        .any(|step| matches!(step, Step::Restart { .. }));
    let daemons = survey
        .daemons
        .iter()
        .filter(|daemon| daemon.kind == Kind::Monolithic && daemon.driver == Driver::Stock);
    let daemons: Vec<&str> = daemons.map(|daemon| daemon.kind.program()).collect();
    let done = go(&mut client, &places, units, journal, steps, output).await?;
    if done && !restarts && !daemons.is_empty() {
        let program = daemons[0];
        output.extra(format!(
            "Done. Restart {program} now, so that it uses netd: systemctl restart {program}\n"
        ));
    }
    Ok(())
}

async fn release(socket: &Path, output: &mut Output, args: &ReleaseArgs) -> anyhow::Result<()> {
    let places = Places::default();
    let options = release::Options {
        state_dir: args.switch.state_dir.clone(),
        module: args.switch.module.clone(),
        wait: args.wait,
        restart: !args.switch.no_restart,
    };
    let mut client = Client::connect(socket).await?;
    let units = systemd(&args.switch).await?;
    let units = units.as_ref();
    let journal = began(&mut client, &places, units, &args.switch, output).await?;
    let survey = Survey::take(&places, units).await?;
    let networks = own::read(&mut client, &places).await?;
    let steps = release::steps(&survey, &networks, &places, &options)?;
    if go(&mut client, &places, units, journal, steps, output).await? {
        output
            .extra("Done: libvirt has the networks. `systemctl disable --now netd` stops netd.\n");
    }
    Ok(())
}

/// systemd, which an interrupted switch may need too. Who does without it for the rest is not stopped by it.
async fn systemd(args: &SwitchArgs) -> anyhow::Result<Option<Units>> {
    match Units::connect().await {
        Err(error) if !args.no_restart => {
            Err(error.context("with --no-restart you restart libvirt's daemons yourself"))
        }
        Err(_) => Ok(None),
        units => units,
    }
}

/// The journal, without what an earlier switch that was killed left in it; none for a dry run.
async fn began(
    client: &mut Client,
    places: &Places,
    units: Option<&Units>,
    args: &SwitchArgs,
    output: &mut Output,
) -> anyhow::Result<Option<Journal>> {
    let journal = Journal::open(&args.state_dir)?;
    if journal.last().is_some() {
        if args.dry_run {
            output
                .data("An earlier switch was interrupted; its steps would be taken back first.\n");
            return Ok(None);
        }
        output.extra("An earlier switch was interrupted; its steps are taken back first.\n");
        let mut switch = Switch {
            client,
            places,
            units,
            journal,
        };
        switch.undo(&mut |line| say(output, line)).await?;
        return Ok(Some(switch.journal));
    }
    Ok((!args.dry_run).then_some(journal))
}

/// Does the steps, or prints them where there is no journal; `true` when they were done.
async fn go(
    client: &mut Client,
    places: &Places,
    units: Option<&Units>,
    journal: Option<Journal>,
    steps: Vec<Step>,
    output: &mut Output,
) -> anyhow::Result<bool> {
    if steps.is_empty() {
        output.extra("Nothing to do.\n");
        return Ok(false);
    }
    let Some(journal) = journal else {
        for step in steps {
            output.data(format!("{step}\n"));
        }
        return Ok(false);
    };
    let mut switch = Switch {
        client,
        places,
        units,
        journal,
    };
    switch.run(steps, &mut |line| say(output, line)).await?;
    Ok(true)
}

/// Tell a step at once: some take long.
fn say(output: &mut Output, line: &str) {
    output.extra(format!("{line}\n"));
    // Who does not want to read it still wants it done.
    let _ = output.flush();
}
