//! `netd libvirt status`: what libvirt's own network driver has on this host.

use serde::Serialize;

use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::libvirt::daemon::Driver;
use crate::libvirt::{Places, Survey, module};

pub(super) async fn status(output: &mut Output, json: bool) -> Result<(), Failure> {
    let places = Places::default();
    let survey = Survey::take(&places, None)
        .await
        .map_err(|error| Failure::from(format!("cannot look at libvirt's networks: {error:#}")))?;
    if json {
        return output.answer(&Told::new(&survey, &places));
    }
    print_daemons(&survey, output);
    print_set_up(&places, output);
    output.extra("\n");
    print_networks(&survey, output);
    output.data(format!(
        "\nRules of libvirt's in the kernel: {}\n",
        survey.rules
    ));
    if !survey.rules.legacy.is_empty() {
        output.data(format!(
            "netd does not read the older iptables' tables, which this host has: {}; libvirt's rules \
             there, if any: iptables-legacy-save | grep LIBVIRT_\n",
            survey.rules.legacy.join(", ")
        ));
    }
    for obstacle in survey.obstacles() {
        output.data(format!("In the way of `netd libvirt adopt`: {obstacle}\n"));
    }
    Ok(())
}

/// What `libvirt status --json` prints.
#[derive(Serialize)]
struct Told {
    /// The daemon that serves libvirt's networks; none without libvirt.
    served_by: Option<&'static str>,
    version: Option<String>,
    daemons: Vec<ToldDaemon>,
    /// Where libvirtd is told to load its drivers from.
    driver_dir: Option<String>,
    networks: Vec<ToldNetwork>,
    rules: String,
    legacy_tables: Vec<String>,
    obstacles: Vec<String>,
}

/// A daemon that runs.
#[derive(Serialize)]
struct ToldDaemon {
    program: &'static str,
    pid: u32,
    /// "libvirt", "none" or a path.
    driver: String,
}

/// A network of libvirt's.
#[derive(Serialize)]
struct ToldNetwork {
    name: String,
    active: bool,
    autostart: bool,
    persistent: bool,
    bridge: Option<String>,
    ports: usize,
    leases: usize,
    dnsmasq: Option<u32>,
}

impl Told {
    fn new(survey: &Survey, places: &Places) -> Self {
        let daemons = survey.daemons.iter().map(|daemon| ToldDaemon {
            program: daemon.kind.program(),
            pid: daemon.pid,
            driver: match &daemon.driver {
                Driver::Stock => "libvirt".to_owned(),
                Driver::Netd(path) => path.display().to_string(),
                Driver::Absent => "none".to_owned(),
            },
        });
        let networks = survey.networks.iter().map(|network| {
            let running = network.running.as_ref();
            let bridge = network.network();
            ToldNetwork {
                name: network.name.clone(),
                active: running.is_some(),
                autostart: network.autostart,
                persistent: network.definition.is_some(),
                bridge: bridge.and_then(|network| network.bridge.name.clone()),
                ports: running.map_or(0, |running| running.ports.len()),
                leases: running.map_or(0, |running| running.leases),
                dnsmasq: running
                    .and_then(|running| running.dnsmasq.as_ref())
                    .map(|process| process.pid()),
            }
        });
        let configured = module::configured(places);
        Self {
            served_by: survey.kind.map(|kind| kind.program()),
            version: survey.version.map(|version| version.to_string()),
            daemons: daemons.collect(),
            driver_dir: configured.map(|(folder, _)| folder.to_string()),
            networks: networks.collect(),
            rules: survey.rules.to_string(),
            legacy_tables: survey.rules.legacy.clone(),
            obstacles: survey.obstacles(),
        }
    }
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

fn print_set_up(places: &Places, output: &mut Output) {
    if let Some((folder, file)) = module::configured(places) {
        output.data(format!(
            "libvirtd is told to load its drivers from {folder} ({}).\n",
            file.display()
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
