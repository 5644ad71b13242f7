//! Which steps a switch has, on a host as libvirtd 9.0 leaves it.

use std::fs;
use std::path::PathBuf;

use super::daemon::Kind;
use super::networks;
use super::own::OwnNetwork;
use super::step::{Definition, RunningNetwork, Step};
use super::{Places, Survey, adopt, release};
use crate::libvirt::rules::Rules;
use crate::model;

struct Host {
    dir: tempfile::TempDir,
    places: Places,
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
        Self { dir, places }
    }

    fn survey(&self) -> Survey {
        let (networks, unread) = networks::read(&self.places);
        Survey {
            kind: Some(Kind::Monolithic),
            version: None,
            daemons: Vec::new(),
            networks,
            rules: Rules::default(),
            unread,
        }
    }

    fn adopt(&self, own: &[OwnNetwork]) -> anyhow::Result<Vec<Step>> {
        let options = adopt::Options {
            state_dir: self.dir.path().join("state"),
            module: Some(self.dir.path().join("netd.so")),
        };
        adopt::steps(&self.survey(), own, &self.places, &options)
    }

    fn release(&self, own: &[OwnNetwork]) -> anyhow::Result<Vec<Step>> {
        let options = release::Options {
            state_dir: self.dir.path().join("state"),
            module: Some(self.dir.path().join("netd.so")),
            wait: 1,
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
