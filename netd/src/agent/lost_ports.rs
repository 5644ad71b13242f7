//! Guests' ports that are out of their bridge although nobody unplugged a guest.
//!
//! A manager of networks (networkd with a file that matches everything, NetworkManager when a
//! connection goes down) takes all ports out of a bridge; an administrator takes one. So a bridge
//! gets back its ports when all of them went, and one that went alone stays out. What was put back
//! and is taken out again soon stays out, too: somebody means it, and two managers must not fight.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::link::Snapshot;
use crate::plan::Noted;

/// A manager takes ports out one after the other. So long after the last one it is done.
const SETTLE: Duration = Duration::from_secs(1);

/// A port that is out again so soon after it was put back stays out.
const MEANT: Duration = Duration::from_secs(60);

/// What is known of ports that went.
#[derive(Debug, Default)]
pub(super) struct LostPorts {
    /// By bridge: the ports that are out, and since when it is those.
    out: BTreeMap<u32, (BTreeSet<u32>, Instant)>,
    /// Ports that are to be put back.
    going_back: BTreeSet<u32>,
    /// When a port was put back.
    returned: BTreeMap<u32, Instant>,
}

/// What is to be thought of the bridges of active networks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Bridges that lost ports; others may follow.
    pub unsettled: BTreeSet<u32>,
    /// Bridges that lost all their ports.
    pub emptied: BTreeSet<u32>,
    /// When to look again.
    pub look_again: Option<Instant>,
}

impl LostPorts {
    /// Compare what was `noted` of bridges with what there is `now`.
    pub fn judge<'a>(
        &mut self,
        noted: impl Iterator<Item = &'a Noted>,
        links: &Snapshot,
        now: Instant,
    ) -> Verdict {
        self.returned.retain(|_, at| *at + MEANT > now);
        self.going_back.clear();
        let mut verdict = Verdict::default();
        let mut known = BTreeSet::new();
        for noted in noted {
            let Some(bridge) = noted.bridge.filter(|at| links.links.contains_key(at)) else {
                continue;
            };
            let outside = noted.ports_outside(links);
            let lost: BTreeSet<u32> = outside.map(|(port, _)| *port).collect();
            if lost.is_empty() {
                continue;
            }
            known.insert(bridge);
            let (out, since) = self.out.entry(bridge).or_insert((BTreeSet::new(), now));
            if *out != lost {
                *since = now;
                out.clone_from(&lost);
            }
            let settled = *since + SETTLE;
            if now < settled {
                verdict.unsettled.insert(bridge);
                let first = verdict.look_again.get_or_insert(settled);
                *first = settled.min(*first);
                continue;
            }
            let was_port = |port: u32| noted.ports.iter().any(|(index, _)| *index == port);
            let some_stay = links.ports_of(bridge).any(|port| was_port(port.index));
            let is_meant = lost.iter().any(|port| self.returned.contains_key(port));
            let why = match (some_stay, is_meant) {
                (true, _) => "others stayed",
                (_, true) => "they were put back less than a minute ago",
                _ => {
                    tracing::warn!(
                        network = noted.name,
                        "somebody took all ports of the bridge"
                    );
                    verdict.emptied.insert(bridge);
                    self.going_back.extend(&lost);
                    continue;
                }
            };
            let names: Vec<&str> = noted.ports_outside(links).map(|(_, n)| &**n).collect();
            tracing::info!(
                network = noted.name,
                ports = names.join(", "),
                "taken out of the bridge; left out, since {why}"
            );
        }
        self.out.retain(|bridge, _| known.contains(bridge));
        verdict
    }

    /// A port was given to its bridge. One that comes back with a bridge that was made anew was not
    /// taken from it.
    pub fn note_return(&mut self, port: u32, now: Instant) {
        if self.going_back.remove(&port) {
            self.returned.insert(port, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Dump, Link};

    const BRIDGE: u32 = 5;

    fn noted(ports: &[u32]) -> Noted {
        Noted {
            name: "n".to_owned(),
            bridge: Some(BRIDGE),
            ports: ports.iter().map(|port| (*port, name(*port))).collect(),
            ..Noted::default()
        }
    }

    fn name(port: u32) -> String {
        format!("tap{port}")
    }

    /// A bridge, and taps with the devices that they belong to.
    fn links(taps: &[(u32, Option<u32>)]) -> Snapshot {
        let link = |index: u32, controller| Link {
            index,
            name: name(index),
            controller,
            ..Link::default()
        };
        let bridge = (BRIDGE, link(BRIDGE, None));
        let taps = taps.iter().map(|&(tap, of)| (tap, link(tap, of)));
        let dump = Dump {
            links: taps.chain([bridge]).collect(),
            ..Dump::default()
        };
        dump.into()
    }

    /// What is thought at once, and once the bridge has settled.
    fn judge(lost: &mut LostPorts, noted: &Noted, links: &Snapshot, now: Instant) -> [Verdict; 2] {
        let mut at = |now| lost.judge(std::iter::once(noted), links, now);
        [at(now), at(now + SETTLE)]
    }

    fn is_emptied(verdicts: &[Verdict; 2]) -> bool {
        verdicts[1].emptied.contains(&BRIDGE)
    }

    #[test]
    fn ports_come_back_when_all_of_them_went() {
        let now = Instant::now();
        let all = noted(&[7, 8]);
        let mut lost = LostPorts::default();
        let verdicts = judge(&mut lost, &all, &links(&[(7, None), (8, None)]), now);
        assert_eq!(verdicts[0].look_again, Some(now + SETTLE));
        assert!(verdicts[0].unsettled.contains(&BRIDGE) && verdicts[0].emptied.is_empty());
        assert!(is_emptied(&verdicts) && verdicts[1].unsettled.is_empty());
        // One of them is another bridge's by now, or has gone: the other one comes back.
        for taps in [&[(7, None), (8, Some(9))][..], &[(7, None)]] {
            let mut lost = LostPorts::default();
            assert!(is_emptied(&judge(&mut lost, &all, &links(taps), now)));
        }
    }

    #[test]
    fn one_port_of_several_stays_out() {
        let now = Instant::now();
        let taps = links(&[(7, None), (8, Some(BRIDGE))]);
        let mut lost = LostPorts::default();
        let verdicts = judge(&mut lost, &noted(&[7, 8]), &taps, now);
        assert!(verdicts[0].unsettled.contains(&BRIDGE));
        assert_eq!(verdicts[1], Verdict::default());
        // One that came meanwhile does not count.
        let taps = links(&[(7, None), (9, Some(BRIDGE))]);
        assert!(is_emptied(&judge(&mut lost, &noted(&[7]), &taps, now)));
    }

    #[test]
    fn each_port_that_goes_is_waited_for() {
        let now = Instant::now();
        let all = noted(&[7, 8]);
        let mut lost = LostPorts::default();
        let first = links(&[(7, None), (8, Some(BRIDGE))]);
        lost.judge(std::iter::once(&all), &first, now);
        let later = now + SETTLE / 2;
        let verdicts = judge(&mut lost, &all, &links(&[(7, None), (8, None)]), later);
        assert_eq!(verdicts[0].look_again, Some(later + SETTLE));
        assert!(is_emptied(&verdicts));
    }

    #[test]
    fn what_is_taken_out_again_stays_out() {
        let now = Instant::now();
        let one = noted(&[7]);
        let out = links(&[(7, None)]);
        let mut lost = LostPorts::default();
        assert!(is_emptied(&judge(&mut lost, &one, &out, now)));
        lost.note_return(7, now);
        let back = links(&[(7, Some(BRIDGE))]);
        assert_eq!(judge(&mut lost, &one, &back, now)[1], Verdict::default());
        let soon = now + MEANT / 2;
        assert!(!is_emptied(&judge(&mut lost, &one, &out, soon)));
        assert!(is_emptied(&judge(&mut lost, &one, &out, now + MEANT * 2)));
        // With a bridge that was made anew it came back for another reason.
        let mut lost = LostPorts::default();
        lost.note_return(7, now);
        assert!(is_emptied(&judge(&mut lost, &one, &out, now)));
    }
}
