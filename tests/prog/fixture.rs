//! One packet in, everything that must follow from it out.

use std::collections::BTreeMap;

use aya::programs::{Program, TestRun, TestRunOptions};
use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, Flow, FlowKey};
use netd_common::checksum::{difference, sum2, update};

use crate::checker;
use crate::family::Address;
use crate::lab::{Lab, now};
use crate::packet::ETH;

/// What a program says to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let the next one have it.
    Pass,
    Drop,
    /// To another device; which one the kernel does not tell a test run.
    Redirect,
}

impl Verdict {
    /// What a TC program returned.
    fn from_tc(action: u32) -> Self {
        match action as i32 {
            -1 => Self::Pass,
            2 => Self::Drop,
            7 => Self::Redirect,
            other => panic!("a program returned {other}"),
        }
    }

    /// What an XDP program returned.
    fn from_xdp(action: u32) -> Self {
        match action {
            1 => Self::Drop,
            2 => Self::Pass,
            4 => Self::Redirect,
            other => panic!("a program returned {other}"),
        }
    }
}

/// What the flow table must look like afterwards.
enum After<A> {
    /// The same keys as before.
    SameKeys,
    /// These entries. The time they were last seen must be now, and the slot any.
    Exactly(Vec<(FlowKey<A>, Flow<A>)>),
    /// The test looks by itself.
    Anything,
}

/// One packet through one program.
pub struct Fixture {
    name: String,
    program: &'static str,
    device: &'static str,
    came_from: Option<&'static str>,
    gso_size: u32,
    l3: usize,
    packet: Vec<u8>,
    verdict: Verdict,
    packet_after: Vec<u8>,
    drops: Vec<Reason>,
    flows: After<Addr4>,
    flows6: After<Addr6>,
}

/// What a program made of a packet.
pub struct Outcome {
    pub verdict: Verdict,
    pub packet: Vec<u8>,
    pub nanoseconds: u128,
}

impl Fixture {
    /// A packet at a hook of a device; without more words it is passed on untouched.
    pub fn new(
        name: impl Into<String>,
        program: &'static str,
        device: &'static str,
        packet: Vec<u8>,
    ) -> Self {
        Self {
            name: name.into(),
            program,
            device,
            came_from: None,
            gso_size: 0,
            l3: if program.starts_with("tunnel") {
                0
            } else {
                ETH
            },
            packet_after: packet.clone(),
            packet,
            verdict: Verdict::Pass,
            drops: Vec::new(),
            flows: After::SameKeys,
            flows6: After::SameKeys,
        }
    }

    /// At an egress hook: the device the host received it by (none: the host sent it).
    pub fn came_from(mut self, device: &'static str) -> Self {
        self.came_from = Some(device);
        self
    }

    /// The packet stands for several of this many payload bytes.
    pub fn gso(mut self, size: u32) -> Self {
        self.gso_size = size;
        self
    }

    /// Expect it to be sent on like this.
    pub fn redirect(mut self, after: Vec<u8>) -> Self {
        (self.verdict, self.packet_after) = (Verdict::Redirect, after);
        self
    }

    /// Expect it to be passed on like this.
    pub fn pass_as(mut self, after: Vec<u8>) -> Self {
        self.packet_after = after;
        self
    }

    /// Expect a drop that is counted.
    pub fn drop(mut self, reason: Reason) -> Self {
        (self.verdict, self.drops) = (Verdict::Drop, vec![reason]);
        self
    }

    /// Expect that an earlier packet is counted as dropped.
    pub fn counts(mut self, reason: Reason) -> Self {
        self.drops = vec![reason];
        self
    }

    /// Expect a drop that is counted and answered.
    pub fn reject(mut self, reason: Reason, answer: Vec<u8>) -> Self {
        self.drops = vec![reason];
        self.redirect(answer)
    }

    /// Expect exactly these IPv4 flows afterwards.
    pub fn flows(mut self, flows: impl Into<Vec<(FlowKey<Addr4>, Flow<Addr4>)>>) -> Self {
        self.flows = After::Exactly(flows.into());
        self
    }

    /// Expect exactly these IPv6 flows afterwards.
    pub fn flows6(mut self, flows: impl Into<Vec<(FlowKey<Addr6>, Flow<Addr6>)>>) -> Self {
        self.flows6 = After::Exactly(flows.into());
        self
    }

    /// Do not look at the flows.
    pub fn any_flows(mut self) -> Self {
        (self.flows, self.flows6) = (After::Anything, After::Anything);
        self
    }

    /// Run it once and compare everything.
    pub fn run(mut self, lab: &mut Lab) {
        let began = now();
        let before = Tables::of(lab);
        lab.allow_answers();
        let drops_before = lab.drops();
        let outcome = self.once(lab);
        self.follow_identification(lab, &outcome.packet);
        let mut wrong = Vec::new();
        if outcome.verdict != self.verdict {
            wrong.push(format!(
                "verdict: wanted {:?}, got {:?}",
                self.verdict, outcome.verdict
            ));
        }
        // What happens to the bytes of a dropped packet does not matter.
        if self.verdict != Verdict::Drop && outcome.packet != self.packet_after {
            wrong.push("the packet".to_owned());
        }
        let drops: BTreeMap<_, _> = lab
            .drops()
            .into_iter()
            .map(|(name, count)| (name, count - drops_before[name]))
            .filter(|(_, count)| *count != 0)
            .collect();
        let wanted: BTreeMap<_, _> = self.drops.iter().map(|r| (r.name(), 1)).collect();
        if drops != wanted {
            wrong.push(format!("drops: wanted {wanted:?}, got {drops:?}"));
        }
        let after = Tables::of(lab);
        wrong.extend(self.flows.compare(&before.v4, &after.v4, began));
        wrong.extend(self.flows6.compare(&before.v6, &after.v6, began));
        // What a test sets up may be wrong on purpose.
        if before.faults.is_empty() {
            wrong.extend(after.faults.iter().cloned());
        }
        assert!(
            wrong.is_empty(),
            "\n{name}: {program} on {device}\n{wrong}\n\
             in: {input}\nwanted: {want}\ngot: {got}\n\
             flows before:{before}\nflows after:{after}\n",
            name = self.name,
            program = self.program,
            device = self.device,
            wrong = wrong.join("\n"),
            input = checker::describe(&self.packet, self.l3),
            want = checker::describe(&self.packet_after, self.l3),
            got = checker::describe(&outcome.packet, self.l3),
            before = before,
            after = after,
        );
        if std::env::var_os("NETD_TIME").is_some() {
            self.time(lab, &before);
            after.put_back(lab);
        }
    }

    /// Masqueraded IPv4 fragments go on with an identification of netd's choice: any, but one for
    /// all fragments of a packet. Expect the one that was chosen.
    fn follow_identification(&mut self, lab: &Lab, got: &[u8]) {
        let ip = self.l3;
        let (before, after) = (&self.packet, &mut self.packet_after);
        let is_fragment = |packet: &[u8]| {
            packet.len() >= ip + 20
                && packet[ip] >> 4 == 4
                && u16::from_be_bytes([packet[ip + 6], packet[ip + 7]]) & 0x3fff != 0
        };
        let address = ip + 12..ip + 16;
        if !is_fragment(after)
            || !is_fragment(got)
            || before.get(address.clone()) == after.get(address)
        {
            return;
        }
        let whose = [
            &before[ip + 12..ip + 16],
            &before[ip + 4..ip + 6],
            &before[ip + 9..=ip + 9],
        ]
        .concat();
        let chosen = [got[ip + 4], got[ip + 5]];
        if lab.chosen_identification(whose, chosen) == chosen && chosen != [0; 2] {
            let old = sum2([after[ip + 4], after[ip + 5]]);
            let checksum = update(
                [after[ip + 10], after[ip + 11]],
                difference(old, sum2(chosen)),
            );
            after[ip + 4..ip + 6].copy_from_slice(&chosen);
            after[ip + 10..ip + 12].copy_from_slice(&checksum);
        }
    }

    /// Print how long the program takes for this packet, with the flow table put back each time.
    fn time(&self, lab: &mut Lab, tables: &Tables) {
        const RUNS: usize = 201;
        let mut times: Vec<u128> = (0..RUNS)
            .map(|_| {
                tables.put_back(lab);
                self.once(lab).nanoseconds
            })
            .collect();
        times.sort_unstable();
        println!(
            "{:>7} ns (best {}) {}: {}",
            times[RUNS / 2],
            times[0],
            self.program,
            self.name
        );
    }

    fn once(&self, lab: &Lab) -> Outcome {
        run(
            lab,
            self.program,
            lab.ifindex(self.device),
            match self.came_from {
                Some(device) => lab.ifindex(device),
                None if self.program.ends_with("_ingress") => lab.ifindex(self.device),
                None => 0,
            },
            self.gso_size,
            1,
            &self.packet,
        )
    }
}

/// What `program` says of a packet that comes in at a device.
pub fn verdict(lab: &Lab, program: &str, device: &str, packet: &[u8]) -> Verdict {
    let device = lab.ifindex(device);
    run(lab, program, device, device, 0, 1, packet).verdict
}

/// Give `packet` to `program`, `repeat` times (each time as the last run left it).
pub fn run(
    lab: &Lab,
    program: &str,
    ifindex: u32,
    ingress_ifindex: u32,
    gso_size: u32,
    repeat: u32,
    packet: &[u8],
) -> Outcome {
    lab.keep_guests_still();
    let mut out = vec![0; 8192];
    let found = lab
        .ebpf
        .program(program)
        .unwrap_or_else(|| panic!("no program {program}"));
    let mut options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        repeat,
        ..TestRunOptions::default()
    };
    let (result, verdict) = match found {
        Program::Xdp(xdp) => {
            // struct xdp_md, as far as its fields may be set.
            let mut context = [0u8; 24];
            context[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
            context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
            options.ctx_in = Some(&context);
            (
                xdp.test_run(options),
                Verdict::from_xdp as fn(u32) -> Verdict,
            )
        }
        Program::SchedClassifier(classifier) => {
            // struct __sk_buff, as far as its fields may be set.
            let mut context = [0u8; 180];
            context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
            context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
            context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
            options.ctx_in = Some(&context);
            (classifier.test_run(options), Verdict::from_tc as _)
        }
        _ => panic!("{program} sees no packets"),
    };
    let result =
        result.unwrap_or_else(|error| panic!("test run of {} bytes: {error:?}", packet.len()));
    out.truncate(result.data_size_out as usize);
    Outcome {
        verdict: verdict(result.return_value),
        packet: out,
        nanoseconds: result.duration.as_nanos(),
    }
}

/// The flows of both families.
struct Tables {
    v4: Vec<(FlowKey<Addr4>, Flow<Addr4>)>,
    v6: Vec<(FlowKey<Addr6>, Flow<Addr6>)>,
    faults: Vec<String>,
}

impl Tables {
    fn of(lab: &Lab) -> Self {
        Self {
            v4: lab.v4.flows(),
            v6: lab.v6.flows(),
            faults: lab.faults(),
        }
    }

    fn put_back(&self, lab: &mut Lab) {
        lab.set_flows(&self.v4);
        lab.set_flows(&self.v6);
    }
}

impl std::fmt::Display for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (key, flow) in &self.v4 {
            write!(f, "\n  {key:?}\n    {flow:?}")?;
        }
        for (key, flow) in &self.v6 {
            write!(f, "\n  {key:?}\n    {flow:?}")?;
        }
        Ok(())
    }
}

impl<A: Address> After<A> {
    fn compare(
        &self,
        before: &[(FlowKey<A>, Flow<A>)],
        after: &[(FlowKey<A>, Flow<A>)],
        began: u32,
    ) -> Vec<String> {
        match self {
            Self::Anything => Vec::new(),
            Self::SameKeys => {
                let keys = |flows: &[(FlowKey<A>, Flow<A>)]| -> Vec<FlowKey<A>> {
                    flows.iter().map(|(key, _)| *key).collect()
                };
                if keys(before) == keys(after) {
                    Vec::new()
                } else {
                    vec!["the flow table's keys changed".to_owned()]
                }
            }
            Self::Exactly(wanted) => compare_flows(wanted, after, began),
        }
    }
}

/// Everything but the time, which must be now, and the slot, which `Lab::faults` checks. Sequence
/// numbers are compared where the test names them.
fn compare_flows<A: Address>(
    wanted: &[(FlowKey<A>, Flow<A>)],
    got: &[(FlowKey<A>, Flow<A>)],
    began: u32,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut wanted: Vec<_> = wanted.to_vec();
    for (key, flow) in got {
        let Some(at) = wanted.iter().position(|(k, _)| k == key) else {
            wrong.push(format!("a flow nobody expects: {key:?}"));
            continue;
        };
        let (_, mut want) = wanted.swap_remove(at);
        // Since the test of the packet began, or a moment before.
        if !(began.wrapping_sub(2)..=now()).contains(&flow.last_seen) {
            wrong.push(format!("last seen at {}, it is {}", flow.last_seen, now()));
        }
        want.last_seen = flow.last_seen;
        want.validated_at = flow.validated_at;
        want.slot = flow.slot;
        if (want.ack, want.window_end) == (0, 0) {
            (want.ack, want.window_end) = (flow.ack, flow.window_end);
        }
        if want != *flow {
            wrong.push(format!("flow {key:?}\nwanted {want:?}\ngot    {flow:?}"));
        }
    }
    for (key, _) in wanted {
        wrong.push(format!("no flow {key:?}"));
    }
    wrong
}
