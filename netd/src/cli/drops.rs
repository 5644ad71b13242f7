//! `netd drops`: dropped packets and the reasons.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{DropRecord, Drops};
use crate::cli::args::DropsArgs;
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::cli::stamp::stamp;
use crate::cli::table::Table;
use crate::rpc::Client;

/// How often `--follow` asks.
const PAUSE: Duration = Duration::from_millis(250);

/// How many records the agent keeps.
const RECORDS: usize = crate::datapath::events::KEPT;

pub(super) async fn drops(
    client: &mut Client,
    output: &mut Output,
    args: &DropsArgs,
) -> Result<(), Failure> {
    let network = match &args.network {
        Some(network) => Some(find(client, network).await?.name),
        None => None,
    };
    let wanted =
        |record: &DropRecord| network.is_none() || record.network.as_deref() == network.as_deref();
    let failed = |error| Failure::new("Failed to ask for drops", &error);
    let mut all = client.drops(0).await.map_err(failed)?;
    if args.follow {
        // What is new from now on.
        let mut since = all.records.last().map_or(0, |record| record.number);
        loop {
            tokio::time::sleep(PAUSE).await;
            let new = client.drops(since).await.map_err(failed)?;
            for record in new.records.iter().filter(|record| wanted(record)) {
                if args.json {
                    output.json(record)?;
                    output.data("\n");
                } else {
                    output.data(line(record));
                }
            }
            since = new.records.last().map_or(since, |record| record.number);
            if !output.flush_to_reader()? {
                return Ok(());
            }
        }
    }
    all.records.retain(wanted);
    if args.json {
        output.json(&all)?;
        output.data("\n");
        return Ok(());
    }
    print(&all, network.as_deref(), output);
    Ok(())
}

/// One drop in one line.
fn line(record: &DropRecord) -> String {
    let others = match record.suppressed {
        0 => String::new(),
        more => format!(" ({more} more were not shown)"),
    };
    format!(
        "{} {} {} {} {} -> {}: {}: {}{others}\n",
        time(record),
        record.network.as_deref().unwrap_or("-"),
        record.device,
        record.protocol,
        or_dash(&record.source),
        or_dash(&record.destination),
        record.reason,
        record.explanation
    )
}

/// Counters are the whole host's: of one network there are packets only.
fn print(drops: &Drops, network: Option<&str>, output: &mut Output) {
    match network {
        None if drops.counters.is_empty() => output.extra("No packet was dropped.\n"),
        None => counters(drops, output),
        Some(network) if drops.records.is_empty() => output.extra(format!(
            "No drop of network {network} among the latest {RECORDS}. Counters are kept for the \
             whole host: netd drops\n"
        )),
        Some(_) => {}
    }
    if !drops.records.is_empty() {
        if network.is_none() {
            output.extra("\n");
        }
        records(drops, output);
    }
    reasons(drops, network, output);
    for isolated in &drops.isolated_networks {
        if network.is_none_or(|network| network == isolated) {
            output.extra(format!(
                "\nNetwork {isolated} isolates its guests: what they send each other is dropped by \
                 the kernel's bridge and is not counted here.\n"
            ));
        }
    }
}

fn counters(drops: &Drops, output: &mut Output) {
    let mut table = Table::new(&["Reason", "Packets", "Bytes"]);
    for counter in &drops.counters {
        table.row(&[
            counter.reason.clone(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
    }
    table.print(output);
}

fn records(drops: &Drops, output: &mut Output) {
    let mut table = Table::new(&[
        "Time", "Network", "Device", "Reason", "Packet", "From", "To",
    ]);
    for record in &drops.records {
        table.row(&[
            time(record),
            record.network.clone().unwrap_or_else(|| "-".to_owned()),
            record.device.clone(),
            record.reason.clone(),
            record.protocol.clone(),
            or_dash(&record.source),
            or_dash(&record.destination),
        ]);
    }
    table.print(output);
    let suppressed: u64 = drops.records.iter().map(|r| u64::from(r.suppressed)).sum();
    if suppressed > 0 {
        output.extra(format!(
            "\n{suppressed} more were counted and not listed.\n"
        ));
    }
}

/// What the reasons that were shown mean.
fn reasons(drops: &Drops, network: Option<&str>, output: &mut Output) {
    let counted = drops.counters.iter();
    let counted = counted.map(|c| (c.reason.as_str(), c.explanation.as_str()));
    let listed = drops.records.iter();
    let listed = listed.map(|r| (r.reason.as_str(), r.explanation.as_str()));
    let reasons: BTreeMap<&str, &str> = counted
        .filter(|_| network.is_none())
        .chain(listed)
        .collect();
    if !reasons.is_empty() {
        output.extra("\n");
    }
    for (reason, explanation) in reasons {
        output.extra(format!("{reason}: {explanation}\n"));
    }
}

fn time(record: &DropRecord) -> String {
    Timestamp::from_microsecond(record.time).map_or_else(|_| "?".to_owned(), stamp)
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DropStatus;

    fn record() -> DropRecord {
        DropRecord {
            number: 7,
            time: 0,
            network: Some("default".to_owned()),
            device: "vnet0".to_owned(),
            reason: "isolated".to_owned(),
            explanation: "it is".to_owned(),
            protocol: "tcp".to_owned(),
            source: "10.0.0.5:4000".to_owned(),
            destination: "192.0.2.1:80".to_owned(),
            length: 60,
            suppressed: 3,
        }
    }

    #[test]
    fn a_drop_is_told_in_a_line_and_in_a_table() {
        let text = line(&record());
        let told = " default vnet0 tcp 10.0.0.5:4000 -> 192.0.2.1:80: isolated: it is (3 more were \
                    not shown)\n";
        assert!(text.ends_with(told), "{text}");
        let mut drops = Drops {
            schema: 1,
            isolated_networks: vec!["lab".to_owned()],
            counters: vec![DropStatus {
                reason: "isolated".to_owned(),
                explanation: "it is".to_owned(),
                packets: 4,
                bytes: 240,
            }],
            records: vec![record()],
        };
        let mut output = Output::new(false);
        print(&drops, None, &mut output);
        for words in [
            "isolated   4         240",
            "10.0.0.5:4000   192.0.2.1:80",
            "3 more were counted",
            "isolated: it is",
            "Network lab isolates its guests",
        ] {
            assert!(output.text().contains(words), "{words}: {}", output.text());
        }
        // Of one network the records alone: counters are the host's.
        drops.records.clear();
        let mut output = Output::new(false);
        print(&drops, Some("default"), &mut output);
        assert!(
            output.text().starts_with("No drop of network default"),
            "{}",
            output.text()
        );
        assert!(!output.text().contains("lab"), "{}", output.text());
    }
}
