//! Asks polkit whether a client may do something.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Variant;

use crate::api::{ApiError, ErrorCode, ErrorDomain};
use crate::rpc::access::Action;
use crate::rpc::peer::Peer;

/// A person may have to type a password.
const PATIENCE: Duration = Duration::from_secs(300);

/// polkit may ask the person at the client's session.
const ALLOW_INTERACTION: u32 = 1;

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// May `peer` do that?
///
/// # Errors
/// It may not, or nobody can tell; as libvirt's daemon says it.
pub async fn ask(peer: &Peer, action: Action) -> Result<(), ApiError> {
    let answer = tokio::time::timeout(PATIENCE, check(peer, action)).await;
    let Ok(answer) = answer else {
        return Err(denied(
            ErrorCode::AuthCancelled,
            "polkit did not answer in time",
        ));
    };
    match answer {
        Ok((true, ..)) => Ok(()),
        Ok((false, _, details)) if details.get("polkit.dismissed").is_some_and(|d| d == "true") => {
            let detail = "user cancelled authentication process";
            Err(denied(ErrorCode::AuthCancelled, detail))
        }
        Ok((false, true, _)) => Err(denied(
            ErrorCode::AuthUnavailable,
            format_args!(
                "no polkit agent available to authenticate action '{}'",
                action.id()
            ),
        )),
        Ok((false, false, _)) => Err(denied(ErrorCode::AuthFailed, "access denied by policy")),
        Err(error) => {
            tracing::warn!(%error, action = action.id(), "cannot ask polkit");
            let detail = format_args!("cannot ask polkit for '{}': {error}", action.id());
            Err(denied(ErrorCode::AuthFailed, detail))
        }
    }
}

async fn check(
    peer: &Peer,
    action: Action,
) -> Result<(bool, bool, HashMap<String, String>), zbus::Error> {
    // polkit asks at the session of the process and decides for the user: a process that has the number
    // by now of the one that connected gets nothing that this user may not do.
    let pid = u32::try_from(peer.pid).unwrap_or(0);
    let started = start_time(peer.pid).unwrap_or(0);
    let subject = HashMap::from([
        ("pid", Variant::from(pid)),
        ("start-time", Variant::from(started)),
        ("uid", Variant::from(peer.uid.cast_signed())),
    ]);
    // Clients come rarely, and a connection of its own survives no restart of the bus.
    let bus = zbus::Connection::system().await?;
    let authority = AuthorityProxy::new(&bus).await?;
    authority
        .check_authorization(
            &("unix-process", subject),
            action.id(),
            HashMap::new(),
            ALLOW_INTERACTION,
            "",
        )
        .await
}

/// When the process started, in ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    let process = procfs::process::Process::new(pid).ok()?;
    Some(process.stat().ok()?.starttime)
}

fn denied(code: ErrorCode, detail: impl std::fmt::Display) -> ApiError {
    ApiError::new(code, detail).in_domain(ErrorDomain::Polkit)
}
