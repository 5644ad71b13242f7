//! Intent in, steps out: what the definitions ask of the kernel, compared with what it has.
//!
//! Everything here is a pure function of definitions and a snapshot, but for [`apply`], which
//! carries the steps out. Start, restart, self-healing and `netd plan` are the same comparison.

mod apply;
mod conflict;
mod desired;
mod express;
mod forwards;
mod guards;
mod guests;
mod step;
#[cfg(test)]
mod tests;

pub use apply::apply;
pub use conflict::{Conflict, conflict};
pub use desired::{BridgeSpec, RouteSpec, bridge_spec, hooks, records};
pub use express::{Express, express};
pub use forwards::nd_proxies;
pub use guests::Guests;
pub use step::{InTheWay, Step, plan_bridge, plan_hooks};
