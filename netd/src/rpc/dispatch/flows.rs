//! Calls about connections.

use crate::api::{ApiError, Driver, FlowNames, FlowPiece};
use crate::rpc::answer::{Answer, from_json, result, to_json};
use crate::rpc::procedures::{FlowListArgs, FlowListReply, FlowNamesReply};
use crate::rpc::xdr::List;

pub(super) async fn list<D: Driver>(driver: &D, args: FlowListArgs) -> Answer {
    let filter = from_json(&args.filter, "which connections are meant")?;
    let FlowPiece { halves, next } = driver.flows(&filter, args.from).await?;
    result(&FlowListReply {
        halves: List(halves),
        next,
    })
}

pub(super) async fn names<D: Driver>(driver: &D) -> Answer {
    let mut names = driver.flow_names().await?;
    let guests = std::mem::take(&mut names.guests);
    let guests = guests.iter().map(to_json);
    result(&FlowNamesReply {
        names: to_json::<FlowNames>(&names)?,
        guests: List(guests.collect::<Result<_, ApiError>>()?),
    })
}
