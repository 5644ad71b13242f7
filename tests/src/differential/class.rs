//! Kinds of traffic that can be switched on and off.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::{Error, bail};

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal;)*) => {
        /// A kind of traffic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Class {
            $($(#[$doc])* $variant,)*
        }

        impl Class {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

classes! {
    /// TCP connections, whole and broken.
    Tcp, "tcp";
    /// UDP.
    Udp, "udp";
    /// Pings.
    Echo, "echo";
    /// ICMP's other queries: timestamps, information, address masks.
    Queries, "queries";
    /// ICMP errors about the others.
    Errors, "errors";
    /// Packets of no connection, and such as do not fit theirs.
    Strays, "strays";
    /// TTL 1 and 2.
    Ttl, "ttl";
    /// IP options, and extension headers of IPv6.
    Options, "options";
    /// Wrong checksums of TCP, UDP and ICMP.
    Checksums, "checksums";
    /// Wrong checksums of the IP header.
    Headers, "headers";
    /// Packets larger than the uplink's MTU.
    Big, "big";
    /// Fragments in order.
    Fragments, "fragments";
    /// Fragments in another order.
    Disorder, "disorder";
    /// SCTP.
    Sctp, "sctp";
    /// GRE, ESP and a protocol without a name.
    Others, "others";
    /// Everything over IPv6 too.
    Ipv6, "ipv6";
    /// Changes of both sides between packets.
    Changes, "changes";
}

impl FromStr for Class {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match Self::ALL.iter().find(|class| class.name() == name) {
            Some(class) => Ok(*class),
            None => {
                let names: Vec<&str> = Self::ALL.iter().map(|class| class.name()).collect();
                bail!(
                    "no class of traffic is called {name:?}: {}",
                    names.join(", ")
                )
            }
        }
    }
}

/// The kinds of traffic of a run.
pub type Classes = BTreeSet<Class>;

/// Every kind.
#[must_use]
pub fn all() -> Classes {
    Class::ALL.iter().copied().collect()
}

/// Every kind, and nothing moves.
#[must_use]
pub fn still() -> Classes {
    let mut classes = all();
    classes.remove(&Class::Changes);
    classes
}
