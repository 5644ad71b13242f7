//! What the wires say of who is where: answers to the hypervisor's questions, and announcements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cast::Mac;
use super::craft::transport_sum;
use super::header::ICMP6;

const EVERYBODY: Mac = [0xff; 6];
/// `ff02::1`, and its MAC address.
const ALL_NODES: (Ipv6Addr, Mac) = (
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    [0x33, 0x33, 0, 0, 0, 1],
);
/// Operations of ARP.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// ICMPv6's neighbour solicitation and advertisement.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement (RFC 4861, section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Who asks for whose MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The one asked for.
    pub target: IpAddr,
    /// Who asks.
    asker: IpAddr,
    mac: Mac,
}

impl Question {
    /// Reads a frame; `None` where it is none.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let four = |at: usize| -> Option<Ipv4Addr> {
            let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
            Some(bytes.into())
        };
        let sixteen = |at: usize| -> Option<Ipv6Addr> {
            let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
            Some(bytes.into())
        };
        let mac = frame.get(6..12)?.try_into().ok()?;
        let (target, asker): (IpAddr, IpAddr) = match frame.get(12..14)? {
            [0x08, 0x06] if *frame.get(21)? == REQUEST => (four(38)?.into(), four(28)?.into()),
            [0x86, 0xdd] if *frame.get(20)? == ICMP6 && *frame.get(54)? == SOLICITATION => {
                (sixteen(62)?.into(), sixteen(22)?.into())
            }
            _ => return None,
        };
        // An announcement asks for oneself.
        (target != asker).then_some(Self { target, asker, mac })
    }

    /// The answer of whoever has that MAC address.
    #[must_use]
    pub fn answer(&self, mac: Mac) -> Vec<u8> {
        match (self.target, self.asker) {
            (IpAddr::V4(target), IpAddr::V4(asker)) => {
                arp(REPLY, (mac, target), (self.mac, asker), self.mac)
            }
            (IpAddr::V6(target), IpAddr::V6(asker)) => {
                advertisement((mac, target), (self.mac, asker), SOLICITED | OVERRIDE)
            }
            _ => Vec::new(), // a question is of one family
        }
    }
}

/// What somebody sends who has come, or has another card: gratuitous ARP, or an unsolicited
/// neighbour advertisement (RFC 4861, section 7.2.6).
#[must_use]
pub fn announcement(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(REQUEST, (mac, address), ([0; 6], address), EVERYBODY),
        IpAddr::V6(address) => {
            let (all, all_mac) = ALL_NODES;
            advertisement((mac, address), (all_mac, all), OVERRIDE)
        }
    }
}

fn arp(operation: u8, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), receiver: Mac) -> Vec<u8> {
    let mut frame = [receiver, from.0].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    for (mac, address) in [from, to] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

fn advertisement(of: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(of.1.octets());
    message.extend([2, 1]); // the MAC address, as an option of 8 bytes
    message.extend(of.0);
    let sum = transport_sum(ICMP6, &message, of.1.into(), to.1.into());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [to.0, of.0].concat();
    frame.extend([
        0x86,
        0xdd,
        0x60,
        0,
        0,
        0,
        0,
        message.len() as u8,
        ICMP6,
        255,
    ]);
    frame.extend(of.1.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_announcement_asks_nobody() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Question::read(&announcement(MAC, address)), None);
        }
    }

    #[test]
    fn a_question_is_answered_to_whoever_asked() {
        let asker = ([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 9));
        let target = Ipv4Addr::new(192, 0, 2, 7);
        let question = arp(REQUEST, asker, ([0; 6], target), EVERYBODY);
        let question = Question::read(&question).unwrap();
        assert_eq!(question.target, IpAddr::from(target));
        assert_eq!(
            question.answer(MAC),
            arp(REPLY, (MAC, target), asker, asker.0)
        );
    }
}
