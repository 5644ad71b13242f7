//! The command line: virsh's commands and tables, `run`, and what only netd has.
//!
//! Every command but `run`, `teardown` and those about the command line itself is a client of the
//! agent's socket.

mod apply;
mod args;
mod bans;
mod config;
mod details;
mod doctor;
mod drops;
mod edit;
mod events;
mod explain;
mod flows;
mod forward;
mod guest_ports;
mod libvirt;
mod logging;
mod networks;
mod output;
mod pending;
mod ports;
mod shell;
mod stamp;
mod status;
mod table;
mod teardown;
mod update;
mod xml;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::dnsmasq;
use crate::rpc::Client;
use args::ForwardCommand;
use libvirt::LibvirtCommand;

pub use args::{Cli, Command, RunArgs};
pub use output::{Failure, Output};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called_as = args.next();
    let called_as = called_as
        .as_deref()
        .map(Path::new)
        .and_then(Path::file_name);
    if called_as.is_some_and(|name| name == dnsmasq::HELPER_NAME) {
        return lease_helper(&args.collect::<Vec<_>>());
    }
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run_agent(args, cli.socket),
        Command::Teardown(args) => teardown(args),
        Command::Completions { shell } => ended(shell::completions(shell)),
        Command::Manpages { directory } => ended(shell::manpages(&directory)),
        Command::Prepare(paths) => ended(crate::agent::prepare(&paths)),
        Command::Relay(args) => relay(&args),
        Command::LeaseHelper { args } => lease_helper(&args),
        Command::Libvirt(command) => libvirt(&cli.socket, cli.quiet, &command),
        Command::Xml(command) => offline(cli.quiet, |output| xml::xml(output, &command)),
        Command::Explain(args) => offline(cli.quiet, |output| explain::explain(output, &args)),
        Command::Config(command) => offline(cli.quiet, |output| config::config(output, &command)),
        command => client(&cli.socket, cli.quiet, command),
    }
}

fn lease_helper(args: &[OsString]) -> ExitCode {
    let status = dnsmasq::lease_helper::main(args, |name| std::env::var_os(name));
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

fn relay(args: &crate::relay::RelayArgs) -> ExitCode {
    // It outlives the agent, whose log this is.
    logging::start(LevelFilter::WARN);
    match crate::relay::main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The agent reads it there.
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_agent(args: RunArgs, socket: std::path::PathBuf) -> ExitCode {
    logging::start(LevelFilter::INFO);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    finish(runtime, async {
        let config = args.config()?;
        crate::agent::run(args.paths, config, socket).await
    })
}

fn teardown(args: args::TeardownArgs) -> ExitCode {
    // It says itself what it did.
    logging::start(LevelFilter::WARN);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    finish(runtime, teardown::teardown(args))
}

fn libvirt(socket: &Path, quiet: bool, command: &LibvirtCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let mut output = Output::new(quiet);
    let result = match runtime {
        Ok(runtime) => runtime.block_on(libvirt::libvirt(socket, &mut output, command)),
        Err(error) => Err(Failure::from(format!(
            "cannot start the async runtime: {error}"
        ))),
    };
    printed(&mut output, result)
}

fn offline(quiet: bool, command: impl FnOnce(&mut Output) -> Result<(), Failure>) -> ExitCode {
    let mut output = Output::new(quiet);
    let result = command(&mut output);
    printed(&mut output, result)
}

/// Prints what a command has to say, its failure last.
fn printed(output: &mut Output, result: Result<(), Failure>) -> ExitCode {
    let printed = output.flush();
    match result.and(printed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn finish(
    runtime: std::io::Result<tokio::runtime::Runtime>,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    ended(result)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn client(socket: &Path, quiet: bool, command: Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let mut client = match Client::connect(socket).await {
            Ok(client) => client,
            Err(error) => {
                eprintln!("error: failed to connect to the agent\nerror: {error}");
                return ExitCode::FAILURE;
            }
        };
        let mut output = Output::new(quiet);
        let result = execute(&mut client, &mut output, command).await;
        // virsh leaves an empty line after each command, failed ones included.
        output.extra("\n");
        let code = printed(&mut output, result);
        // The answer is out; a connection that breaks now changes nothing.
        let _ = client.close().await;
        code
    })
}

/// Runs one command against an agent.
pub async fn execute(
    client: &mut Client,
    output: &mut Output,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::NetList(args) => networks::list(client, output, &args).await,
        Command::NetInfo(args) => networks::info(client, output, &args).await,
        Command::NetDefine(args) => networks::define(client, output, &args).await,
        Command::NetCreate(args) => networks::create(client, output, &args).await,
        Command::NetUndefine(args) => networks::undefine(client, output, &args.network).await,
        Command::NetStart(args) => networks::start(client, output, &args.network).await,
        Command::NetApply(args) => apply::apply(client, output, &args).await,
        Command::NetDestroy(args) => networks::destroy(client, output, &args.network).await,
        Command::NetAutostart(args) => networks::autostart(client, output, &args).await,
        Command::NetDumpxml(args) => networks::dumpxml(client, output, &args).await,
        Command::NetEdit(args) => edit::edit(client, output, &args.network).await,
        Command::NetUpdate(args) => update::update(client, output, &args).await,
        Command::NetDhcpLeases(args) => networks::leases(client, output, &args).await,
        Command::NetEvent(args) => events::events(client, output, &args).await,
        Command::NetUuid(args) => networks::uuid(client, output, &args.network).await,
        Command::NetName(args) => networks::name(client, output, &args.network).await,
        Command::NetPortList(args) => ports::list(client, output, &args).await,
        Command::NetPortDumpxml(args) => ports::dumpxml(client, output, &args).await,
        Command::NetPortCreate(args) => ports::create(client, output, &args).await,
        Command::NetPortDelete(args) => ports::delete(client, output, &args).await,
        Command::Forward(ForwardCommand::Add(args)) => forward::add(client, output, &args).await,
        Command::Forward(ForwardCommand::List(args)) => forward::list(client, output, &args).await,
        Command::Forward(ForwardCommand::Delete(args)) => {
            forward::delete(client, output, &args).await
        }
        Command::Ban(command) => bans::bans(client, output, &command).await,
        Command::Reload => forward::reload(client, output).await,
        Command::Doctor(args) => doctor::doctor(client, output, &args).await,
        Command::Drops(args) => drops::drops(client, output, &args).await,
        Command::Flows(args) => flows::flows(client, output, &args).await,
        Command::Ports(args) => guest_ports::ports(client, output, &args).await,
        Command::Plan(args) => status::plan(client, output, &args).await,
        Command::Status(args) => status::status(client, output, &args).await,
        Command::Run(_)
        | Command::Teardown(_)
        | Command::Libvirt(_)
        | Command::Xml(_)
        | Command::Config(_)
        | Command::Explain(_)
        | Command::Completions { .. }
        | Command::Manpages { .. }
        | Command::Prepare(_)
        | Command::Relay(_)
        | Command::LeaseHelper { .. } => Err(Failure::from("this command asks no agent")),
    }
}
