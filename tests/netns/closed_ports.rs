//! Ports that the administrator has closed in the bridge are closed: netd leads nobody past it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::traffic::Server;
use netd_tests::{Guest, Lab, Network, SOON, control, eventually};

const PORT: u16 = 7000;
/// Time within which netd follows; the kernel needs none.
const FOLLOWED: Duration = Duration::from_secs(2);

/// How a port is closed, and opened again.
const WAYS: &[(&[&str], &[&str])] = &[
    (
        &["bridge link set dev vnet1 state 0"],
        &["bridge link set dev vnet1 state 3"],
    ),
    (
        &["bridge link set dev vnet1 state 2"],
        &["bridge link set dev vnet1 state 3"],
    ),
    (LOCK, &["bridge link set dev vnet1 locked off"]),
];
/// The same by VLANs, which not every kernel has.
const BY_VLAN: (&[&str], &[&str]) = (
    &[
        "ip link set virbr1 type bridge vlan_default_pvid 0",
        "ip link set virbr1 type bridge vlan_filtering 1",
    ],
    &[
        "ip link set virbr1 type bridge vlan_filtering 0",
        "ip link set virbr1 type bridge vlan_default_pvid 1",
    ],
);
/// A locked port goes on to let in whom the bridge knows there already.
const LOCK: &[&str] = &[
    "bridge link set dev vnet1 locked on",
    "bridge fdb del 52:54:00:00:00:01 dev vnet1 master",
];

fn run(lab: &Lab, lines: &[&str]) -> Result<()> {
    for line in lines {
        lab.hv.run(line.split(' '))?;
    }
    Ok(())
}

/// Has this kernel bridges with VLANs (CONFIG_BRIDGE_VLAN_FILTERING)?
fn has_vlans(lab: &Lab) -> Result<bool> {
    let add = "ip link add probe type bridge vlan_filtering 1";
    let output = lab.hv.output(add.split(' '))?;
    if output.status.success() {
        run(lab, &["ip link del probe"])?;
        return Ok(true);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("not supported"), "{error}");
    eprintln!("SKIPPED: this kernel's bridges have no VLANs");
    Ok(false)
}

/// A NAT network without STP, which would not let anybody set states.
fn up(lab: &mut Lab) -> Result<Guest> {
    lab.agent.start()?;
    let network = Network::default();
    let bridge = "<bridge name='virbr1'/>";
    let xml = network
        .xml()
        .replace(bridge, "<bridge name='virbr1' stp='off'/>");
    lab.agent.up(&network.name, &xml)?;
    let guest = lab.member(1, &network)?;
    eventually(SOON, || guest.ping(&OUTSIDE.to_string()))?;
    Ok(guest)
}

/// A guest asks with one socket, so always by one flow.
struct Asker(std::net::UdpSocket);

impl Asker {
    fn new(guest: &Guest) -> Result<Self> {
        let socket = guest.netns().udp("0.0.0.0:5000")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self(socket))
    }

    fn ask(&self, server: &Server) -> Result<bool> {
        let before = server.received();
        self.0.send_to(b"question", at(OUTSIDE, PORT))?;
        let answered = self.0.recv(&mut [0; 16]).is_ok();
        Ok(answered || server.received() != before)
    }
}

/// What a guest at vnet1 reaches while its port is closed, in each of the ways.
fn closed_and_opened(lab: &Lab, guest: &Guest) -> Result<()> {
    let server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
    let asker = Asker::new(guest)?;
    let by_vlan = has_vlans(lab)?.then_some(&BY_VLAN);
    for (close, open) in WAYS.iter().chain(by_vlan) {
        let passes = || -> Result<()> {
            ensure!(asker.ask(&server)?, "nothing passes");
            Ok(())
        };
        // The flow is there, and takes the short way.
        for _ in 0..2 {
            eventually(SOON, passes).with_context(|| format!("before {close:?}"))?;
        }
        run(lab, close)?;
        eventually(FOLLOWED, || {
            ensure!(!asker.ask(&server)?, "it still passes");
            Ok(())
        })
        .with_context(|| format!("{close:?}"))?;
        for _ in 0..3 {
            ensure!(!asker.ask(&server)?, "{close:?}: it passes again");
        }
        // Nor by a flow of its own.
        let other = guest.netns().udp("0.0.0.0:0")?;
        let before = server.received();
        other.send_to(b"by another port", at(OUTSIDE, PORT))?;
        ensure!(guest.try_ping(&OUTSIDE.to_string())?.status.code() != Some(0));
        ensure!(server.received() == before, "{close:?}: a new flow passes");
        run(lab, open)?;
        eventually(SOON, passes).with_context(|| format!("after {open:?}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_closed_port_is_closed_to_the_outside_too() {
    let by_kernel = || -> Result<()> {
        let (lab, guest) = control::nat_guest()?;
        closed_and_opened(&lab, &guest)
    };
    by_kernel().expect("the control");
    check(|lab| {
        let guest = up(lab)?;
        closed_and_opened(lab, &guest)
    });
}

/// A locked port lets in whom the bridge was told of, a bridge with VLANs who is in the right one.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn whom_the_bridge_lets_in_goes_by_the_bridge() {
    check(|lab| {
        let guest = up(lab)?;
        let server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let asker = Asker::new(&guest)?;
        let passes = || -> Result<()> {
            ensure!(asker.ask(&server)?, "nothing passes");
            Ok(())
        };
        run(lab, LOCK)?;
        eventually(FOLLOWED, || {
            ensure!(!asker.ask(&server)?, "it passes a locked port");
            Ok(())
        })?;
        let mac = &guest.mac;
        let known = format!("bridge fdb replace {mac} dev vnet1 master static");
        lab.hv.run(known.split(' '))?;
        eventually(FOLLOWED, passes).context("a guest that is authorized")?;
        run(lab, &["bridge link set dev vnet1 locked off"])?;

        if !has_vlans(lab)? {
            return Ok(());
        }
        run(lab, &["ip link set virbr1 type bridge vlan_filtering 1"])?;
        eventually(FOLLOWED, passes).context("the default VLAN")?;
        run(lab, &["bridge vlan add dev vnet1 vid 7 pvid untagged"])?;
        eventually(FOLLOWED, || {
            ensure!(!asker.ask(&server)?, "it passes from another VLAN");
            Ok(())
        })?;
        run(
            lab,
            &["bridge vlan add dev virbr1 vid 7 pvid untagged self"],
        )?;
        eventually(FOLLOWED, passes).context("the bridge is in its VLAN")?;
        run(lab, &["ip link set virbr1 type bridge vlan_filtering 0"])?;
        eventually(FOLLOWED, passes).context("no VLANs any more")
    });
}

/// What comes from outside does not reach a closed port either, and does once it is open.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_closed_port_gets_nothing_from_outside() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::route("routed", 1);
        let bridge = "<bridge name='virbr1'/>";
        let xml = network
            .xml()
            .replace(bridge, "<bridge name='virbr1' stp='off'/>");
        lab.agent.up(&network.name, &xml)?;
        let route = format!("ip route add {} via 198.51.100.2", network.subnet());
        lab.wan.run(route.split(' '))?;
        let guest = lab.member(1, &network)?;
        let server = Server::udp(guest.netns(), at(network.address(11), PORT))?;
        let outside = lab.wan.udp("0.0.0.0:0")?;
        outside.set_read_timeout(Some(Duration::from_millis(100)))?;
        let arrives = || -> Result<bool> {
            let before = server.received();
            outside.send_to(b"question", at(network.address(11), PORT))?;
            Ok(outside.recv(&mut [0; 16]).is_ok() || server.received() != before)
        };
        let passes = || -> Result<()> {
            ensure!(arrives()?, "nothing arrives");
            Ok(())
        };
        eventually(SOON, passes)?;
        for state in ["0", "2"] {
            let set = |state| ["bridge", "link", "set", "dev", "vnet1", "state", state];
            lab.hv.run(set(state))?;
            eventually(FOLLOWED, || {
                ensure!(!arrives()?, "it still arrives");
                Ok(())
            })?;
            lab.hv.run(set("3"))?;
            eventually(SOON, passes).with_context(|| format!("after state {state}"))?;
        }
        Ok(())
    });
}
