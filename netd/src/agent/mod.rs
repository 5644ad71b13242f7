//! The running agent: it owns the networks and keeps the kernel as they ask.

use std::path::PathBuf;

use crate::settings::Settings;

/// Runs the agent until it is told to stop.
pub async fn run(_settings: Settings, _socket: PathBuf) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not built yet")
}

/// Removes everything an agent with these settings set up.
pub async fn teardown(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not built yet")
}
