//! Ports that the administrator has closed in the bridge are closed: netd leads nobody past it.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::socket::Receive as _;
use netd_tests::{Guest, Lab, Netns, Network, SOON, control, eventually};

const PORT: u16 = 7000;
/// Time within which netd follows, on a busy machine too: less than the 30 s after which flows are looked at
/// again for their own sake. The kernel needs none.
const FOLLOWED: Duration = Duration::from_secs(15);
/// Time for a datagram to get through.
const ARRIVAL: Duration = Duration::from_millis(100);

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

/// Somebody who asks with one socket, so always by one flow, and a server that answers. Questions have numbers: on a
/// busy machine one may arrive when the next is out.
struct Asker {
    socket: UdpSocket,
    to: SocketAddrV4,
    server: UdpSocket,
    asked: Cell<u64>,
}

impl Asker {
    fn new((from, port): (&Netns, u16), (server, to): (&Netns, SocketAddrV4)) -> Result<Self> {
        let asker = Self {
            socket: from.udp(at(Ipv4Addr::UNSPECIFIED, port))?,
            to,
            server: server.udp(to)?,
            asked: Cell::new(0),
        };
        asker.server.set_read_timeout(Some(ARRIVAL))?;
        Ok(asker)
    }

    /// From a guest to outside.
    fn of(lab: &Lab, guest: &Guest) -> Result<Self> {
        Self::new((guest.netns(), 5000), (&lab.wan, at(OUTSIDE, PORT)))
    }

    /// Does a question arrive?
    fn ask(&self) -> Result<bool> {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.socket.send_to(&number.to_be_bytes(), self.to)?;
        self.arrives(number)
    }

    fn arrives(&self, number: u64) -> Result<bool> {
        let mut question = [0; 8];
        while let Ok((_, from)) = self.server.receive_from(&mut question) {
            self.server.send_to(&question, from)?;
            if question == number.to_be_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn passes(&self) -> Result<()> {
        ensure!(self.ask()?, "nothing passes");
        Ok(())
    }

    /// Waits until nothing passes any more, which then stays so.
    fn is_kept_out(&self) -> Result<()> {
        eventually(FOLLOWED, || {
            ensure!(!self.ask()?, "it still passes");
            Ok(())
        })?;
        for _ in 0..3 {
            ensure!(!self.ask()?, "it passes again");
        }
        Ok(())
    }
}

/// What a guest at vnet1 reaches while its port is closed, in each of the ways.
fn closed_and_opened(lab: &Lab, guest: &Guest) -> Result<()> {
    let asker = Asker::of(lab, guest)?;
    let by_vlan = has_vlans(lab)?.then_some(&BY_VLAN);
    for (close, open) in WAYS.iter().chain(by_vlan) {
        // The flow is there, and takes the short way.
        for _ in 0..2 {
            eventually(SOON, || asker.passes()).with_context(|| format!("before {close:?}"))?;
        }
        run(lab, close)?;
        asker.is_kept_out().with_context(|| format!("{close:?}"))?;
        // Nor by a flow of its own.
        let other = guest.netns().udp("0.0.0.0:0")?;
        other.send_to(&0_u64.to_be_bytes(), at(OUTSIDE, PORT))?;
        ensure!(guest.try_ping(&OUTSIDE.to_string())?.status.code() != Some(0));
        ensure!(!asker.arrives(0)?, "{close:?}: a new flow passes");
        run(lab, open)?;
        eventually(SOON, || asker.passes()).with_context(|| format!("after {open:?}"))?;
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
        let asker = Asker::of(lab, &guest)?;
        let passes = || asker.passes();
        run(lab, LOCK)?;
        asker.is_kept_out().context("a locked port")?;
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
        asker.is_kept_out().context("another VLAN")?;
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
        let to = at(network.address(11), PORT);
        let outside = Asker::new((&lab.wan, 0), (guest.netns(), to))?;
        let passes = || outside.passes();
        eventually(SOON, passes)?;
        for state in ["0", "2"] {
            let set = |state| ["bridge", "link", "set", "dev", "vnet1", "state", state];
            lab.hv.run(set(state))?;
            outside.is_kept_out()?;
            lab.hv.run(set("3"))?;
            eventually(SOON, passes).with_context(|| format!("after state {state}"))?;
        }
        Ok(())
    });
}
