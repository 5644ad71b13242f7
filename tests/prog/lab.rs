//! One network namespace with real devices, routes and neighbours, and the programs loaded once.
//!
//! ```text
//!   vm-nat1, vm-nat2 -- nat1, nat2 -- br-nat       192.168.122.1/24  nat        up0 198.51.100.2/24
//!            vm-dev1 -- dev1 -------- br-dev       192.168.123.1/24  nat, up0   up1 203.0.113.2/24
//!          vm-route1 -- route1 ------ br-route     10.10.0.1/24      route
//!       vm-isolated1 -- isolated1 --- br-isolated  10.20.0.1/24      isolated
//!           vm-open1 -- open1 ------- br-open      10.30.0.1/24      open
//!         vm-rdev1 -- rdev1 -- br-rdev             10.40.0.1/24      route, up0
//! ```
//!
//! Every device has an IPv6 address as well (see `names`).
//!
//! The namespace has no name: it goes with the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

use aya::maps::{Array, DevMapHash, HashMap, LpmTrie, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use netd::datapath::Kernel;
use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, BridgePort, Control, DEVICE_ETHERNET, Device, DropCount, DropEvent, FLOW_REPLY,
    FamilyConfig, Flow, Flow4, FlowKey, FlowKey4, GuestMoves, MacAddr, Network, PortMac,
    PrefixPair, SWEEP_RUN, Sweeper, Usage,
};
use netd_common::clock::tick;
use netd_common::timeout::DEFAULT_TIMEOUTS;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::family::{Address, Maps};
use crate::names::*;

mod records;

pub use records::Published;

/// The machine under test. Tests take turns.
pub struct Lab {
    pub ebpf: Ebpf,
    namespace: File,
    ifindexes: BTreeMap<String, u32>,
    control: Array<MapData, Control>,
    moved: Mutex<Array<MapData, GuestMoves>>,
    /// Do guests that move let no flow look again?
    still: AtomicBool,
    identifications: Mutex<BTreeMap<Vec<u8>, [u8; 2]>>,
    networks: HashMap<MapData, u32, Network>,
    ports: HashMap<MapData, u32, BridgePort>,
    port_macs: HashMap<MapData, u32, PortMac>,
    devices: HashMap<MapData, u32, Device>,
    usage: HashMap<MapData, u32, Usage>,
    reserved: Array<MapData, u64>,
    published: Array<MapData, u64>,
    drops: PerCpuArray<MapData, DropCount>,
    answers: PerCpuArray<MapData, [u64; 2]>,
    told: PerCpuArray<MapData, [u64; 2]>,
    events: netd::datapath::events::Events,
    held: RingBuf<MapData>,
    sweeper: Array<MapData, Sweeper>,
    xdp_targets: DevMapHash<MapData>,
    prefixes: LpmTrie<MapData, Addr6, PrefixPair<Addr6>>,
    slots: u32,
    pub v4: Maps<Addr4>,
    pub v6: Maps<Addr6>,
}

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// The lab, for as long as the guard lives, with this thread in its namespace.
pub struct Turn(MutexGuard<'static, Option<Lab>>);

impl std::ops::Deref for Turn {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("filled by `lab`")
    }
}

impl std::ops::DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Lab {
        self.0.as_mut().expect("filled by `lab`")
    }
}

/// Wait for a turn: the default records in the maps, no flows, no endpoints.
pub fn lab() -> Turn {
    // A test that failed leaves nothing that `reset` does not put right.
    let mut guard = LAB.lock().unwrap_or_else(|poison| poison.into_inner());
    let lab = guard.get_or_insert_with(Lab::build);
    lab.enter();
    lab.reset();
    Turn(guard)
}

/// Flows of each family that the lab has room for. The sweep's timer is not started.
pub const FLOWS: u32 = 8192;

/// Load the object as the agent does, without pins.
pub fn load(flows: u32) -> Ebpf {
    let level: u8 = 0;
    let mut loader = EbpfLoader::new();
    let kernel = Kernel::probe(None, &mut loader).expect("the kernel has what netd needs");
    kernel.tell(&mut loader);
    let mut ebpf = loader
        .override_global("AYA_LOG_LEVEL", &level, false)
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("flows4", 2 * flows)
        .map_max_entries("flows6", 2 * flows)
        .map_max_entries("slots4", flows)
        .map_max_entries("slots6", flows)
        .load(netd::datapath::OBJECT)
        .expect("the kernel takes the maps");
    for (name, program) in ebpf.programs_mut() {
        if let Err(error) = netd::datapath::programs::load(name, program) {
            panic!("{error}");
        }
    }
    netd::datapath::slow_paths::connect(&mut ebpf).expect("the slow paths' array takes them");
    ebpf
}

/// Run a program that is attached to nothing.
pub fn call(ebpf: &Ebpf, name: &str) -> u32 {
    call_on(ebpf, name, &[0; 64])
}

/// The same on a frame.
pub fn call_on(ebpf: &Ebpf, name: &str, frame: &[u8]) -> u32 {
    let program: &SchedClassifier = ebpf
        .program(name)
        .unwrap_or_else(|| panic!("no program {name}"))
        .try_into()
        .expect("a classifier");
    program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|error| panic!("{name}: {error:?}"))
        .return_value
}

impl Lab {
    fn build() -> Self {
        // SAFETY: only the network namespace of this thread changes; no descriptor is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace needs root");
        let namespace = File::open("/proc/thread-self/ns/net").expect("own namespace");
        for (file, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/{file}"), value).expect(file);
        }
        ip(&topology());

        let mut ebpf = load(FLOWS);
        // A test run can name only devices whose drivers have XDP at work.
        for (program, device) in [("port_xdp", "nat1"), ("uplink_xdp", "up0")] {
            let program: &mut Xdp = ebpf
                .program_mut(program)
                .unwrap_or_else(|| panic!("no program {program}"))
                .try_into()
                .expect("an XDP program");
            program
                .attach(device, XdpMode::Driver)
                .unwrap_or_else(|error| panic!("XDP on {device}: {error:?}"));
        }
        let mut lab = Self {
            namespace,
            ifindexes: BTreeMap::new(),
            control: take(&mut ebpf, "control"),
            moved: Mutex::new(take(&mut ebpf, "guest_moves")),
            still: AtomicBool::new(true),
            identifications: Mutex::default(),
            networks: take(&mut ebpf, "networks"),
            ports: take(&mut ebpf, "ports"),
            port_macs: take(&mut ebpf, "port_macs"),
            devices: take(&mut ebpf, "devices"),
            usage: take(&mut ebpf, "usage"),
            reserved: take(&mut ebpf, "reserved"),
            published: take(&mut ebpf, "dnat_ports"),
            drops: take(&mut ebpf, "drops"),
            answers: take(&mut ebpf, "reply_limit"),
            told: take(&mut ebpf, "event_limit"),
            events: netd::datapath::events::Events::take(&mut ebpf).expect("events"),
            held: take(&mut ebpf, "held"),
            sweeper: take(&mut ebpf, "sweeper"),
            xdp_targets: take(&mut ebpf, "xdp_targets"),
            prefixes: take(&mut ebpf, "prefixes6"),
            slots: FLOWS,
            v4: Maps::take(&mut ebpf, 4),
            v6: Maps::take(&mut ebpf, 6),
            ebpf,
        };
        for entry in std::fs::read_dir("/proc/sys/net/ipv4/conf").expect("devices") {
            let name = entry.expect("a device").file_name();
            let name = name.to_string_lossy().into_owned();
            if let Ok(index) = rustix::net::netdevice::name_to_index(socket(), &name) {
                lab.ifindexes.insert(name, index);
            }
        }
        lab
    }

    /// Move this thread into the lab's namespace.
    pub fn enter(&self) {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("entering the test namespace");
    }

    /// ifindex of a device.
    pub fn ifindex(&self, device: &str) -> u32 {
        *self
            .ifindexes
            .get(device)
            .unwrap_or_else(|| panic!("no device {device}: {:?}", self.ifindexes))
    }

    fn reset(&mut self) {
        *self.still.get_mut() = true;
        while self.held.next().is_some() {}
        self.identifications
            .lock()
            .expect("no test panics with it")
            .clear();
        self.clear_records();
        self.clear_prefixes();
        self.v4.clear();
        self.v6.clear();
        clear(&mut self.usage);
        for word in 0..1024 {
            self.reserved.set(word, 0, 0).expect("reserved");
            self.published.set(word, 0, 0).expect("dnat_ports");
        }
        let control = Control {
            epoch: 1,
            slots: self.slots,
            timeouts: DEFAULT_TIMEOUTS,
            ..Control::default()
        };
        self.control.set(0, control, 0).expect("control");
        for (device, gateway, len, mode, uplink, mac) in NETWORKS {
            set_forwarding(device, true);
            let bridge = self.ifindex(device);
            let (_, gateway6) = GATEWAYS6
                .iter()
                .find(|(name, _)| name == device)
                .expect("every network has both");
            let network = Network {
                v4: FamilyConfig {
                    gateway: *gateway,
                    mode: *mode as u8,
                    ..FamilyConfig::default()
                },
                v6: FamilyConfig {
                    gateway: *gateway6,
                    mode: *mode as u8,
                    ..FamilyConfig::default()
                },
                uplink_ifindex: if uplink.is_empty() {
                    0
                } else {
                    self.ifindex(uplink)
                },
                mac: *mac,
                mtu: 1500,
                ..Network::default()
            };
            self.networks.insert(bridge, network, 0).expect("networks");
            self.usage
                .insert(bridge, Usage::default(), 0)
                .expect("usage");
            self.add_subnet(*gateway, *len, bridge);
            self.add_subnet(*gateway6, 64, bridge);
            let device = Device {
                address: *gateway,
                address6: *gateway6,
                flags: DEVICE_ETHERNET,
                ..Device::default()
            };
            self.devices.insert(bridge, device, 0).expect("devices");
            self.v4.set_own(*gateway, Some(bridge));
            self.v6.set_own(*gateway6, Some(bridge));
        }
        for (port, bridge) in PORTS {
            let bridge = self.ifindex(bridge);
            let port = self.ifindex(port);
            self.ports
                .insert(
                    port,
                    BridgePort {
                        bridge_ifindex: bridge,
                        ..BridgePort::default()
                    },
                    0,
                )
                .expect("ports");
        }
        self.set_device("up0", UP0, UP0_6, DEVICE_ETHERNET);
        self.set_device("up1", UP1, UP1_6, DEVICE_ETHERNET);
        self.set_device("plain0", PLAIN0, [0; 16], 0);
        for (address, device) in [(UP0, "up0"), (UP1, "up1"), (PLAIN0, "plain0")] {
            self.set_own(address, Some(device));
        }
        for (address, device) in [(UP0_6, "up0"), (UP1_6, "up1")] {
            self.set_own(address, Some(device));
        }
    }

    /// Empty the maps that the agent writes: what a flow still does without them it does by its
    /// own entry alone.
    pub fn clear_records(&mut self) {
        clear(&mut self.networks);
        clear(&mut self.ports);
        clear(&mut self.port_macs);
        clear(&mut self.devices);
        self.v4.clear_records();
        self.v6.clear_records();
    }

    pub fn flow<A: Address>(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        A::maps(self).flow(key)
    }

    /// All IPv4 flows.
    pub fn flows(&self) -> Vec<(FlowKey4, Flow4)> {
        self.v4.flows()
    }

    /// Add an entry; the opener's gets a slot and counts.
    pub fn set_flow<A: Address>(&mut self, (key, mut flow): (FlowKey<A>, Flow<A>)) {
        let opener = flow.flags & FLOW_REPLY == 0;
        if opener && A::maps(self).flow(&key).is_none() {
            flow.slot = A::maps_mut(self).take_slot(key);
            if flow.counted_for != 0
                && let Ok(mut usage) = self.usage.get(&flow.counted_for, 0)
            {
                usage.flows[A::INDEX] += 1;
                self.usage
                    .insert(flow.counted_for, usage, 0)
                    .expect("usage");
            }
        }
        A::maps_mut(self).set_flow(key, flow);
    }

    /// Make the flow table hold exactly these.
    pub fn set_flows<A: Address>(&mut self, flows: &[(FlowKey<A>, Flow<A>)]) {
        A::maps_mut(self).clear_flows();
        let bridges: Vec<u32> = self.usage.keys().map(|key| key.expect("usage")).collect();
        for bridge in bridges {
            let mut usage = self.usage.get(&bridge, 0).expect("usage");
            usage.flows[A::INDEX] = 0;
            self.usage.insert(bridge, usage, 0).expect("usage");
        }
        for entry in flows {
            self.set_flow(*entry);
        }
    }

    /// No flows, of either family.
    pub fn clear_flows(&mut self) {
        self.set_flows::<Addr4>(&[]);
        self.set_flows::<Addr6>(&[]);
    }

    /// How many flows a bridge's network has opened, as the programs count.
    pub fn usage(&self, bridge: &str) -> Usage {
        self.usage.get(&self.ifindex(bridge), 0).expect("usage")
    }

    /// What is wrong with the tables: entries without the other half, without slot, counted
    /// wrongly; slots of nobody.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.v4.faults();
        faults.extend(self.v6.faults());
        for entry in self.usage.iter() {
            let (bridge, usage) = entry.expect("usage");
            let counted = [self.v4.counted(bridge), self.v6.counted(bridge)];
            if usage.flows != counted {
                faults.push(format!(
                    "bridge {bridge} has {counted:?} flows, {:?} by its usage",
                    usage.flows
                ));
            }
        }
        faults
    }

    /// Visit every slot once; returns how many flows were removed.
    pub fn sweep_all(&self) -> u32 {
        (0..self.slots.div_ceil(SWEEP_RUN))
            .map(|_| call(&self.ebpf, "sweep"))
            .sum()
    }

    /// Where the search for slots and the sweep go on. Only while no timer is set: this overwrites
    /// it.
    pub fn set_hands(&mut self, at: u32) {
        let sweeper = Sweeper {
            open: [at; 2],
            sweep: [at; 2],
            ..Sweeper::default()
        };
        self.sweeper.set(0, sweeper, 0).expect("sweeper");
    }

    /// What the programs told of drops since this was last asked.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let since = self.events.since(0).last().map_or(0, |last| last.number);
        self.events.drain();
        self.events
            .since(since)
            .map(|numbered| numbered.event)
            .collect()
    }

    /// Dropped packets by reason.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        let count = |reason: &Reason| {
            let per_cpu = self.drops.get(&(*reason as u32), 0).expect("drops");
            per_cpu.iter().map(|c| c.packets).sum()
        };
        Reason::ALL.iter().map(|r| (r.name(), count(r))).collect()
    }

    /// Wait until the clock's tick will not change for a while: what is checked once a tick is
    /// then not checked during the next packets.
    pub fn start_of_tick(&self) {
        const TICK: u64 = 1 << 30;
        let into = monotonic_ns() % TICK;
        if into > TICK / 2 {
            std::thread::sleep(std::time::Duration::from_nanos(TICK - into + 20_000_000));
        }
    }
}

/// Run `ip` commands, one a line.
pub fn ip(batch: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(batch.as_bytes()).expect("ip reads");
    drop(stdin);
    assert!(child.wait().expect("ip ends").success(), "{batch}");
}

/// Does the host forward what comes in by a device?
pub fn set_forwarding(device: &str, on: bool) {
    for version in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{version}/conf/{device}/forwarding");
        std::fs::write(path, if on { "1" } else { "0" }).expect("a sysctl of the test's namespace");
    }
}

fn topology() -> String {
    let mut batch = "link set lo up\n".to_owned();
    let colons = |mac: &MacAddr| {
        let hex: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        hex.join(":")
    };
    let dots = |address: &Addr4| std::net::Ipv4Addr::from(*address);
    let six = |address: &Addr6| std::net::Ipv6Addr::from(*address);
    for (bridge, gateway, len, _, _, mac) in NETWORKS {
        batch += &format!(
            "link add {bridge} address {} type bridge\n\
             link set {bridge} up\n\
             addr add {}/{len} dev {bridge}\n",
            colons(mac),
            dots(gateway)
        );
    }
    for (bridge, gateway) in GATEWAYS6 {
        batch += &format!("addr add {}/64 dev {bridge} nodad\n", six(gateway));
    }
    for (port, bridge) in PORTS {
        batch += &format!(
            "link add {port} type veth peer name vm-{port}\n\
             link set {port} master {bridge} up\n\
             link set vm-{port} up\n"
        );
    }
    for (device, address, mac) in [
        ("up0", UP0, UP0_MAC),
        ("up1", UP1, UP1_MAC),
        ("plain0", PLAIN0, PLAIN0_MAC),
    ] {
        batch += &format!(
            "link add {device} address {} type veth peer name peer-{device}\n\
             link set {device} up\n\
             link set peer-{device} up\n\
             addr add {}/24 dev {device}\n",
            colons(&mac),
            dots(&address)
        );
    }
    for (address, mac, device) in [
        (ROUTER, ROUTER_MAC, "up0"),
        (PEER1, PEER1_MAC, "up1"),
        (GUEST, GUEST_MAC, "br-nat"),
        (OPEN_GUEST, OPEN_GUEST_MAC, "br-open"),
    ] {
        batch += &format!(
            "neigh replace {} lladdr {} dev {device} nud permanent\n",
            dots(&address),
            colons(&mac)
        );
    }
    for (device, address) in [("up0", UP0_6), ("up1", UP1_6)] {
        batch += &format!("addr add {}/64 dev {device} nodad\n", six(&address));
    }
    for (address, mac, device) in [
        (ROUTER6, ROUTER_MAC, "up0"),
        (PEER1_6, PEER1_MAC, "up1"),
        (GUEST6, GUEST_MAC, "br-nat"),
        (OPEN_GUEST6, OPEN_GUEST_MAC, "br-open"),
    ] {
        batch += &format!(
            "neigh replace {} lladdr {} dev {device} nud permanent\n",
            six(&address),
            colons(&mac)
        );
    }
    batch += &format!(
        "route add default via {}\n\
         route add {} via {} mtu lock 1300\n\
         route add unreachable {}\n",
        six(&ROUTER6),
        six(&NARROW6),
        six(&ROUTER6),
        six(&NOWHERE6),
    );
    batch += &format!(
        "route add default via {}\n\
         route add {} via {} mtu lock 600\n\
         route add unreachable {}\n",
        dots(&ROUTER),
        dots(&NARROW),
        dots(&ROUTER),
        dots(&NOWHERE),
    );
    batch
}

fn socket() -> rustix::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket")
}

/// The datapath's clock.
pub fn now() -> u32 {
    tick(monotonic_ns())
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> T {
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| panic!("no map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
}

pub fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("a readable map")).collect();
    for key in keys {
        map.remove(&key).expect("a key that is there");
    }
}
