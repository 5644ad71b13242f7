//! Which steps a switch has, on a host as libvirtd 9.0 leaves it.

use std::fs;
use std::path::PathBuf;

use super::daemon::Kind;
use super::daemon::{Daemon, Driver};
use super::networks;
use super::own::OwnNetwork;
use super::step::{Definition, RunningNetwork, Step};
use super::units::{LIBVIRTD, Unit, VIRTNETWORKD};
use super::{Places, Survey, adopt, release};
use crate::libvirt::rules::Rules;
use crate::model;

struct Host {
    dir: tempfile::TempDir,
    places: Places,
    units: Vec<Unit>,
    daemons: Vec<Daemon>,
    kind: Kind,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let ports = places.status().join("default/ports");
        let drivers = dir
            .path()
            .join("usr/lib/x86_64-linux-gnu/libvirt/connection-driver");
        let helper = dir.path().join("usr/lib/libvirt");
        for dir in [&places.autostart(), &ports, &drivers, &helper] {
            fs::create_dir_all(dir).unwrap();
        }
        let put = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
        put(helper.join("libvirt_leaseshelper"), "");
        put(dir.path().join("netd.so"), "");
        put(
            places.definitions().join("default.xml"),
            include_str!("samples/definition.xml"),
        );
        put(
            places.status().join("default.xml"),
            include_str!("samples/status.xml"),
        );
        put(
            ports.join("9ba75e30-2d0a-4c2e-8b16-4c1f6e3cd0a1.xml"),
            include_str!("samples/port.xml"),
        );
        let units = Vec::new();
        Self {
            dir,
            places,
            units,
            daemons: Vec::new(),
            kind: Kind::Monolithic,
        }
    }

    fn survey(&self) -> Survey {
        let (networks, unread) = networks::read(&self.places);
        Survey {
            kind: Some(self.kind),
            version: None,
            daemons: self.daemons.clone(),
            units: self.units.clone(),
            networks,
            rules: Rules::default(),
            unread,
        }
    }

    fn adopt(&self, own: &[OwnNetwork]) -> anyhow::Result<Vec<Step>> {
        let options = adopt::Options {
            state_dir: self.dir.path().join("state"),
            module: Some(self.dir.path().join("netd.so")),
            restart: true,
        };
        adopt::steps(&self.survey(), own, &self.places, &options)
    }

    fn release(&self, own: &[OwnNetwork]) -> anyhow::Result<Vec<Step>> {
        let options = release::Options {
            state_dir: self.dir.path().join("state"),
            module: Some(self.dir.path().join("netd.so")),
            wait: 1,
            restart: true,
        };
        release::steps(&self.survey(), own, &self.places, &options)
    }
}

fn own(definition: &str, running: Option<RunningNetwork>) -> OwnNetwork {
    let network = model::parse(definition).unwrap();
    OwnNetwork {
        definition: Some(Definition::new(&network, false)),
        running,
    }
}

#[test]
fn a_running_network_is_taken_with_all_it_has() {
    let host = Host::new();
    let steps = host.adopt(&[]).unwrap();
    let [
        Step::Define {
            definition,
            before: None,
        },
        Step::TakeOver(network),
        Step::UseModule(_),
        Step::SetAside(files),
    ] = steps.as_slice()
    else {
        panic!("{steps:?}");
    };
    assert!(!definition.xml.contains("<port start"), "the live one");
    assert!(network.xml.contains("<mac address='52:54:00:33:fd:53'/>"));
    assert_eq!(network.ports.len(), 1);
    let names: Vec<_> = files.iter().map(|(path, _)| path.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let said: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        said[1],
        "take over network default: bridge virbr0 as it is, 1 ports of guests, DHCP and DNS with all \
         leases"
    );
}

#[test]
fn what_netd_has_changed_since_is_not_overwritten() {
    let host = Host::new();
    fs::remove_file(host.places.status().join("default.xml")).unwrap();
    let own = [own(include_str!("samples/definition.xml"), None)];
    let steps = host.adopt(&own).unwrap();
    assert!(
        !steps.iter().any(|step| matches!(step, Step::Define { .. })),
        "{steps:?}"
    );
}

#[test]
fn another_network_of_the_same_name_stands_in_the_way() {
    let host = Host::new();
    let definition = include_str!("samples/definition.xml");
    host.adopt(&[own(definition, None)]).unwrap();
    let uuid = model::parse(definition).unwrap().uuid.to_string();
    let other = "0b6c3d5e-1f2a-4b3c-8d4e-5f6a7b8c9d0e";
    let error = host.adopt(&[own(&definition.replace(&uuid, other), None)]);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains(other) && error.contains("netd net-undefine default"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_read_stands_in_the_way() {
    let host = Host::new();
    fs::write(host.places.definitions().join("broken.xml"), "<network>").unwrap();
    let error = host.adopt(&[]).unwrap_err();
    assert!(error.to_string().contains("broken.xml"), "{error:#}");
}

#[test]
fn what_is_given_back_is_what_libvirt_reads() {
    let host = Host::new();
    let taken = host.adopt(&[]).unwrap();
    let network = taken.iter().find_map(|step| match step {
        Step::TakeOver(network) => Some(network.clone()),
        _ => None,
    });
    let network = network.unwrap();
    // Both at once cannot be.
    let own = [own(
        include_str!("samples/definition.xml"),
        Some(network.clone()),
    )];
    let error = host.release(&own).unwrap_err();
    assert!(error.to_string().contains("'default'"), "{error:#}");
    networks::remove_status(&host.places, &network).unwrap();
    let steps = host.release(&own).unwrap();
    let [
        Step::GiveDefinition {
            before: Some(_), ..
        },
        Step::GiveService(_),
        Step::GiveStatus(given),
        Step::AwaitDaemon { networks, .. },
        Step::LetGo(_),
        Step::Undefine(_),
    ] = steps.as_slice()
    else {
        panic!("{steps:?}");
    };
    assert_eq!(networks, &["default"]);
    networks::write_status(&host.places, given).unwrap();
    networks::write_definition(&host.places, "default", None, true).unwrap();
    assert!(!host.places.definitions().join("default.xml").exists());
    let xml = include_str!("samples/definition.xml");
    networks::write_definition(&host.places, "default", Some(xml), true).unwrap();
    let again = host.adopt(&[]).unwrap();
    let again = again.iter().find_map(|step| match step {
        Step::TakeOver(network) => Some(network.clone()),
        _ => None,
    });
    assert_eq!(again, Some(network));
}

fn unit(name: &str, active: bool) -> Unit {
    Unit {
        name: name.to_owned(),
        active,
        masked: false,
    }
}

fn daemon(kind: Kind, driver: Driver) -> Daemon {
    Daemon {
        kind,
        pid: 7,
        version: None,
        driver,
    }
}

fn said(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// libvirtd is restarted between the last step that it must find done and the first that it must not
/// undo. If something fails, that is the last thing to be done.
#[test]
fn systemd_restarts_libvirtd_both_ways() {
    let mut host = Host::new();
    host.units = vec![unit(LIBVIRTD, true)];
    host.daemons = vec![daemon(Kind::Monolithic, Driver::Stock)];
    let steps = host.adopt(&[]).unwrap();
    let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    assert_eq!(at(|step| matches!(step, Step::Restarts { .. })), 0);
    let restart = at(|step| matches!(step, Step::Restart { .. }));
    assert!(at(|step| matches!(step, Step::UseModule(_))) < restart);
    assert!(at(|step| matches!(step, Step::SetAside(_))) < restart);
    assert_eq!(
        at(|step| matches!(step, Step::AwaitDaemon { .. })),
        restart + 1
    );

    let taken = steps.iter().find_map(|step| match step {
        Step::TakeOver(network) => Some(network.clone()),
        _ => None,
    });
    networks::remove_status(&host.places, taken.as_ref().unwrap()).unwrap();
    let file = host.dir.path().join("netd.so");
    host.daemons = vec![daemon(Kind::Monolithic, Driver::Netd(file))];
    let own = [own(include_str!("samples/definition.xml"), taken)];
    let steps = host.release(&own).unwrap();
    let [
        Step::Restarts { .. },
        ..,
        Step::Restart { .. },
        Step::AwaitDaemon { old, .. },
        Step::LetGo(_),
        Step::Undefine(_),
    ] = steps.as_slice()
    else {
        panic!("{:?}", said(&steps));
    };
    assert!(old.is_empty(), "systemd has replaced it by then");
    host.units = vec![unit(LIBVIRTD, false)];
    let steps = host.release(&own).unwrap();
    assert!(
        !steps
            .iter()
            .any(|step| matches!(step, Step::Restart { .. }))
    );
}

#[test]
fn virtnetworkd_is_stopped_and_its_place_taken_both_ways() {
    let mut host = Host::new();
    host.kind = Kind::Modular;
    host.daemons = vec![daemon(Kind::Modular, Driver::Stock)];
    let error = host.adopt(&[]).unwrap_err();
    assert!(
        error.to_string().contains("systemctl mask --now"),
        "{error:#}"
    );
    // Without an admin socket.
    host.units = [0, 1, 3].map(|at| unit(VIRTNETWORKD[at], at != 1)).to_vec();
    let steps = host.adopt(&[]).unwrap();
    let [
        Step::Define { .. },
        Step::StopStock { units, active },
        Step::TakeOver(network),
        Step::Serve,
        Step::SetAside(_),
    ] = steps.as_slice()
    else {
        panic!("{:?}", said(&steps));
    };
    assert_eq!(units.len(), 3);
    assert_eq!(active, &["virtnetworkd.socket", "virtnetworkd.service"]);
    networks::remove_status(&host.places, network).unwrap();
    host.daemons.clear();
    let own = [own(
        include_str!("samples/definition.xml"),
        Some(network.clone()),
    )];
    let steps = host.release(&own).unwrap();
    let [
        ..,
        Step::StopServing,
        Step::StartStock { units },
        Step::AwaitDaemon { .. },
        Step::LetGo(_),
        Step::Undefine(_),
    ] = steps.as_slice()
    else {
        panic!("{:?}", said(&steps));
    };
    assert_eq!(units.len(), 3);
}
