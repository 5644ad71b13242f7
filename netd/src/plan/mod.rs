//! Intent in, steps out: what the definitions ask of the host, compared with what it has.
//!
//! An [`Intent`] is the networks that are to run, or to go. [`Desired`] is what it asks of a host, a
//! pure function of it and of what is [`Observed`]. [`diff`] is the difference as [`Step`]s, by
//! [`Phase`], and [`execute`] is the one way in which they are done, to any [`Host`]. Starting and
//! stopping networks, changing them while they run, mending what somebody broke, `netd plan` and
//! `netd teardown` are this one comparison.

mod bridge;
mod conflict;
mod desired;
mod device_text;
mod diff;
mod execute;
mod failure;
mod forwarding;
mod forwards;
mod given;
mod guards;
mod guests;
mod observed;
mod pending;
mod phase;
mod prefixes;
mod rates;
mod records;
mod redefined;
mod rehearsal;
mod sentences;
mod shaping;
mod spec;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod whose;
mod xdp;

pub use bridge::InTheWay;
pub use conflict::{Conflict, conflict};
pub use desired::{Desired, Wanted, needs_forwarding};
pub use diff::diff;
pub use execute::{Host, Outcome, StepError, execute};
pub use failure::Failure;
pub use given::{Given, gateways};
pub use guards::guest_of_tap;
pub use guests::Guests;
pub use observed::{Intent, Member, Noted, Observed, Relay, Service, Sockets};
pub use pending::{needs_new_bridge, pending};
pub use phase::{Phase, Scope};
pub use prefixes::{PrefixConflict, prefix_conflict};
pub use rehearsal::Rehearsal;
pub use sentences::sentences;
pub use spec::{BridgeSpec, FAMILIES, RouteSpec, bridge_spec};
pub use step::{Act, DatapathAct, DeviceAct, Port, ServiceAct, Step};
pub use xdp::{FastPath, fast_path};
