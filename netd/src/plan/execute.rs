//! The one way in which anything is done to a host: look, compare, do, phase by phase.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::future::Future;

use super::desired::Desired;
use super::diff::diff;
use super::failure::Failure;
use super::observed::{Intent, Observed};
use super::phase::{Phase, Scope};
use super::step::Step;
use crate::api::ApiError;
use crate::link::Snapshot;

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// Its device has gone, or can do without it: there is nothing to be done.
    Moot(String),
    /// It failed.
    Failed(ApiError),
}

impl StepError {
    /// One of the agent's own.
    pub fn internal(error: impl Display) -> Self {
        Self::Failed(ApiError::internal(error))
    }
}

/// A host: the real one, or one that only reckons.
pub trait Host {
    /// What it has, as far as the intent asks for it.
    fn observe(
        &mut self,
        intent: &Intent<'_>,
    ) -> impl Future<Output = Result<Observed, ApiError>> + Send;

    /// What devices, addresses and routes it has.
    fn links(&mut self) -> impl Future<Output = Result<Snapshot, ApiError>> + Send;

    /// Do some steps, which may be done at the same time if they are more than one; an answer for
    /// each.
    fn apply(
        &mut self,
        steps: &[Step],
        intent: &Intent<'_>,
    ) -> impl Future<Output = Vec<Result<(), StepError>>> + Send;
}

/// What became of an intent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The steps that were done, in order.
    pub done: Vec<Step>,
    /// What could not be looked at or done.
    pub failures: Vec<Failure>,
    /// Bridges that programs guard and that no record tells of.
    pub orphans: BTreeSet<String>,
}

/// Make the host what `intent` says. What fails is told, and the rest goes on.
pub async fn execute<H: Host>(host: &mut H, intent: &Intent<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut observed = match host.observe(intent).await {
        Ok(observed) => observed,
        Err(error) => {
            outcome.failures.push(Failure {
                network: None,
                error,
            });
            return outcome;
        }
    };
    outcome.failures.append(&mut observed.unread);
    let mut desired = Desired::new(intent, &observed);
    outcome.failures.append(&mut desired.problems);
    // Networks whose policy is not in force.
    let mut unguarded = BTreeSet::new();
    for &phase in intent.scope.phases() {
        let mut steps = diff(&desired, &observed, phase);
        if phase >= Phase::Up {
            steps.retain(|step| !step.network.is_some_and(|uuid| unguarded.contains(&uuid)));
        }
        if steps.is_empty() {
            continue;
        }
        let failed = outcome.failures.len();
        carry_out(host, intent, phase, steps, &mut observed, &mut outcome).await;
        if phase.guards() {
            let failures = outcome.failures[failed..].iter();
            let networks = failures.filter_map(|failure| failure.network);
            unguarded.extend(
                networks.filter(|uuid| intent.member(*uuid).is_some_and(|member| member.up)),
            );
        }
        let looks = phase.changes_links() && !matches!(intent.scope, Scope::Service(_));
        if looks {
            match host.links().await {
                Ok(links) => observed.links = links,
                Err(error) => outcome.failures.push(Failure {
                    network: None,
                    error,
                }),
            }
        }
        if phase == Phase::Note {
            // What runs with another definition than its record says would be lost with the agent.
            let is_lost = |failure: &Failure| {
                let network = failure.network.as_ref();
                network.is_some_and(|network| observed.noted.contains_key(network))
            };
            if outcome.failures[failed..].iter().any(is_lost) {
                return outcome;
            }
        }
        if looks || phase == Phase::Note {
            desired = Desired::new(intent, &observed);
        }
    }
    let orphans = desired.orphans.iter();
    let orphans = orphans.filter_map(|index| observed.links.links.get(index));
    outcome.orphans = orphans.map(|link| link.name.clone()).collect();
    outcome
}

async fn carry_out<H: Host>(
    host: &mut H,
    intent: &Intent<'_>,
    phase: Phase,
    steps: Vec<Step>,
    observed: &mut Observed,
    outcome: &mut Outcome,
) {
    let mut broken = BTreeSet::new();
    let batches = match phase.is_parallel() {
        true => vec![steps],
        false => steps.into_iter().map(|step| vec![step]).collect(),
    };
    for some in batches {
        if phase.is_chain()
            && let [step] = some.as_slice()
            && step.network.is_some_and(|uuid| broken.contains(&uuid))
        {
            continue;
        }
        let results = host.apply(&some, intent).await;
        for (step, result) in some.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    tracing::debug!(%step, "done");
                    observed.note(&step, intent);
                    outcome.done.push(step);
                }
                Err(StepError::Moot(why)) => tracing::debug!(%step, why, "not done"),
                Err(StepError::Failed(error)) => {
                    let network = step.network;
                    broken.extend(network);
                    outcome.failures.push(Failure { network, error });
                }
            }
        }
    }
}
