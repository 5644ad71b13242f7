//! Reading the elements of a text: typed attributes, errors that say where, and what nobody asked for.

mod element;
mod reading;

pub use element::{Element, Extent, parse_uuid};
pub use reading::{Reading, UnknownPiece};
