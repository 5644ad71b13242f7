//! What may pass.

pub mod host_access;
pub mod policy;
pub mod source_guard;
