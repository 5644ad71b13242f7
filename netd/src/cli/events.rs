//! `net-event`: prints what happens to networks, as virsh does.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::api::{EventKind, Lifecycle, Metadata, NetworkEvent};
use crate::cli::args::EventArgs;
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::rpc::procedures::{EVENT_ID_LIFECYCLE, EVENT_ID_METADATA_CHANGE};
use crate::rpc::{Client, ClientError};

/// Kinds of events, by virsh's name and libvirt's number.
const KINDS: [(&str, i32); 2] = [
    ("lifecycle", EVENT_ID_LIFECYCLE),
    ("metadata-change", EVENT_ID_METADATA_CHANGE),
];

/// Why no more events are waited for.
enum End {
    /// One was enough.
    Heard,
    TimedOut,
    Interrupted,
    /// Nobody reads the output.
    Unread,
    Broken(ClientError),
}

pub(super) async fn events(
    client: &mut Client,
    output: &mut Output,
    args: &EventArgs,
) -> Result<(), Failure> {
    if args.list {
        for (name, _) in KINDS {
            output.data(format!("{name}\n"));
        }
        return Ok(());
    }
    let Some(wanted) = &args.event else {
        return Err("either --list or --event <type> is required".into());
    };
    let Some((name, kind)) = KINDS.into_iter().find(|(name, _)| name == wanted) else {
        return Err(format!("unknown event type {wanted}").into());
    };
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?),
        None => None,
    };
    let failed = |error| Failure::new("Failed to wait for events", &error);
    client.listen(kind, network).await.map_err(failed)?;
    let (end, heard) = wait(client, output, args, name).await?;
    if !args.json {
        match end {
            End::Heard | End::Unread | End::Broken(_) => {}
            End::TimedOut => output.data("event loop timed out\n"),
            End::Interrupted => output.data("event loop interrupted\n"),
        }
        output.data(format!("events received: {heard}\n"));
    }
    match end {
        End::Broken(error) => Err(Failure::new("Failed to wait for more events", &error)),
        End::Unread => Ok(()),
        _ if heard == 0 => Err(Failure::silent()),
        _ => Ok(()),
    }
}

/// Prints events as they come. Returns why it ended, and how many there were.
async fn wait(
    client: &mut Client,
    output: &mut Output,
    args: &EventArgs,
    name: &str,
) -> Result<(End, u64), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| format!("cannot wait for Ctrl-C: {error}"))?;
    let timeout = async {
        match args.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(timeout);
    let mut heard = 0;
    loop {
        let event = tokio::select! {
            event = client.next_event() => event,
            () = &mut timeout => return Ok((End::TimedOut, heard)),
            _ = interrupt.recv() => return Ok((End::Interrupted, heard)),
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => return Ok((End::Broken(error), heard)),
        };
        heard += 1;
        if args.json {
            output.json(&Line::new(name, &event))?;
            output.data("\n");
        } else {
            if args.timestamp {
                output.data(time(Timestamp::now()));
            }
            output.data(line(name, &event));
        }
        if !output.flush_to_reader()? {
            return Ok((End::Unread, heard));
        }
        if !args.repeat {
            return Ok((End::Heard, heard));
        }
    }
}

/// What `--json` prints of an event.
#[derive(Serialize)]
struct Line<'a> {
    /// Microseconds since the epoch.
    time: i64,
    event: &'a str,
    network: &'a str,
    uuid: Uuid,
    /// What happened to it, or which metadata is another.
    what: &'static str,
    /// The namespace of an element.
    uri: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(name: &'a str, event: &'a NetworkEvent) -> Self {
        let (what, uri) = match &event.kind {
            EventKind::Lifecycle(Lifecycle::Defined) => ("defined", None),
            EventKind::Lifecycle(Lifecycle::Undefined) => ("undefined", None),
            EventKind::Lifecycle(Lifecycle::Started) => ("started", None),
            EventKind::Lifecycle(Lifecycle::Stopped) => ("stopped", None),
            EventKind::Metadata(Metadata::Description) => ("description", None),
            EventKind::Metadata(Metadata::Title) => ("title", None),
            EventKind::Metadata(Metadata::Element(uri)) => ("element", Some(uri.as_str())),
        };
        Self {
            time: Timestamp::now().as_microsecond(),
            event: name,
            network: &event.name,
            uuid: event.uuid,
            what,
            uri,
        }
    }
}

/// The time as virsh writes it, in UTC.
fn time(now: Timestamp) -> String {
    format!("{}: ", now.strftime("%Y-%m-%d %H:%M:%S%.3f+0000"))
}

/// One event in one line.
fn line(name: &str, event: &NetworkEvent) -> String {
    let what = match &event.kind {
        EventKind::Lifecycle(Lifecycle::Defined) => "Defined".to_owned(),
        EventKind::Lifecycle(Lifecycle::Undefined) => "Undefined".to_owned(),
        EventKind::Lifecycle(Lifecycle::Started) => "Started".to_owned(),
        EventKind::Lifecycle(Lifecycle::Stopped) => "Stopped".to_owned(),
        EventKind::Metadata(Metadata::Description) => "type description, uri <null>".to_owned(),
        EventKind::Metadata(Metadata::Title) => "type title, uri <null>".to_owned(),
        EventKind::Metadata(Metadata::Element(uri)) => format!("type element, uri {uri}"),
    };
    format!("event '{name}' for network {}: {what}\n", event.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_virshs() {
        let time_of = |text: &str| time(text.parse().unwrap());
        assert_eq!(
            time_of("2026-11-30T09:57:16.8349Z"),
            "2026-11-30 09:57:16.834+0000: "
        );
        assert_eq!(
            time_of("2026-01-02T03:04:05Z"),
            "2026-01-02 03:04:05.000+0000: "
        );
    }
}
