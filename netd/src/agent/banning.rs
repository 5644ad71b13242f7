//! Bans: kept on disk, and in the maps as long as the networks run that they are of.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ban_set::BanSet;
use super::bans::{now, subnets};
use super::controller::Controller;
use crate::api::{ApiError, Ban, BanChange, ErrorCode, Result};
use crate::datapath::DatapathError;
use crate::model::Prefix;

/// Longer than a program runs: what it asked of a map before this, it has acted on.
const PROGRAM: Duration = Duration::from_millis(10);

impl Controller {
    /// All bans that have not ended.
    pub(super) fn bans(&mut self) -> Result<Vec<Ban>> {
        let set = self.bans.set.as_mut().ok_or_else(unread)?;
        set.expire(now());
        Ok(set.list())
    }

    /// Make a change of bans, in the maps and on disk, or in neither.
    pub(super) async fn change_bans(&mut self, change: &BanChange) -> Result<()> {
        let before = self.bans.set.as_ref().ok_or_else(unread)?;
        let definitions = self.networks.iter().flat_map(|(_, entry)| {
            let live = entry.live.as_ref().map(|live| &live.network);
            live.into_iter().chain(&entry.config)
        });
        let ours: Vec<Prefix> = definitions.flat_map(subnets).collect();
        let mut after = before.clone();
        after.expire(now());
        after.change(change, &ours, now())?;
        self.host.store.save_bans(&after.list())?;
        let before = self.bans.set.replace(after);
        self.bans.applied = None;
        let done = self.apply_bans().await;
        if let Err(error) = done {
            self.bans.set = before;
            let listed = self.bans.set.as_ref().map(BanSet::list).unwrap_or_default();
            self.host.store.save_bans(&listed)?;
            // The next look at the host tries again to have the maps agree.
            return Err(error);
        }
        Ok(())
    }

    /// Have the maps hold the bans of the networks that run, if they do not.
    pub(super) async fn keep_bans(&mut self) {
        let Some(set) = &mut self.bans.set else {
            return;
        };
        if set.expire(now()) {
            // On disk they go with the next change: there they have ended, too.
            self.bans.applied = None;
        }
        if let Err(error) = self.apply_bans().await {
            tracing::error!(%error, "not all bans are in force");
        }
    }

    async fn apply_bans(&mut self) -> Result<()> {
        let Some(set) = &self.bans.set else {
            return Ok(());
        };
        let noted = self.host.noted.values();
        let bridges = noted.filter_map(|noted| Some((noted.name.clone(), noted.bridge?)));
        let bridges: BTreeMap<String, u32> = bridges.collect();
        if self.bans.applied.as_ref() == Some(&bridges) {
            return Ok(());
        }
        let records = set
            .effective()
            .into_iter()
            .filter_map(|(network, prefix, until)| {
                let bridge = match network {
                    Some(network) => *bridges.get(network)?,
                    None => 0,
                };
                Some(((bridge, prefix.address(), prefix.bits()), until))
            });
        let records: Vec<_> = records.collect();
        let failed = |error: DatapathError| ApiError::internal(error);
        let maps = &mut self.host.datapath_mut()?.maps;
        self.bans.applied = None;
        if maps.ban(records).map_err(failed)? {
            maps.raise_epoch().map_err(failed)?;
            // A program that had asked whether somebody is banned may have read the new epoch after
            // that, and noted that its flow was looked at in it.
            tokio::time::sleep(PROGRAM).await;
            self.host
                .datapath_mut()?
                .maps
                .raise_epoch()
                .map_err(failed)?;
        }
        self.bans.applied = Some(bridges);
        Ok(())
    }
}

fn unread() -> ApiError {
    let detail = "the file of bans cannot be read (the log says why); repair or remove it and restart \
                  the agent";
    ApiError::new(ErrorCode::OperationFailed, detail)
}
