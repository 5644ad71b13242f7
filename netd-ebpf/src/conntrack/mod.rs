//! Flows that are known: their entries, states and slots.

pub mod fragment;
pub mod held;
pub mod in_stack;
pub mod ipsec;
pub mod life;
pub mod lookup;
pub mod mapping;
pub mod proof;
pub mod slots;
pub mod state;
pub mod sweep;
pub mod trackable;
pub mod validate;
pub mod window;
