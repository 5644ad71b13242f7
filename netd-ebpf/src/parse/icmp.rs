//! ICMP messages: which are queries, which are errors.

use netd_common::proto;

use crate::context::Kind;

/// Length of the header before the quoted packet, in both families.
pub const HEADER: usize = 8;

/// Types of ICMP messages (RFC 792, RFC 950).
mod v4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    pub const INFORMATION: u8 = 15;
    pub const INFORMATION_REPLY: u8 = 16;
    pub const ADDRESS_MASK: u8 = 17;
    pub const ADDRESS_MASK_REPLY: u8 = 18;
}

/// Types of ICMPv6 messages (RFC 4443).
mod v6 {
    pub const UNREACHABLE: u8 = 1;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
}

/// What a type of message means.
pub struct Message {
    /// `Kind::Flow` for queries and their answers.
    pub kind: Kind,
    /// It answers a query.
    pub is_reply: bool,
    /// Which query (its type), 0 for echo: part of the flow's key.
    pub query: u8,
}

/// A message of the ICMP with protocol number `icmp`.
#[inline(always)]
pub fn read(icmp: u8, message: u8) -> Message {
    let (kind, is_reply, query) = if icmp == proto::ICMP {
        match message {
            v4::ECHO => (Kind::Flow, false, 0),
            v4::ECHO_REPLY => (Kind::Flow, true, 0),
            v4::TIMESTAMP | v4::INFORMATION | v4::ADDRESS_MASK => (Kind::Flow, false, message),
            v4::TIMESTAMP_REPLY | v4::INFORMATION_REPLY | v4::ADDRESS_MASK_REPLY => {
                (Kind::Flow, true, message - 1)
            }
            v4::UNREACHABLE
            | v4::SOURCE_QUENCH
            | v4::REDIRECT
            | v4::TIME_EXCEEDED
            | v4::PARAMETER_PROBLEM => (Kind::IcmpError, false, 0),
            _ => (Kind::Icmp, false, 0),
        }
    } else {
        match message {
            v6::ECHO => (Kind::Flow, false, 0),
            v6::ECHO_REPLY => (Kind::Flow, true, 0),
            v6::UNREACHABLE..=v6::PARAMETER_PROBLEM => (Kind::IcmpError, false, 0),
            _ => (Kind::Icmp, false, 0),
        }
    };
    Message {
        kind,
        is_reply,
        query,
    }
}
