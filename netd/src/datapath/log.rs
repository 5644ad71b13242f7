//! What the programs log: one line per dropped packet, for development. Off unless asked for with
//! `NETD_LOG=netd_ebpf=debug`; then the programs are loaded with logging in them.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::{DatapathError, Result, chain};

/// Target of the programs' lines, which is the name of their crate.
const TARGET: &str = "netd_ebpf";

/// Is logging of the programs asked for?
#[must_use]
pub fn wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Pass the programs' lines on to the agent's log for as long as the runtime lives.
///
/// # Errors
/// The programs' log buffer cannot be read.
pub fn forward(ebpf: &mut Ebpf) -> Result<()> {
    let failed = |message: String| DatapathError::Map {
        operation: "read",
        map: "AYA_LOGS",
        message,
    };
    let logger = EbpfLogger::init(ebpf).map_err(|error| failed(chain(&error)))?;
    // SAFETY: the logger's descriptor is that of its ring buffer, which it owns as long as it
    // lives, and it lives in the AsyncFd.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
        .map_err(|error| failed(error.into_parts().1.to_string()))?;
    tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the programs' log ends here");
                    return;
                }
            }
        }
    });
    Ok(())
}
