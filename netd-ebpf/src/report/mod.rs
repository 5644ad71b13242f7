//! Telling of what was dropped.

pub mod drops;
pub mod event;
pub mod ratelimit;
