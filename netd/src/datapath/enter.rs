//! Entering connections into the flow table that the kernel tracked before.

use std::net::{IpAddr, SocketAddr};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netd_common::abi::{ENTERED, Port, Tracked};
use netd_common::clock::ticks;

use super::error::{DatapathError, Result, chain};
use super::handle::Datapath;
use super::programs;
use crate::link::TrackedConnection;

/// The program that enters one.
pub(super) const PROGRAM: &str = "enter";

// linux/if_ether.h
const ETH_HLEN: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

impl Datapath {
    /// Make flows of connections of a bridge's guests; returns how many of them are flows now. The others
    /// netd would not let pass, or would translate otherwise.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn enter(&mut self, bridge: u32, connections: &[TrackedConnection]) -> Result<usize> {
        let failed = |message: String| DatapathError::Run {
            program: PROGRAM,
            message,
        };
        let program: &mut SchedClassifier =
            programs::loaded(&mut self.ebpf, &mut self.loaded, PROGRAM)?
                .try_into()
                .map_err(|error| failed(chain(&error)))?;
        let mut entered = 0;
        for connection in connections {
            let options = TestRunOptions {
                data_in: Some(&frame(bridge, connection)),
                ..TestRunOptions::default()
            };
            let result = program
                .test_run(options)
                .map_err(|error| failed(chain(&error)))?;
            entered += usize::from(result.return_value == ENTERED);
        }
        Ok(entered)
    }
}

/// What the program is run on: an Ethernet header that says which family it is, and the record.
#[must_use]
pub fn frame(bridge: u32, connection: &TrackedConnection) -> Vec<u8> {
    let TrackedConnection {
        guest,
        peer,
        seen_as,
        ..
    } = connection;
    match (guest.ip(), peer.ip(), seen_as.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst), IpAddr::V4(new_src)) => {
            let addresses = [src, dst, new_src].map(|address| address.octets());
            bytes(ETH_P_IP, addresses, bridge, connection)
        }
        (src, dst, new_src) => {
            let addresses = [src, dst, new_src].map(octets6);
            bytes(ETH_P_IPV6, addresses, bridge, connection)
        }
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn bytes<A: AsRef<[u8]>>(
    ethertype: u16,
    [src, dst, new_src]: [A; 3],
    bridge: u32,
    connection: &TrackedConnection,
) -> Vec<u8> {
    let port = |end: &SocketAddr| end.port().to_be_bytes();
    // Field by field, so that it does not compile before a new one is named here.
    let Tracked {
        src,
        dst,
        new_src,
        sport,
        dport,
        new_sport,
        proto,
        state,
        fins,
        pad,
        bridge,
        remaining,
    } = Tracked {
        src,
        dst,
        new_src,
        sport: port(&connection.guest),
        dport: port(&connection.peer),
        new_sport: port(&connection.seen_as),
        proto: connection.protocol,
        state: connection.state as u8,
        fins: connection.fins,
        pad: [0; 3],
        bridge,
        remaining: ticks(u64::from(connection.remaining)),
    };
    let ports: [Port; 3] = [sport, dport, new_sport];
    let mut bytes = vec![0; ETH_HLEN - 2];
    bytes.extend(ethertype.to_be_bytes());
    for address in [src, dst, new_src] {
        bytes.extend(address.as_ref());
    }
    bytes.extend(ports.concat());
    bytes.extend([proto, state, fins]);
    bytes.extend(pad);
    bytes.extend(bridge.to_ne_bytes());
    bytes.extend(remaining.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use netd_common::abi::{Addr4, Addr6};
    use netd_common::proto;
    use netd_common::state::State;

    use super::*;

    fn connection(guest: &str, peer: &str, seen_as: &str) -> TrackedConnection {
        TrackedConnection {
            protocol: proto::TCP,
            guest: guest.parse().unwrap(),
            peer: peer.parse().unwrap(),
            seen_as: seen_as.parse().unwrap(),
            state: State::CloseWait,
            fins: 2,
            remaining: 60,
        }
    }

    #[test]
    fn the_record_is_where_the_program_reads_it() {
        let four = connection("10.0.0.2:5000", "192.0.2.1:80", "198.51.100.2:1024");
        let bytes = frame(7, &four);
        assert_eq!(bytes.len(), ETH_HLEN + size_of::<Tracked<Addr4>>());
        assert_eq!(bytes[12..14], [8, 0]);
        let at = |offset: usize, length: usize| &bytes[ETH_HLEN + offset..][..length];
        type Record = Tracked<Addr4>;
        assert_eq!(at(offset_of!(Record, new_src), 4), [198, 51, 100, 2]);
        assert_eq!(at(offset_of!(Record, dport), 2), [0, 80]);
        assert_eq!(at(offset_of!(Record, state), 2), [4, 2]);
        assert_eq!(at(offset_of!(Record, bridge), 4), 7u32.to_ne_bytes());
        assert_eq!(
            at(offset_of!(Record, remaining), 4),
            ticks(60).to_ne_bytes()
        );

        let six = connection("[fd00::2]:5000", "[2001:db8::1]:80", "[fd00::2]:5000");
        let bytes = frame(7, &six);
        assert_eq!(bytes.len(), ETH_HLEN + size_of::<Tracked<Addr6>>());
        assert_eq!(bytes[12..14], [0x86, 0xdd]);
        let at = ETH_HLEN + offset_of!(Tracked<Addr6>, proto);
        assert_eq!(bytes[at], proto::TCP);
    }
}
