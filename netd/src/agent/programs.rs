//! The programs that an earlier agent left.

use super::host::KernelHost;
use crate::datapath::{Attachment, Device, Hook, bpffs, maps};

impl KernelHost {
    /// An earlier agent's programs of this build need not be replaced.
    pub(super) async fn adopt_programs(&mut self) {
        let Some(datapath) = &self.loaded else {
            return;
        };
        if !datapath.is_current() {
            return;
        }
        let (pinned, snapshot) = match (datapath.attached(), self.links.snapshot().await) {
            (Ok(pinned), Ok(snapshot)) => (pinned, snapshot),
            // The reconciliation meets the same error, and tells of it.
            _ => return,
        };
        for attachment in pinned {
            let link = snapshot.links.get(&attachment.ifindex);
            let in_place = link.is_some_and(|link| {
                let device = Device {
                    ifindex: link.index,
                    name: &link.name,
                    xdp: link.xdp,
                };
                let looked = datapath.is_in_place(attachment.hook, device);
                looked.unwrap_or_else(|error| {
                    tracing::debug!(%attachment, %error, "attaching anew");
                    false
                })
            });
            if in_place {
                self.attached.insert(attachment);
            }
        }
        // Where nobody can tell, the reconciliation attaches them anew.
        self.at_sockets = datapath.has_sockets().unwrap_or(false);
    }

    /// Another version's programs stand behind this one's, with maps that nobody keeps any more. They
    /// go once every bridge that they guard is guarded by these, or gone.
    pub(super) async fn clear_other_layouts(&self) {
        let Some(datapath) = &self.loaded else {
            return;
        };
        let (current, snapshot) = (datapath.dir(), self.links.snapshot().await);
        let layouts = bpffs::other_layouts(&self.paths.bpffs, current);
        let (layouts, snapshot) = match (layouts, snapshot) {
            (Ok(layouts), Ok(snapshot)) => (layouts, snapshot),
            (Err(error), _) => return tracing::error!(%error, "cannot look for other versions"),
            (_, Err(error)) => return tracing::error!(%error, "cannot look for other versions"),
        };
        let is_guarded = |index: u32| {
            let hook = Hook::BridgeIngress;
            self.attached.contains(&Attachment {
                ifindex: index,
                hook,
            })
        };
        for layout in layouts {
            let needed = match maps::pinned_networks(&layout) {
                Ok(networks) => networks
                    .keys()
                    .any(|index| snapshot.links.contains_key(index) && !is_guarded(*index)),
                Err(error) => {
                    tracing::error!(%error, "cannot tell what another version's programs guard");
                    true
                }
            };
            let path = layout.display();
            if needed {
                tracing::error!(
                    %path,
                    "programs of another version stay in place, since this agent knows nothing of \
                     a network that they guard; `netd teardown` removes them"
                );
                continue;
            }
            tracing::info!(%path, "removing programs and maps of another version");
            for error in bpffs::remove_layout(&layout) {
                tracing::error!(%error, "programs of another version are left");
            }
        }
    }

    /// Note that the next agent of this build need not replace the programs, if none is left of
    /// another's.
    pub(super) fn mark_programs(&self) {
        let Some(datapath) = &self.loaded else {
            return;
        };
        let all = datapath.attached();
        let marked = match all {
            Ok(pinned) if pinned.is_subset(&self.attached) => datapath.mark_current(),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = marked {
            tracing::warn!(%error, "the next agent will take longer to start");
        }
    }
}
