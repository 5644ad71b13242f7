//! Tests of reading, printing and checking together.

mod peer;

use super::*;

/// The canonical text of what is read.
fn canonical(text: &str) -> String {
    let network = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    format(&network, FormatOptions::default())
}
