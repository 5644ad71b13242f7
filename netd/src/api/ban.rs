//! Bans, as clients add, list and delete them.

use serde::{Deserialize, Serialize};

use crate::model::Prefix;

/// What tells bans apart. Several programs may ban one prefix, each for a time of its own: it is banned
/// until the last of them ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanId {
    /// Name of the network that is closed to the prefix; none for all of them and the host itself.
    pub network: Option<String>,
    /// Who is banned.
    pub prefix: Prefix,
    /// Who asked for it; empty for nobody in particular.
    #[serde(default)]
    pub owner: String,
}

/// A ban, in the answer of `netd ban list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Name of the network that is closed to the prefix; none for all of them and the host itself.
    pub network: Option<String>,
    /// Who is banned.
    pub prefix: Prefix,
    /// Who asked for it; empty for nobody in particular.
    #[serde(default)]
    pub owner: String,
    /// When it ends, in seconds since 1970; none for never.
    pub until: Option<i64>,
}

/// A change of bans: all of it is done, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BanChange {
    /// Ban these; those that are banned already get this end.
    Add {
        /// Who, from what, on whose behalf.
        bans: Vec<BanId>,
        /// For how many seconds; none for ever.
        seconds: Option<u64>,
    },
    /// End these bans.
    Delete {
        /// Which.
        bans: Vec<BanId>,
        /// One that is not there is no error.
        if_exists: bool,
    },
}
