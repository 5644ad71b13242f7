//! Logs of the agent: to standard error, which is the journal's under systemd.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Environment variable that sets what is logged.
const VARIABLE: &str = "NETD_LOG";

/// Starts logging, at `level` where the environment says nothing else. The journal stamps lines with
/// the time itself.
pub fn start(level: LevelFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(VARIABLE)
        .from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Modules are of use to those who set the filter.
        .with_target(std::env::var_os(VARIABLE).is_some())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let result = if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
    if let Err(error) = result {
        eprintln!("warning: cannot log: {error}");
    }
}
