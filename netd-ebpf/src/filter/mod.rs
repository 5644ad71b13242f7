//! What may pass.

pub mod bans;
pub mod host_access;
pub mod ipsec;
pub mod isolation;
pub mod policy;
pub mod source_guard;
