//! `net-apply`: a running network runs with its changed definition.

use crate::cli::args::ApplyArgs;
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::rpc::Client;

pub(super) async fn apply(
    client: &mut Client,
    output: &mut Output,
    args: &ApplyArgs,
) -> Result<(), Failure> {
    let network = find(client, &args.network).await?;
    let applied = client.apply(&network, args.dry_run).await;
    let applied = applied.map_err(|error| {
        Failure::new(
            format!("Failed to apply the definition of network {}", network.name),
            &error,
        )
    })?;
    for step in &applied.steps {
        output.data(format!("{step}\n"));
    }
    let name = &network.name;
    if applied.same {
        output.extra(format!("Network {name} runs with its definition already\n"));
    } else if !args.dry_run {
        output.extra(format!("Network {name} runs with its changed definition\n"));
    } else if applied.steps.is_empty() {
        output.extra("Nothing to do on the host: only the definition differs.\n");
    }
    for warning in &applied.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
