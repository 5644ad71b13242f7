//! Network XML: the definition of a network as libvirt's users write it.
//!
//! No I/O happens here. `parse` reads XML into [`Network`], `format` prints the canonical text,
//! `check` holds the rules that apply when a definition is stored or started.

pub mod types;

pub use types::*;
