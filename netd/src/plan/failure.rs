//! What could not be done, and which network lacks it.

use std::fmt::Display;

use uuid::Uuid;

use crate::api::ApiError;

/// Something that could not be made what the networks ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The only network that lacks it; `None` where any may.
    pub network: Option<Uuid>,
    /// What and why.
    pub error: ApiError,
}

impl Failure {
    /// One that any network may suffer from.
    pub fn of_all(error: impl Display) -> Self {
        Self {
            network: None,
            error: ApiError::internal(error),
        }
    }

    /// One of a network.
    pub fn of(network: Uuid, error: impl Display) -> Self {
        Self {
            network: Some(network),
            error: ApiError::internal(error),
        }
    }

    /// Does a network lack something by it?
    #[must_use]
    pub fn concerns(&self, network: Uuid) -> bool {
        self.network.is_none_or(|only| only == network)
    }
}
