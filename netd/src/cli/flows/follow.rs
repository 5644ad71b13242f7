//! `netd flows --follow`: connections as they come and go. The programs tell nobody, so the table is
//! looked at again and again, and what differs is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::told::{Names, Told};
use crate::api::{Flow, FlowFilter};
use crate::cli::output::{Failure, Output};
use crate::cli::stamp::stamp;
use crate::rpc::{Client, ClientError};

/// Result of a verb.
type Result<T = ()> = std::result::Result<T, Failure>;

/// Connections that are followed at a time: what was seen of them is held.
const FOLLOWED: usize = 100_000;

/// The table is looked at this often …
const PAUSE: Duration = Duration::from_secs(1);

/// … and for a fifth of the time at most.
const SHARE: u32 = 4;

/// By what a connection is known again: protocol, source, destination.
type Key = (u8, SocketAddr, SocketAddr);

/// What is known of the connections that were there at the last look.
#[derive(Default)]
pub(super) struct Followed {
    flows: HashMap<Key, (Flow, u64)>,
    look: u64,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Event {
    /// It was not there.
    New,
    /// Its state or translation is another.
    Changed,
    /// It is not there any more.
    Ended,
}

/// What `--json` prints in each line.
#[derive(Serialize)]
struct Line<'a> {
    /// Microseconds since the epoch.
    time: i64,
    event: Event,
    #[serde(flatten)]
    flow: Told<'a>,
}

pub(super) async fn follow(
    client: &mut Client,
    output: &mut Output,
    filter: &FlowFilter,
    as_json: bool,
) -> Result {
    let mut followed = Followed::default();
    // What happens from now on.
    look(client, filter, &mut followed).await?;
    loop {
        let began = Instant::now();
        let events = look(client, filter, &mut followed).await?;
        let names = Names::from(client.flow_names().await.map_err(failed)?);
        for (event, flow) in &events {
            let time = Timestamp::now();
            let flow = Told::new(flow, &names);
            if as_json {
                let time = time.as_microsecond();
                output.json(&Line {
                    time,
                    event: *event,
                    flow,
                })?;
            } else {
                output.data(format!("{} {} {}", stamp(time), event.word(), flow.line()));
            }
            output.data("\n");
        }
        if !output.flush_to_reader()? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

/// Look at all of them.
async fn look(
    client: &mut Client,
    filter: &FlowFilter,
    followed: &mut Followed,
) -> Result<Vec<(Event, Flow)>> {
    let mut events = Vec::new();
    let mut pieces = client.flows(filter).await.map_err(failed)?;
    while let Some(flows) = pieces.next().await.map_err(failed)? {
        for flow in flows {
            events.extend(followed.see(flow));
        }
        if followed.flows.len() > FOLLOWED {
            return Err(Failure::from(format!(
                "more than {FOLLOWED} connections are there to follow; choose some by network, --guest, \
                 --proto, --port or --address"
            )));
        }
    }
    events.extend(followed.end_look());
    Ok(events)
}

impl Followed {
    /// A connection is there.
    pub fn see(&mut self, flow: Flow) -> Option<(Event, Flow)> {
        let key = (flow.protocol, flow.sent.source, flow.sent.destination);
        let before = self.flows.insert(key, (flow.clone(), self.look));
        let event = match before {
            None => Event::New,
            Some((before, _)) => {
                let same = before.state == flow.state
                    && before.received.source == flow.received.source
                    && before.received.destination == flow.received.destination;
                if same {
                    return None;
                }
                Event::Changed
            }
        };
        Some((event, flow))
    }

    /// All of them were seen: the others have ended.
    pub fn end_look(&mut self) -> Vec<(Event, Flow)> {
        let look = self.look;
        self.look += 1;
        let ended = self.flows.extract_if(|_, (_, seen)| *seen != look);
        ended.map(|(_, (flow, _))| (Event::Ended, flow)).collect()
    }
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Ended => "ended",
        }
    }
}

fn failed(error: ClientError) -> Failure {
    Failure::new("Failed to follow connections", &error)
}
