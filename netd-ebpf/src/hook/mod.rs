//! Where packets come in, one file for each kind of hook.

pub mod egress;
pub mod enter;
pub mod port_ingress;
pub mod services_ingress;
pub mod slow_path;
pub mod socket;
pub mod stages;
pub mod uplink_ingress;
pub mod xdp;
