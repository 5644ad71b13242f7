//! What values look like.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// What a value looks like.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// Some text.
    Filled,
    /// One line that is not empty.
    Line,
    /// One of these words, perhaps with blanks around it.
    Word(&'static [&'static str]),
    /// One of these words.
    Exactly(&'static [&'static str]),
    /// A whole number from the first to the second, perhaps with a sign and blanks around it.
    Number(u64, u64),
    /// The same of digits alone.
    Digits(u64, u64),
    /// A number up to this one, which may be written as C does, after `0x`; the second says whether its
    /// hexadecimal digits may go without.
    Hex(u32, bool),
    /// An IPv4 address.
    Ipv4,
    /// An address of either family.
    Ip,
    /// The MAC address of one interface.
    Mac,
    /// A UUID.
    Uuid,
    /// The name of a device.
    Device,
    /// A name in the DNS.
    DnsName,
    /// Letters, digits and these.
    Letters(&'static str),
    /// How a DHCPv6 client is known.
    Duid,
    /// At most so many characters.
    AtMost(usize),
}

/// `yes` or `no`.
pub const YES_NO: Kind = Kind::Word(&["yes", "no"]);
/// `on` or `off`.
pub const ON_OFF: Kind = Kind::Word(&["on", "off"]);

impl Kind {
    /// Is this such a value?
    pub fn takes(self, text: &str) -> bool {
        let of = |more: &str| {
            let is_one = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.chars().all(is_one)
        };
        match self {
            Self::Text => true,
            Self::Filled => !text.is_empty() && !text.contains(['\n', '\r']),
            Self::Line => !text.is_empty() && !text.contains('\n'),
            Self::Word(words) => words.contains(&text.trim_ascii()),
            Self::Exactly(words) => words.contains(&text),
            Self::Number(least, most) => {
                let digits = text.trim_ascii();
                let digits = digits.strip_prefix('+').unwrap_or(digits);
                digits.bytes().all(|b| b.is_ascii_digit())
                    && digits.parse().is_ok_and(|n| (least..=most).contains(&n))
            }
            Self::Digits(least, most) => {
                text.bytes().all(|b| b.is_ascii_digit())
                    && text.parse().is_ok_and(|n| (least..=most).contains(&n))
            }
            Self::Hex(most, bare) => takes_hex(text, most, bare),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ip => text.parse::<IpAddr>().is_ok(),
            Self::Mac => takes_mac(text),
            Self::Uuid => takes_uuid(text),
            Self::Device => of("_.-\\:/"),
            Self::DnsName => of(".-"),
            Self::Letters(more) => of(more),
            Self::Duid => takes_duid(text),
            Self::AtMost(most) => text.chars().count() <= most,
        }
    }
}

fn takes_hex(text: &str, most: u32, bare: bool) -> bool {
    let width = ((32 - most.leading_zeros()) as usize).div_ceil(4);
    let is_hex = |digits: &str| {
        digits.len() <= width
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && u32::from_str_radix(digits, 16).is_ok_and(|n| n <= most)
    };
    match text.strip_prefix("0x") {
        Some(digits) => is_hex(digits),
        None => Kind::Number(0, most.into()).takes(text) || (bare && is_hex(text)),
    }
}

/// Six pairs of digits; the first byte is even, or it would be a group's.
fn takes_mac(text: &str) -> bool {
    let is_pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    let pairs: Vec<&str> = text.split(':').collect();
    let even = |pair: &str| u8::from_str_radix(pair, 16).is_ok_and(|byte| byte % 2 == 0);
    pairs.len() == 6 && pairs.iter().all(|pair| is_pair(pair)) && even(pairs[0])
}

/// Thirty-two digits, with the four customary dashes or with none.
fn takes_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    (lengths == [32] || lengths == [8, 4, 4, 4, 12])
        && parts
            .iter()
            .all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The four types of RFC 8415, in bytes of one or two digits: by link-layer address and time, by
/// enterprise, by link-layer address, by UUID.
fn takes_duid(text: &str) -> bool {
    let byte = |part: &str| match part.len() {
        1 | 2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let Some(bytes) = text.split(':').map(byte).collect::<Option<Vec<u8>>>() else {
        return false;
    };
    // The hardware's type is one digit, and not zero.
    let is_hardware = |bytes: &[u8]| bytes[0] == 0 && (1..16).contains(&bytes[1]);
    match bytes[..] {
        [0, 1, ref rest @ ..] => (12..=14).contains(&rest.len()) && is_hardware(rest),
        [0, 2, ref rest @ ..] => (5..=128).contains(&rest.len()),
        [0, 3, ref rest @ ..] => (8..=10).contains(&rest.len()) && is_hardware(rest),
        [0, 4, ref rest @ ..] => rest.len() == 16,
        _ => false,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Filled | Self::Line => f.write_str("a line of text"),
            Self::Word(words) | Self::Exactly(words) => f.write_str(&words.join(" or ")),
            Self::Number(least, most) | Self::Digits(least, most) => {
                write!(f, "a number from {least} to {most}")
            }
            Self::Hex(most, _) => write!(f, "a number up to 0x{most:x}"),
            Self::Ipv4 => f.write_str("an IPv4 address"),
            Self::Ip => f.write_str("an IP address"),
            Self::Mac => f.write_str("a MAC address of one interface"),
            Self::Uuid => f.write_str("a UUID"),
            Self::Device => f.write_str("the name of a device"),
            Self::DnsName => f.write_str("letters, digits, '.' and '-'"),
            Self::Letters(more) => write!(f, "letters, digits and any of {more}"),
            Self::Duid => f.write_str("a DUID"),
            Self::AtMost(most) => write!(f, "at most {most} characters long"),
        }
    }
}
