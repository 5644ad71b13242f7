//! Flows that are known: their entries, states and slots.

pub mod fragment;
pub mod life;
pub mod lookup;
pub mod mapping;
pub mod slots;
pub mod state;
pub mod sweep;
pub mod trackable;
pub mod validate;
pub mod window;
