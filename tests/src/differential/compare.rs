//! What came of an event on one side against what came of it on the other.

use std::fmt::Write as _;
use std::time::Duration;

use super::arrival::Arrival;
use super::cast::{Actor, Place, UPLINK_MTU};
use super::conversation::{Conversation, Past};
use super::header::Shown;
use super::step::{Body, Cut, End, Options, Step};

/// The end of a note about a port that a flow may have whose packets died on the way.
pub(super) const UNSEEN: &str = ", which a flow may have that nobody saw";

/// The end of a note about a flow that a side has made another one of.
pub(super) const CHANGED: &str = "changed the translation within a flow";

/// The end of a note about a port that the kernel keeps for the host.
pub(super) const HOSTS: &str = ", which a packet of the other end's to the host has taken";

/// Two sides that did not do the same.
#[derive(Debug)]
pub struct Difference<'a> {
    /// Number of the event in the session.
    pub number: u64,
    /// The conversation.
    pub conversation: &'a Conversation,
    /// What was done.
    pub step: &'a Step,
    /// By whom.
    pub sender: &'static Actor,
    /// To whom.
    pub receiver: &'static Actor,
    /// What was sent, on both sides.
    pub sent: &'a [Vec<Vec<u8>>; 2],
    /// What came in on the side of the kernel.
    pub kernel: &'a [Arrival],
    /// What came in on netd's side.
    pub netd: &'a [Arrival],
    /// How long after the first of what netd's side was sent the last one followed, at least: a busy machine may
    /// do something else between two fragments.
    pub apart: Duration,
    /// What is wrong with the translation, where the packets do not tell.
    pub note: Option<String>,
    /// MTU of the way out.
    pub mtu: usize,
    /// Has the way out moved since the opener's last packet?
    pub is_moved: bool,
    /// Does the answerer know the opener by an address that is not the one of the way any more?
    pub is_known_elsewhere: bool,
    /// Has the opener another card than when it was heard last?
    pub is_replaced: bool,
    /// Do the host's own rules let nothing of it pass?
    pub is_forbidden: bool,
    /// Do they drop what was sent, without a word?
    pub is_dropped: bool,
    /// Has something of the opener's died on another way than the one that arrived last?
    pub has_tried_another_way: bool,
    /// The last changes, for people.
    pub changes: &'a [String],
    /// Did the peer send something of this protocol, which has no ports, to the hypervisor itself?
    pub host_was_sent: bool,
    /// Did netd, and not the kernel, pass this protocol to the same peer for another guest?
    pub another_was_given: bool,
    /// Has a guest that used this protocol another way or card since?
    pub holder_has_moved: bool,
}

/// Are they the same? Both are sorted.
#[must_use]
pub fn same(kernel: &[Arrival], netd: &[Arrival]) -> bool {
    kernel.len() == netd.len() && kernel.iter().zip(netd).all(|(a, b)| a.key() == b.key())
}

impl Difference<'_> {
    /// Does it answer somebody behind a translation?
    #[must_use]
    pub fn answers_translated(&self) -> bool {
        self.receiver.place == Place::Nat && self.step.from == End::Answerer
    }

    /// The kind of difference, the same for all that look alike.
    #[must_use]
    pub fn kind(&self) -> String {
        let outcomes = |arrivals: &[Arrival]| {
            let list: Vec<String> = arrivals.iter().map(Arrival::outcome).collect();
            if list.is_empty() {
                "nothing".to_owned()
            } else {
                list.join(" + ")
            }
        };
        let (kernel, netd) = (outcomes(self.kernel), outcomes(self.netd));
        let what = describe(self.step);
        let (from, to) = (self.sender.place, self.receiver.place);
        let mut text = format!("{from:?} to {to:?}, {what}: ");
        if let Some(note) = &self.note {
            let _ = write!(text, "{note}");
        } else if kernel == netd {
            let pairs = self.kernel.iter().zip(self.netd);
            let parts: Vec<String> = pairs
                .map(|(a, b)| a.difference(b))
                .filter(|part| !part.is_empty())
                .collect();
            let _ = write!(text, "{kernel}, but other {}", parts.join("; "));
        } else {
            let _ = write!(text, "kernel {kernel}, netd {netd}");
        }
        text
    }

    /// All there is to know.
    #[must_use]
    pub fn report(&self, seed: u64) -> String {
        let Conversation { number, plan, .. } = self.conversation;
        let mut text = format!(
            "seed {seed}, event {}, conversation {number} ({}), {} to {}\n  {}\n",
            self.number,
            plan.name,
            self.conversation.actor(End::Opener).name,
            self.conversation.actor(End::Answerer).name,
            self.kind()
        );
        for (name, side, arrivals) in [("kernel", 0, self.kernel), ("netd", 1, self.netd)] {
            for packet in &self.sent[side] {
                let _ = writeln!(
                    text,
                    "  {name:>6} sent {}: {}",
                    self.sender.name,
                    Shown(packet)
                );
            }
            if arrivals.is_empty() {
                let _ = writeln!(text, "  {name:>6} got  nothing");
            }
            for arrival in arrivals {
                let _ = writeln!(text, "  {name:>6} got  {}", arrival.shown());
            }
        }
        if !self.changes.is_empty() {
            let _ = writeln!(text, "  changes before it: {}", self.changes.join("; "));
        }
        let _ = writeln!(text, "  before it, as sent (kernel | netd):");
        for Past { number, sent } in &self.conversation.past {
            for (kernel, netd) in sent[0].iter().zip(&sent[1]) {
                let (kernel, netd) = (Shown(kernel).to_string(), Shown(netd).to_string());
                if kernel == netd {
                    let _ = writeln!(text, "    {number}: {kernel}");
                } else {
                    let _ = writeln!(text, "    {number}: {kernel}\n    | {netd}");
                }
            }
        }
        text
    }
}

/// A step in a few words.
fn describe(step: &Step) -> String {
    let mut words = vec![match &step.body {
        Body::Tcp { flags, .. } => {
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
            let set: Vec<&str> = (0..6)
                .filter(|bit| flags & (1 << bit) != 0)
                .map(|bit| names[bit])
                .collect();
            format!("TCP [{}]", set.join(" "))
        }
        Body::Udp { checksum: true, .. } => "UDP".into(),
        Body::Udp { .. } => "UDP without checksum".into(),
        Body::Echo { query, reply, .. } => {
            format!("{query:?} {}", if *reply { "reply" } else { "request" })
        }
        Body::Error {
            kind,
            quote,
            router,
        } => {
            format!(
                "{kind:?} quoting {quote:?}{}",
                if *router { " by router" } else { "" }
            )
        }
        Body::Sctp { chunk, .. } => format!("SCTP chunk {chunk}"),
        Body::Other { protocol, .. } => format!("protocol {protocol}"),
    }];
    if let Some(oddity) = step.oddity {
        words.push(format!("{oddity:?}"));
    }
    let twist = &step.twist;
    if twist.ttl != 64 {
        words.push(format!("ttl {}", twist.ttl));
    }
    if twist.options != Options::None {
        words.push(format!("{:?}", twist.options));
    }
    if twist.bad_header {
        words.push("bad header checksum".into());
    }
    match twist.cut {
        Cut::InOrder(_) => words.push("fragments in order".into()),
        Cut::Reversed(_) => words.push("fragments last first".into()),
        Cut::Whole if step.body.length() <= UPLINK_MTU - 60 => {}
        Cut::Whole => words.push(if twist.dont_fragment { "big DF" } else { "big" }.into()),
    }
    words.join(", ")
}
