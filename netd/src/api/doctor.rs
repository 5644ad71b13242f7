//! What `netd doctor` finds.

use serde::{Deserialize, Serialize};

/// Something about the host that is not as an administrator may believe, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Name of the check that found it.
    pub check: String,
    /// The network it is about; none for the host.
    pub network: Option<String>,
    /// What it is.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}
