//! Bans: `netd ban add`, `list` and `delete`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::api::{Ban, BanChange, BanId};
use crate::cli::args::{BanAddArgs, BanCommand, BanDeleteArgs, BanIdArgs, BanListArgs};
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::table::Table;
use crate::rpc::Client;

/// Result of a verb.
type Result<T = ()> = std::result::Result<T, Failure>;

pub(super) async fn bans(client: &mut Client, output: &mut Output, command: &BanCommand) -> Result {
    match command {
        BanCommand::Add(args) => add(client, output, args).await,
        BanCommand::List(args) => list(client, output, args).await,
        BanCommand::Delete(args) => delete(client, output, args).await,
    }
}

async fn add(client: &mut Client, output: &mut Output, args: &BanAddArgs) -> Result {
    let network = match &args.which.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let bans = ids(&args.which, network.as_deref());
    let told = told(&bans);
    let change = BanChange::Add {
        bans,
        seconds: args.seconds,
    };
    change_bans(client, &change).await?;
    let from = network.map_or_else(String::new, |network| format!(" from network {network}"));
    output.extra(format!("Banned {told}{from}\n"));
    Ok(())
}

async fn delete(client: &mut Client, output: &mut Output, args: &BanDeleteArgs) -> Result {
    let network = name(client, args.which.network.as_deref()).await;
    let bans = ids(&args.which, network.as_deref());
    let told = told(&bans);
    let change = BanChange::Delete {
        bans,
        if_exists: args.if_exists,
    };
    change_bans(client, &change).await?;
    output.extra(format!("No longer banned: {told}\n"));
    Ok(())
}

async fn change_bans(client: &mut Client, change: &BanChange) -> Result {
    let changed = client.change_bans(change).await;
    changed.map_err(|error| Failure::new("Failed to change bans", &error))
}

/// A network's name; as it was given where there is none any more, which may have bans all the same.
async fn name(client: &mut Client, network: Option<&str>) -> Option<String> {
    let network = network?;
    let found = find(client, network).await.ok();
    Some(found.map_or_else(|| network.to_owned(), |found| found.name))
}

fn ids(which: &BanIdArgs, network: Option<&str>) -> Vec<BanId> {
    let prefixes = which.prefixes.iter();
    prefixes
        .map(|prefix| BanId {
            network: network.map(str::to_owned),
            prefix: *prefix,
            owner: which.owner.clone(),
        })
        .collect()
}

fn told(bans: &[BanId]) -> String {
    match bans {
        [first, .., _] if bans.len() > 3 => format!("{} and {} more", first.prefix, bans.len() - 1),
        bans => {
            let prefixes: Vec<String> = bans.iter().map(|ban| ban.prefix.to_string()).collect();
            prefixes.join(", ")
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Listed {
    bans: Vec<Ban>,
}

async fn list(client: &mut Client, output: &mut Output, args: &BanListArgs) -> Result {
    let network = name(client, args.network.as_deref()).await;
    let bans = client.bans().await;
    let mut bans = bans.map_err(|error| Failure::new("Failed to list bans", &error))?;
    bans.retain(|ban| network.is_none() || ban.network == network);
    if args.json {
        return output.answer(&Listed { bans });
    }
    let mut table = Table::new(&["Prefix", "Network", "Until", "Owner"]);
    for ban in bans {
        table.row(&[
            ban.prefix.to_string(),
            ban.network.unwrap_or_else(|| "-".to_owned()),
            ban.until.map_or_else(|| "-".to_owned(), time),
            if ban.owner.is_empty() {
                "-".to_owned()
            } else {
                ban.owner
            },
        ]);
    }
    table.print(output);
    Ok(())
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(
        |_| "?".to_owned(),
        |time| {
            let time = time.to_zoned(TimeZone::system());
            time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        },
    )
}
