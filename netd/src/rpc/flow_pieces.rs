//! Connections as a client reads them: piece by piece, the next one on its way while it works on this one.

use crate::api::{Flow, FlowFilter, FlowJoin};
use crate::rpc::Client;
use crate::rpc::client::Result;
use crate::rpc::message::PROGRAM_NETD;
use crate::rpc::procedures::{FlowListArgs, FlowListReply, NetdProcedure};

/// A list of connections that is being read.
#[derive(Debug)]
pub struct FlowPieces<'a> {
    client: &'a mut Client,
    filter: String,
    join: FlowJoin,
    /// The number of the call whose answer has the next piece; none behind the last one.
    asked: Option<u32>,
}

impl Client {
    /// The connections that are meant.
    pub async fn flows(&mut self, filter: &FlowFilter) -> Result<FlowPieces<'_>> {
        let mut pieces = FlowPieces {
            filter: serde_json::to_string(filter)?,
            client: self,
            join: FlowJoin::default(),
            asked: None,
        };
        pieces.ask(0).await?;
        Ok(pieces)
    }
}

impl FlowPieces<'_> {
    async fn ask(&mut self, from: u64) -> Result<()> {
        let args = FlowListArgs {
            filter: self.filter.clone(),
            from,
        };
        let procedure = NetdProcedure::FlowList as i32;
        let sent = self.client.send(PROGRAM_NETD, procedure, &args).await?;
        self.asked = Some(sent);
        Ok(())
    }

    /// The connections that the next piece makes whole; none behind the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<Flow>>> {
        let Some(asked) = self.asked.take() else {
            return Ok(None);
        };
        let FlowListReply { halves, next } = self.client.receive(asked).await?;
        if next != 0 {
            self.ask(next).await?;
        }
        let whole = halves.0.into_iter().filter_map(|half| self.join.add(half));
        Ok(Some(whole.collect()))
    }
}
