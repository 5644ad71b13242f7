//! `net-update`.

use std::path::Path;

use crate::api::Affect;
use crate::cli::args::UpdateArgs;
use crate::cli::networks::{find, read_xml};
use crate::cli::output::{Failure, Output};
use crate::model::{Section, Update, UpdateCommand};
use crate::rpc::Client;

pub(super) async fn update(
    client: &mut Client,
    output: &mut Output,
    args: &UpdateArgs,
) -> Result<(), Failure> {
    for (other, name) in [(args.live, "--live"), (args.config, "--config")] {
        if args.current && other {
            return Err(format!("Options --current and {name} are mutually exclusive").into());
        }
    }
    let network = find(client, &args.network).await?;
    let command = match args.command.as_str() {
        "add" => Some(UpdateCommand::AddLast),
        name => UpdateCommand::from_name(name),
    };
    let update = Update {
        command: command.ok_or_else(|| format!("unrecognized command name '{}'", args.command))?,
        section: Section::from_name(&args.section)
            .ok_or_else(|| format!("unrecognized section name '{}'", args.section))?,
        parent_index: args.parent_index.and_then(|index| index.try_into().ok()),
        xml: if args.xml.starts_with('<') {
            args.xml.clone()
        } else {
            read_xml(Path::new(&args.xml))?
        },
    };
    let affect = Affect {
        live: args.live,
        config: args.config,
    };
    let updated = client.update(&network, &update, affect).await;
    updated.map_err(|error| {
        Failure::new(format!("Failed to update network {}", network.name), &error)
    })?;
    let failed = |error| Failure::new(format!("failed to get network '{}'", network.name), &error);
    let what = match (args.config, args.live) {
        (true, true) => "persistent config and live state",
        (true, false) => "persistent config",
        (false, true) => "live state",
        (false, false) if client.is_active(&network).await.map_err(failed)? => "live state",
        (false, false) => "persistent config",
    };
    output.data(format!("Updated network {} {what}", network.name));
    Ok(())
}
