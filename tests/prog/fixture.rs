//! One packet in, everything that must follow from it out.

use std::collections::BTreeMap;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use netd_common::Reason;
use netd_common::abi::{Flow4, FlowKey4};

use crate::checker;
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
    fn from_action(action: u32) -> Self {
        match action as i32 {
            -1 => Self::Pass,
            2 => Self::Drop,
            7 => Self::Redirect,
            other => panic!("a program returned {other}"),
        }
    }
}

/// What the flow table must look like afterwards.
enum After {
    /// The same keys as before.
    SameKeys,
    /// These entries. The time they were last seen must be now.
    Exactly(Vec<(FlowKey4, Flow4)>),
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
    flows: After,
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

    /// Expect a drop that is counted and answered.
    pub fn reject(mut self, reason: Reason, answer: Vec<u8>) -> Self {
        self.drops = vec![reason];
        self.redirect(answer)
    }

    /// Expect exactly these flows afterwards.
    pub fn flows(mut self, flows: impl Into<Vec<(FlowKey4, Flow4)>>) -> Self {
        self.flows = After::Exactly(flows.into());
        self
    }

    /// Do not look at the flows.
    pub fn any_flows(mut self) -> Self {
        self.flows = After::Anything;
        self
    }

    /// Run it once and compare everything.
    pub fn run(self, lab: &mut Lab) {
        let flows_before = lab.flows();
        let drops_before = lab.drops();
        let outcome = self.once(lab);
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
        let flows = lab.flows();
        match &self.flows {
            After::Anything => {}
            After::SameKeys => {
                let keys = |flows: &[(FlowKey4, Flow4)]| -> Vec<FlowKey4> {
                    flows.iter().map(|(key, _)| *key).collect()
                };
                if keys(&flows) != keys(&flows_before) {
                    wrong.push("the flow table's keys changed".to_owned());
                }
            }
            After::Exactly(wanted) => wrong.extend(compare_flows(wanted, &flows)),
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
            before = list(&flows_before),
            after = list(&flows),
        );
        if std::env::var_os("NETD_TIME").is_some() {
            self.time(lab, &flows_before);
            lab.set_flows(&flows);
        }
    }

    /// Print how long the program takes for this packet, with the flow table put back each time.
    fn time(&self, lab: &mut Lab, flows: &[(FlowKey4, Flow4)]) {
        const RUNS: usize = 201;
        let mut times: Vec<u128> = (0..RUNS)
            .map(|_| {
                lab.set_flows(flows);
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
    // struct __sk_buff, as far as its fields may be set.
    let mut context = [0u8; 180];
    context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    let mut out = vec![0; 8192];
    let program: &SchedClassifier = lab
        .ebpf
        .program(program)
        .unwrap_or_else(|| panic!("no program {program}"))
        .try_into()
        .expect("a classifier");
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|error| panic!("test run of {} bytes: {error:?}", packet.len()));
    out.truncate(result.data_size_out as usize);
    Outcome {
        verdict: Verdict::from_action(result.return_value),
        packet: out,
        nanoseconds: result.duration.as_nanos(),
    }
}

/// Everything but the time, which must be now.
fn compare_flows(wanted: &[(FlowKey4, Flow4)], got: &[(FlowKey4, Flow4)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut wanted: Vec<_> = wanted.to_vec();
    for (key, flow) in got {
        let Some(at) = wanted.iter().position(|(k, _)| k == key) else {
            wrong.push(format!("a flow nobody expects: {key:?}"));
            continue;
        };
        let (_, mut want) = wanted.swap_remove(at);
        if now().wrapping_sub(flow.last_seen) > 2 {
            wrong.push(format!("last seen at {}, it is {}", flow.last_seen, now()));
        }
        want.last_seen = flow.last_seen;
        if want != *flow {
            wrong.push(format!("flow {key:?}\nwanted {want:?}\ngot    {flow:?}"));
        }
    }
    for (key, _) in wanted {
        wrong.push(format!("no flow {key:?}"));
    }
    wrong
}

fn list(flows: &[(FlowKey4, Flow4)]) -> String {
    flows
        .iter()
        .map(|(key, flow)| format!("\n  {key:?}\n    {flow:?}"))
        .collect()
}
