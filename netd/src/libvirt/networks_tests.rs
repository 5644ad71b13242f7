use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const DEFINITION: &str = include_str!("samples/definition.xml");
const STATUS: &str = include_str!("samples/status.xml");
const PORT: &str = include_str!("samples/port.xml");
const LEASES: &str = include_str!("samples/virbr0.status");

/// A host as libvirtd 9.0 leaves it.
fn host() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    let ports = places.status().join("default/ports");
    for dir in [places.autostart(), ports.clone(), places.dnsmasq()] {
        fs::create_dir_all(dir).unwrap();
    }
    let definition = places.definitions().join("default.xml");
    fs::write(&definition, DEFINITION).unwrap();
    symlink(definition, places.autostart().join("default.xml")).unwrap();
    fs::write(places.status().join("default.xml"), STATUS).unwrap();
    fs::write(ports.join("9ba75e30-2d0a-4c2e-8b16-4c1f6e3cd0a1.xml"), PORT).unwrap();
    fs::write(places.dnsmasq().join("virbr0.status"), LEASES).unwrap();
    (dir, places)
}

#[test]
fn a_running_network_is_read_with_all_it_has() {
    let (_dir, places) = host();
    let (networks, problems) = read(&places);
    assert_eq!(problems, Vec::<String>::new());
    let [network] = networks.as_slice() else {
        panic!("{networks:?}");
    };
    assert!(network.autostart);
    let definition = network.definition.as_ref().unwrap();
    let running = network.running.as_ref().unwrap();
    assert_eq!(definition.uuid, running.network.uuid);
    // The live one has what the daemon added to it.
    assert_eq!(
        running.network.mac.unwrap().to_string(),
        "52:54:00:33:fd:53"
    );
    let ports = running.network.nat_ports();
    assert_eq!((ports.start, ports.end), (1024, 65535));
    assert_eq!(running.ports.len(), 1);
    assert_eq!(
        running.ports[0].uuid,
        "9ba75e30-2d0a-4c2e-8b16-4c1f6e3cd0a1"
    );
    assert_eq!(running.ports[0].xml, PORT);
    assert_eq!(running.leases, 1);
    assert!(running.dnsmasq.is_none());
}

#[test]
fn a_transient_and_a_stopped_network_are_told_apart() {
    let (_dir, places) = host();
    fs::remove_file(places.definitions().join("default.xml")).unwrap();
    fs::remove_file(places.autostart().join("default.xml")).unwrap();
    let other = DEFINITION.replace("<name>default", "<name>other");
    fs::write(places.definitions().join("other.xml"), other).unwrap();
    let (networks, problems) = read(&places);
    assert_eq!(problems, Vec::<String>::new());
    let told: Vec<_> = networks
        .iter()
        .map(|network| {
            let defined = network.definition.is_some();
            (network.name.as_str(), defined, network.running.is_some())
        })
        .collect();
    assert_eq!(told, [("default", false, true), ("other", true, false)]);
}

#[test]
fn what_cannot_be_read_is_told_and_hides_nothing_else() {
    let (_dir, places) = host();
    let definition = |name: &str, text: &str| {
        fs::write(places.definitions().join(name), text).unwrap();
    };
    definition("broken.xml", "<network>");
    definition("wrong.xml", DEFINITION);
    fs::write(places.status().join("half.xml"), "<networkstatus/>").unwrap();
    let (networks, problems) = read(&places);
    assert_eq!(networks.len(), 1);
    for (problem, file) in problems.iter().zip(["broken.xml", "half.xml", "wrong.xml"]) {
        assert!(problem.contains(file), "{problem}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_host_without_libvirt_has_no_networks() {
    let dir = tempfile::tempdir().unwrap();
    let (networks, problems) = read(&Places::below(dir.path()));
    assert!(networks.is_empty() && problems.is_empty());
}
