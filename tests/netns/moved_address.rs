//! An address that moves to another guest, as with VRRP, or a guest's MAC address that moves to
//! another port: whoever announces it is found at once, though it sends no packet to anybody.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{at6, check6};
use netd_tests::{Frame6, Guest, Lab, Netns, Network, SOON, Wire, control, eventually};

const PORT: u16 = 7000;
/// The address that moves; it is in the guests' subnet.
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 50);
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Datagrams from outside to the address, whoever has it, until dropped.
struct Stream {
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn start(wan: &Netns, to: SocketAddr) -> Result<Self> {
        let from: SocketAddr = match to {
            SocketAddr::V4(_) => at(OUTSIDE, PORT).into(),
            SocketAddr::V6(_) => at6(netd_tests::lab6::OUTSIDE6, PORT).into(),
        };
        let socket = wan.udp(from)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // Where nobody has the address, it is refused.
                let _ = socket.send_to(b"for the address", to);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self { stop })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// ARP of a sender that says it has the address: `operation` is request or reply.
fn arp(operation: u8, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [EVERYBODY, mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    for hardware in [mac, if operation == 1 { [0; 6] } else { EVERYBODY }] {
        frame.extend(hardware);
        frame.extend(address.octets());
    }
    frame
}

/// What a hypervisor sends for a guest that has come: its MAC address, and nothing else.
fn rarp(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = [EVERYBODY, mac].concat();
    frame.extend([0x80, 0x35, 0, 1, 0x08, 0x00, 6, 4, 0, 3]);
    for _ in 0..2 {
        frame.extend(mac);
        frame.extend([0; 4]);
    }
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = Frame6::icmp(address, all_nodes, message);
    frame.hop_limit = 255;
    frame.between(mac, [0x33, 0x33, 0, 0, 0, 1]).bytes()
}

/// Hears datagrams to the address at a guest, which answers none: it is silent until it is asked.
struct Listener(std::net::UdpSocket);

impl Listener {
    /// The address is given to the guest.
    fn new(guest: &Guest, address: &str, to: SocketAddr) -> Result<Self> {
        let nodad = if to.is_ipv6() { &["nodad"][..] } else { &[] };
        let add = ["ip", "addr", "add", address, "dev", "eth0"];
        guest
            .netns()
            .run(add.into_iter().chain(nodad.iter().copied()))?;
        let socket = eventually(SOON, || guest.netns().udp(to))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self(socket))
    }

    fn hears(&self, what: &str) -> Result<SocketAddr> {
        let (_, from) = self.0.recv_from(&mut [0; 64]).context(what.to_owned())?;
        Ok(from)
    }

    /// Answers one datagram, so that it is known where the address is.
    fn answers(&self) -> Result<()> {
        eventually(SOON, || {
            let from = self.hears("before the move")?;
            self.0.send_to(b"here", from)?;
            Ok(())
        })
    }
}

/// Has the host find a guest by what is announced alone. It looks for neighbours after half an hour, not
/// after half a minute, and believes each announcement, not one a second.
fn listen_only(lab: &Lab) -> Result<()> {
    for (key, value) in [
        ("ipv4/neigh/virbr1/base_reachable_time_ms", "3600000"),
        ("ipv6/neigh/virbr1/base_reachable_time_ms", "3600000"),
        ("ipv4/neigh/virbr1/locktime", "0"),
    ] {
        lab.hv.sysctl(&format!("net/{key}"), value)?;
    }
    Ok(())
}

/// The address goes from one guest to the other and back, each time announced in one of the ways.
fn to_and_fro(
    lab: &Lab,
    guests: [&Guest; 2],
    (address, to): (&str, SocketAddr),
    ways: &[&dyn Fn([u8; 6]) -> Vec<u8>],
) -> Result<()> {
    listen_only(lab)?;
    let _stream = Stream::start(&lab.wan, to)?;
    let mut holder = Listener::new(guests[0], address, to)?;
    for (round, way) in ways.iter().enumerate() {
        let (from, heir) = (guests[round % 2], guests[(round + 1) % 2]);
        // Established, and known for more than the second that the kernel's table is locked.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1200) {
            holder.answers()?;
        }
        let del = ["ip", "addr", "del", address, "dev", "eth0"];
        from.netns().run(del)?;
        let next = Listener::new(heir, address, to)?;
        ensure!(
            next.hears("too early").is_err(),
            "round {round}: the heir is found without a word: nothing is tested"
        );
        let frame = way(heir.netns().mac("eth0")?);
        Wire::new(heir.netns(), "eth0")?.send_bytes(&frame)?;
        let start = Instant::now();
        eventually(SOON, || next.hears("at the heir")).with_context(|| format!("round {round}"))?;
        println!("round {round}: after {:?}", start.elapsed());
        holder = next;
    }
    Ok(())
}

fn route_to_guests(lab: &Lab) -> Result<()> {
    let route = format!("ip route add {} via {HOST}", Network::default().subnet());
    lab.wan.run(route.split(' '))?;
    Ok(())
}

/// W3: by gratuitous ARP of either form.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_an_address_goes_where_arp_says_it_is() {
    let run = |lab: &Lab, one: &Guest, other: &Guest| -> Result<()> {
        let shared = format!("{SHARED}/24");
        let request = |mac| arp(1, mac, SHARED);
        let reply = |mac| arp(2, mac, SHARED);
        let to = at(SHARED, PORT).into();
        to_and_fro(lab, [one, other], (&shared, to), &[&request, &reply])
    };
    let by_kernel = || -> Result<()> {
        let (lab, one) = control::nat_guest()?;
        route_to_guests(&lab)?;
        let other = lab.member(2, &Network::default())?;
        run(&lab, &one, &other)
    };
    by_kernel().expect("the control");
    check(|lab| {
        lab.agent.start()?;
        let network = Network::route("routed", 1);
        lab.up(&network)?;
        route_to_guests(lab)?;
        let (one, other) = (lab.member(1, &network)?, lab.member(2, &network)?);
        run(lab, &one, &other)
    });
}

/// W3: by an unsolicited neighbour advertisement.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_an_ipv6_address_goes_where_an_advertisement_says_it_is() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::route("routed", 1).ipv6();
        lab.up(&network)?;
        lab.route6(&network)?;
        let (one, other) = (lab.member6(1, &network)?, lab.member6(2, &network)?);
        let shared = network.address6(50);
        let advertise = |mac| advertisement(mac, shared);
        let to = (&*format!("{shared}/64"), at6(shared, PORT).into());
        to_and_fro(lab, [&one, &other], to, &[&advertise, &advertise])
    });
}

/// W3: a guest has come to another port, and its hypervisor tells the bridge.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_a_guest_is_where_the_bridge_last_saw_it() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::route("routed", 1);
        lab.up(&network)?;
        route_to_guests(lab)?;
        let (one, other) = (lab.member(1, &network)?, lab.plugged(2, &network.bridge())?);
        let address = network.address(11);
        let (text, to) = (format!("{address}/24"), at(address, PORT).into());
        let socket = one.netns().udp(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let _stream = Stream::start(&lab.wan, to)?;
        Listener(socket).answers()?;
        // The card is silent before anybody could hear of its new place.
        lab.hv.run(["ip", "link", "set", &other.port, "down"])?;
        one.netns().run(["ip", "link", "set", "eth0", "down"])?;
        other
            .netns()
            .run(["ip", "link", "set", "eth0", "address", &one.mac])?;
        let next = Listener::new(&other, &text, to)?;
        lab.hv.run(["ip", "link", "set", &other.port, "up"])?;
        let wire = Wire::new(other.netns(), "eth0")?;
        let mac = other.netns().mac("eth0")?;
        eventually(SOON, || {
            wire.send_bytes(&rarp(mac))?;
            next.hears("at the new port")
        })?;
        Ok(())
    });
}

/// A guarded port cannot take another's address by a word.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_a_guarded_port_gets_no_packets_for_what_it_says() {
    check(|lab| {
        lab.agent.start()?;
        route_to_guests(lab)?;
        for (arp_is_guarded, reason) in [("yes", Some("spoofed_arp")), ("no", None)] {
            let network = Network::route("routed", 1).dhcp("").with(&format!(
                "<metadata><n:network xmlns:n='urn:netd:network:1'>\
                 <n:antispoof arp='{arp_is_guarded}'/></n:network></metadata>"
            ));
            lab.up(&network)?;
            let (one, liar) = (
                lab.plugged(1, &network.bridge())?,
                lab.plugged(2, &network.bridge())?,
            );
            let address = one.dhcp()?.address;
            liar.dhcp()?;
            let to: SocketAddr = at(address, PORT).into();
            let socket = one.netns().udp(to)?;
            let victim = Listener(socket);
            let _stream = Stream::start(&lab.wan, to)?;
            victim.answers()?;
            let before = reason.map(|reason| lab.agent.dropped(reason)).transpose()?;
            let (wire, mac) = (Wire::new(liar.netns(), "eth0")?, liar.netns().mac("eth0")?);
            let seen = liar.netns().counters("eth0")?.received_packets;
            for _ in 0..20 {
                wire.send_bytes(&arp(1, mac, address))?;
                wire.send_bytes(&arp(2, mac, address))?;
                victim.hears("while another claims it")?;
            }
            let strays = liar.netns().counters("eth0")?.received_packets - seen;
            ensure!(strays < 20, "the liar got {strays} frames");
            if let (Some(reason), Some(before)) = (reason, before) {
                eventually(SOON, || {
                    let dropped = lab.agent.dropped(reason)? - before;
                    ensure!(dropped >= 40, "{reason}: {dropped}");
                    Ok(())
                })?;
            }
            lab.agent.ok(["net-destroy", "routed"])?;
            lab.agent.ok(["net-undefine", "routed"])?;
        }
        Ok(())
    });
}
