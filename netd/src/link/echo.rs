//! Echo requests and replies, as connection tracking tells of them and wants to be told.

use netlink_packet_netfilter::conntrack::ProtoTuple;
use rtnetlink::packet_core::{DefaultNla, Nla as _};

// linux/netfilter/nfnetlink_conntrack.h
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

/// A family's echo.
pub(super) struct Echo {
    request: u8,
    reply: u8,
    id_attribute: u16,
    type_attribute: u16,
    code_attribute: u16,
}

/// RFC 792.
pub(super) const ECHO: Echo = Echo {
    request: 8,
    reply: 0,
    id_attribute: CTA_PROTO_ICMP_ID,
    type_attribute: CTA_PROTO_ICMP_TYPE,
    code_attribute: CTA_PROTO_ICMP_CODE,
};

/// RFC 4443, section 4.
pub(super) const ECHO6: Echo = Echo {
    request: 128,
    reply: 129,
    id_attribute: CTA_PROTO_ICMPV6_ID,
    type_attribute: CTA_PROTO_ICMPV6_TYPE,
    code_attribute: CTA_PROTO_ICMPV6_CODE,
};

impl Echo {
    /// The identifier of an echo, request or reply; none of another message.
    pub(super) fn identifier(&self, parts: &[ProtoTuple]) -> Option<u16> {
        let value = |kind: u16| {
            parts.iter().find_map(|part| match part {
                ProtoTuple::Other(other) if other.kind() == kind => {
                    let mut bytes = vec![0; other.value_len()];
                    other.emit_value(&mut bytes);
                    Some(bytes)
                }
                _ => None,
            })
        };
        let kind = value(self.type_attribute)?;
        let is_echo = kind
            .iter()
            .all(|kind| [self.request, self.reply].contains(kind));
        let identifier = value(self.id_attribute)?.try_into().ok()?;
        is_echo.then(|| u16::from_be_bytes(identifier))
    }

    /// What stands for ports, of a request or of its answer.
    pub(super) fn parts(&self, identifier: u16, answers: bool) -> Vec<ProtoTuple> {
        let kind = if answers { self.reply } else { self.request };
        [
            DefaultNla::new(self.id_attribute, identifier.to_be_bytes().to_vec()),
            DefaultNla::new(self.type_attribute, vec![kind]),
            DefaultNla::new(self.code_attribute, vec![0]),
        ]
        .map(ProtoTuple::Other)
        .into()
    }
}
