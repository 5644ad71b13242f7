//! Who asks for networks' prefixes.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::delegation::{Task, Told};
use crate::model::Delegated;

/// Answers that wait for the agent.
const WAITING: usize = 64;

/// Who asks for prefixes.
pub struct Delegations {
    /// By network, with what is asked for.
    pub tasks: BTreeMap<Uuid, (Delegated, Task)>,
    /// Where they tell.
    pub tell: mpsc::Sender<Told>,
    /// Where the agent hears of them, until its loop takes it.
    pub told: Option<mpsc::Receiver<Told>>,
}

impl Default for Delegations {
    fn default() -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self {
            tasks: BTreeMap::new(),
            tell,
            told: Some(told),
        }
    }
}
