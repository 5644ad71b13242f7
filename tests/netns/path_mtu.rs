//! How large packets may be on a path: every source that the kernel's forwarding obeys holds for guests.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{FAR, OUTSIDE, at, check, check_guest};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, SOON, control, eventually};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use crate::limits::look_only_when_told;

const PORT: u16 = 7000;
/// Room in a datagram that fills a packet of 1500 bytes.
const FULL: usize = 1472;
const UPLOAD: usize = 300_000;

/// Ways to say that packets to the far host have at most 1400 bytes, and to take it back.
const WAYS: &[(&[&str], &[&str])] = &[
    (
        &["ip route replace default via 198.51.100.1 mtu 1400"],
        &["ip route replace default via 198.51.100.1"],
    ),
    (
        &["ip route add 203.0.113.0/24 via 198.51.100.1 mtu 1400"],
        &["ip route del 203.0.113.0/24"],
    ),
    (
        &["ip route replace default via 198.51.100.1 mtu lock 1400"],
        &["ip route replace default via 198.51.100.1"],
    ),
    (
        &[
            "ip nexthop add id 7 via 198.51.100.1 dev uplink",
            "ip route add 203.0.113.0/24 nhid 7 mtu 1400",
        ],
        &["ip route del 203.0.113.0/24", "ip nexthop del id 7"],
    ),
    (
        &[
            "ip route add default via 198.51.100.1 mtu 1400 table 100",
            "ip rule add to 203.0.113.0/24 lookup 100",
        ],
        &[
            "ip rule del to 203.0.113.0/24 lookup 100",
            "ip route flush table 100",
        ],
    ),
    (
        &["ip link set uplink mtu 1400"],
        &["ip link set uplink mtu 1500"],
    ),
];

/// Behind a wire of 1400 bytes, whose router does not say so: only what the host knows helps.
fn far_behind_a_black_hole(lab: &Lab) -> Result<Netns> {
    let far = lab.far(1500)?;
    lab.wan.run(["ip", "link", "set", "wan1", "mtu", "1400"])?;
    let rules = "add table ip f; add chain ip f out { type filter hook output priority 0; }; \
                 add rule ip f out icmp type destination-unreachable drop";
    lab.wan.run(["nft", rules])?;
    // What comes from there is not too large.
    let route = "ip route replace default via 203.0.113.1 mtu lock 1400 advmss 1460";
    far.run(route.split(' '))?;
    Ok(far)
}

fn upload(guest: &Guest) -> Result<()> {
    let mut stream = traffic::connect(guest.netns(), at(FAR, PORT))?;
    stream.set_write_timeout(Some(SOON))?;
    stream.write_all(&vec![7; UPLOAD]).context("writing")?;
    stream.shutdown(Shutdown::Write)?;
    let mut count = String::new();
    stream.read_to_string(&mut count).context("the receipt")?;
    ensure!(count == UPLOAD.to_string(), "{count} bytes arrived");
    Ok(())
}

/// A flow to the far host whose datagrams may not be cut.
fn flow(guest: &Guest) -> Result<UdpSocket> {
    let socket = guest.netns().udp("0.0.0.0:0")?;
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    socket.connect(at(FAR, PORT))?;
    Ok(socket)
}

/// Is the guest told so? An error about one datagram is told with the next.
fn is_too_large(socket: &UdpSocket) -> bool {
    let _ = socket.send(&[0; FULL]);
    std::thread::sleep(Duration::from_millis(10));
    let second = socket.send(&[0; FULL]);
    second.is_err_and(|error| error.raw_os_error() == Some(libc_emsgsize()))
}

fn obeyed(lab: &Lab, guest: &Guest) -> Result<()> {
    let far = far_behind_a_black_hole(lab)?;
    let _server = Server::tcp(&far, at(FAR, PORT), |mut stream: TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(all.len().to_string().as_bytes())
    })?;
    let forget = || guest.netns().run("ip route flush cache".split(' '));
    for (set, unset) in WAYS {
        let socket = flow(guest)?;
        eventually(SOON, || {
            forget()?;
            let is_too_large = is_too_large(&socket);
            ensure!(!is_too_large, "before {set:?} it is too large already");
            Ok(())
        })?;
        for line in *set {
            lab.hv.run(line.split(' '))?;
        }
        // The kernel obeys at once; netd hears of a route, and reads all of them a second later.
        eventually(SOON, || {
            ensure!(is_too_large(&socket), "1500 bytes pass");
            Ok(())
        })
        .with_context(|| format!("{set:?}"))?;
        forget()?;
        upload(guest).with_context(|| format!("an upload with {set:?}"))?;
        for line in *unset {
            eventually(SOON, || lab.hv.run(line.split(' ')))?;
        }
        forget()?;
    }
    Ok(())
}

/// `EMSGSIZE`.
fn libc_emsgsize() -> i32 {
    rustix::io::Errno::MSGSIZE.raw_os_error()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn every_mtu_that_forwarding_obeys_holds_for_guests() {
    let by_kernel = || -> Result<()> {
        let (lab, guest) = control::nat_guest()?;
        obeyed(&lab, &guest)
    };
    by_kernel().expect("the control");
    check(|lab| {
        let guest = lab.nat_guest()?;
        look_only_when_told(lab)?;
        obeyed(lab, &guest)
    });
}

/// While nobody answers for the next hop's address, packets wait for it; those that are too large for what
/// comes then need not.
fn obeyed_without_a_next_hop(lab: &Lab, guest: &Guest) -> Result<()> {
    let forget = || guest.netns().run("ip route flush cache".split(' '));
    lab.hv.wait_for_neighbours("uplink")?;
    for (set, unset) in WAYS {
        for line in *set {
            lab.hv.run(line.split(' '))?;
        }
        eventually(SOON, || {
            ensure!(is_too_large(&flow(guest)?), "1500 bytes pass");
            Ok(())
        })
        .with_context(|| format!("{set:?}"))?;
        forget()?;
        lab.wan.run("ip link set wan0 arp off".split(' '))?;
        lab.hv.run("ip neigh flush dev uplink".split(' '))?;
        // The host does not give up.
        eventually(SOON, || {
            let is_told = is_too_large(&flow(guest)?);
            ensure!(is_told, "{set:?}: 1500 bytes wait for a next hop");
            Ok(())
        })?;
        lab.wan.run("ip link set wan0 arp on".split(' '))?;
        for line in *unset {
            eventually(SOON, || lab.hv.run(line.split(' ')))?;
        }
        forget()?;
        guest.ping(&OUTSIDE.to_string())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn they_hold_while_the_next_hop_is_not_known() {
    let by_kernel = || -> Result<()> {
        let (lab, guest) = control::nat_guest()?;
        obeyed_without_a_next_hop(&lab, &guest)
    };
    by_kernel().expect("the control");
    check_guest(|lab, guest| obeyed_without_a_next_hop(lab, guest));
}
