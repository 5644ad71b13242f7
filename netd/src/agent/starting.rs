//! dnsmasqs that take their time: everybody waits for them a moment, and then only who started their
//! network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::api::{ApiError, Result};
use crate::dnsmasq::{Digest, Dnsmasq, Running};
use crate::model::Network;
use crate::netns::Netns;
use crate::paths::Paths;

/// How long the agent does nothing else while a dnsmasq starts. Most take a tenth of it.
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);

type Outcome = Option<Result<Running>>;

/// A dnsmasq that is about to be a daemon. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct Starting {
    outcome: watch::Receiver<Outcome>,
    abort: AbortHandle,
    serves: Option<Digest>,
}

/// What it takes to start one.
pub(super) struct Order {
    pub dnsmasq: Arc<Dnsmasq>,
    pub network: Network,
    pub bridge: String,
    pub paths: Paths,
    pub helper: PathBuf,
    pub netns: Netns,
    pub serves: Option<Digest>,
}

impl Starting {
    /// Begin to start one.
    pub(super) fn begin(order: Order) -> Self {
        let serves = order.serves;
        let (tell, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let Order {
                dnsmasq,
                network,
                bridge,
                paths,
                helper,
                netns,
                ..
            } = order;
            let started = dnsmasq.start(&network, &bridge, &paths, &helper, &netns);
            let started = started.await.map_err(ApiError::from);
            // Nobody may listen any more.
            let _ = tell.send(Some(started));
        });
        Self {
            outcome,
            abort: task.abort_handle(),
            serves,
        }
    }

    /// Wait until it runs, or did not start.
    pub(super) async fn outcome(&self) -> Result<Running> {
        let mut outcome = self.outcome.clone();
        let told = outcome.wait_for(Option::is_some).await;
        match told.ok().and_then(|told| told.clone()) {
            Some(outcome) => outcome,
            None => Err(ApiError::internal(
                "its network was stopped while dnsmasq started",
            )),
        }
    }

    /// The outcome, if it is there that soon.
    pub(super) async fn outcome_within(&self, limit: Duration) -> Outcome {
        timeout(limit, self.outcome()).await.ok()
    }

    /// The outcome, if it is there already.
    pub(super) fn outcome_so_far(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// What it was given to serve.
    pub(super) fn serves(&self) -> Option<Digest> {
        self.serves
    }

    /// Nobody needs it any more.
    pub(super) fn give_up(&self) {
        self.abort.abort();
    }
}

/// A dnsmasq that is to be tried out before it takes the place of one that works.
pub(super) struct Trial {
    pub dnsmasq: Arc<Dnsmasq>,
    pub network: Network,
    pub bridge: String,
    pub paths: Paths,
    pub helper: PathBuf,
    /// Its configuration.
    pub conf: u64,
}
