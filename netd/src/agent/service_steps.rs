//! How the steps of networks' services are done: their namespaces, dnsmasq and what is beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::host::{KernelHost, Process};
use super::starting::{AT_ONCE, Order, Starting};
use super::steps::Result;
use crate::api::ApiError;
use crate::dnsmasq::{self, Running};
use crate::netns::Netns;
use crate::paths::Paths;
use crate::plan::{Act, DeviceAct, Intent, ServiceAct, Step, StepError, gateways};
use crate::services::{namespace, relay};

/// Processes that start, and namespaces that are made, at the same time.
const AT_A_TIME: usize = 4;

/// What was made or started.
enum Made {
    Namespace,
    Furniture,
    Dnsmasq(Running),
    Starting(Starting),
    Relay(relay::Relay),
}

/// The namespace of a bridge's services.
fn netns_of(paths: &Paths, bridge: &str) -> Result<Netns> {
    let path = namespace::path(paths, bridge);
    let netns = Netns::open(&path).map_err(StepError::internal)?;
    netns.ok_or_else(|| {
        StepError::internal(format_args!(
            "there is no network namespace {}",
            path.display()
        ))
    })
}

impl KernelHost {
    /// Do those steps that are waiting, mostly, a few at a time. Returns what became of each, by its
    /// place among `steps`; the others are left.
    pub(super) async fn start_all(
        &mut self,
        steps: &[Step],
        intent: &Intent<'_>,
    ) -> BTreeMap<usize, Result<()>> {
        let mut work: Vec<BoxFuture<'_, (usize, Result<Made>)>> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            if let Some(made) = self.work(step, intent) {
                work.push(Box::pin(async move { (at, made.await) }));
            }
        }
        let work = stream::iter(work).buffer_unordered(AT_A_TIME);
        let made: Vec<_> = work.collect().await;
        let mut results = BTreeMap::new();
        for (at, made) in made {
            if let Some(step) = steps.get(at) {
                results.insert(at, self.note_made(step, made, intent));
            }
        }
        results
    }

    /// What a step takes, if it is one of them.
    fn work<'a>(
        &'a self,
        step: &'a Step,
        intent: &'a Intent<'_>,
    ) -> Option<BoxFuture<'a, Result<Made>>> {
        let (dnsmasq, paths, binary) = (&self.dnsmasq, &self.paths, &self.binary);
        Some(match &step.act {
            Act::Device(DeviceAct::MakeNamespace(bridge)) => Box::pin(async move {
                // Its program is of a namespace that goes.
                let stopped = relay::stop(paths, &bridge.name, None).await;
                stopped.map_err(StepError::internal)?;
                let made = namespace::make(&self.links, paths, bridge).await;
                made.map_err(StepError::internal)?;
                Ok(Made::Namespace)
            }),
            Act::Device(DeviceAct::FurnishNamespace(bridge)) => Box::pin(async move {
                let furnished = namespace::refurnish(&self.links, paths, bridge).await;
                furnished.map_err(StepError::internal)?;
                Ok(Made::Furniture)
            }),
            Act::Service(ServiceAct::StartDnsmasq { bridge, .. }) => {
                let member = intent.member(step.network?)?;
                let limit = match self.waits_for_services {
                    true => Duration::MAX,
                    false => AT_ONCE,
                };
                Box::pin(async move {
                    let starting = Starting::begin(Order {
                        dnsmasq: Arc::clone(dnsmasq),
                        network: member.network.clone(),
                        bridge: bridge.clone(),
                        paths: paths.clone(),
                        helper: binary.clone(),
                        netns: netns_of(paths, bridge)?,
                        serves: member.service,
                    });
                    match starting.outcome_within(limit).await {
                        Some(started) => started.map(Made::Dnsmasq).map_err(StepError::Failed),
                        None => Ok(Made::Starting(starting)),
                    }
                })
            }
            Act::Service(ServiceAct::StartRelay { bridge, .. }) => {
                let network = intent.member(step.network?)?.network;
                let gateways = gateways(network);
                Box::pin(async move {
                    let started = relay::start(binary, paths, bridge, &gateways).await;
                    started.map(Made::Relay).map_err(StepError::internal)
                })
            }
            _ => return None,
        })
    }

    /// Take note of what was made or started, or was not.
    fn note_made(&mut self, step: &Step, made: Result<Made>, intent: &Intent<'_>) -> Result<()> {
        let Some(uuid) = step.network else {
            return made.map(drop);
        };
        let now = Instant::now();
        let member = intent.member(uuid);
        let network = member.map(|member| member.network.name.as_str());
        match made {
            Ok(made @ (Made::Namespace | Made::Furniture)) => {
                if matches!(made, Made::Namespace) {
                    self.relays.remove(&uuid);
                }
                if let Some(noted) = self.noted.get_mut(&uuid) {
                    noted.furnished = true;
                }
                Ok(())
            }
            Ok(Made::Dnsmasq(running)) => {
                if self.processes.contains_key(&uuid) || self.tried.contains_key(&uuid) {
                    tracing::info!(network, pid = running.pid(), "dnsmasq started again");
                    self.tried.insert(uuid, now);
                }
                self.watch_process(running.clone());
                if let Some(member) = member {
                    let serves = member.service;
                    let process = Process::new(running, member.network, serves, &self.paths);
                    self.processes.insert(uuid, process);
                }
                Ok(())
            }
            Ok(Made::Starting(starting)) => {
                self.note_starting(uuid, starting);
                Ok(())
            }
            Ok(Made::Relay(relay)) => {
                if self.relays.contains_key(&uuid) || self.relays_tried.contains_key(&uuid) {
                    let pid = relay.running.pid();
                    tracing::info!(network, pid, "relay started again");
                    self.relays_tried.insert(uuid, now);
                }
                self.watch_process(relay.running.clone());
                self.relays.insert(uuid, relay);
                // The programs are to know its port.
                self.wake.notify_one();
                Ok(())
            }
            Err(error) => {
                let StepError::Failed(ApiError { message, .. }) = &error else {
                    return Err(error);
                };
                match &step.act {
                    Act::Service(ServiceAct::StartRelay { .. }) => {
                        tracing::error!(network, error = message, "no names of the host's servers");
                        self.relays_tried.insert(uuid, now);
                    }
                    Act::Service(_) => {
                        tracing::error!(network, error = message, "no DHCP and DNS");
                        self.tried.insert(uuid, now);
                    }
                    _ => {}
                }
                Err(error)
            }
        }
    }

    pub(super) async fn stop_service(&mut self, uuid: Uuid, intent: &Intent<'_>) -> Result<()> {
        self.tried.remove(&uuid);
        self.proven.remove(&uuid);
        if let Some(starting) = self.starting.remove(&uuid) {
            starting.give_up();
        }
        let running = self.processes.get(&uuid).map(|p| p.running.clone());
        if let Some(member) = intent.member(uuid) {
            let stopped = dnsmasq::process::stop_network(member.network, &self.paths, running);
            let stopped = stopped.await;
            stopped.map_err(|error| StepError::Failed(error.into()))?;
        }
        self.processes.remove(&uuid);
        Ok(())
    }

    pub(super) async fn stop_relay(&mut self, uuid: Uuid, bridge: &str) -> Result<()> {
        self.relays_tried.remove(&uuid);
        let running = self.relays.get(&uuid).map(|relay| relay.running.clone());
        let stopped = relay::stop(&self.paths, bridge, running).await;
        stopped.map_err(StepError::internal)?;
        self.relays.remove(&uuid);
        Ok(())
    }

    pub(super) async fn reload_service(
        &mut self,
        uuid: Uuid,
        bridge: &str,
        intent: &Intent<'_>,
    ) -> Result<()> {
        let (Some(member), Some(process)) = (intent.member(uuid), self.processes.get(&uuid)) else {
            return Ok(());
        };
        let running = process.running.clone();
        let before = running.pid();
        let netns = netns_of(&self.paths, bridge)?;
        let (network, paths, binary) = (member.network, &self.paths, &self.binary);
        let conf = member.service.map(|serves| serves.conf);
        let proven = conf.is_some() && self.proven.get(&uuid).copied() == conf;
        let dnsmasq = Arc::clone(&self.dnsmasq);
        let reloaded = dnsmasq.reload(network, bridge, paths, binary, &netns, (running, proven));
        let running = match reloaded.await {
            Ok(running) => running,
            Err(error) => {
                self.tried.insert(uuid, Instant::now());
                return Err(StepError::Failed(error.into()));
            }
        };
        if running.pid() != before {
            self.watch_process(running.clone());
        }
        let process = Process::new(running, network, member.service, &self.paths);
        self.processes.insert(uuid, process);
        Ok(())
    }
}
