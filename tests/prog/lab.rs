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
//! The namespace has no name: it goes with the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use netd_common::Reason;
use netd_common::abi::{
    Addr4, BridgePort, Control, DEVICE_ETHERNET, Device, DropCount, Endpoint, Flow4, FlowKey4,
    MacAddr, Mode, Network, Subnet, tick,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::names::*;

/// The machine under test. Tests take turns.
pub struct Lab {
    pub ebpf: Ebpf,
    namespace: File,
    ifindexes: BTreeMap<String, u32>,
    control: Array<MapData, Control>,
    networks: HashMap<MapData, u32, Network>,
    subnets: LpmTrie<MapData, Addr4, Subnet>,
    ports: HashMap<MapData, u32, BridgePort>,
    endpoints: HashMap<MapData, Addr4, Endpoint>,
    devices: HashMap<MapData, u32, Device>,
    flows: HashMap<MapData, FlowKey4, Flow4>,
    addresses: HashMap<MapData, Addr4, u32>,
    drops: PerCpuArray<MapData, DropCount>,
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
    move_into_link_name_space(lab.namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("entering the test namespace");
    lab.reset();
    Turn(guard)
}

/// Load the object as the agent does, without pins.
pub fn load() -> Ebpf {
    let level: u8 = 0;
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &level, false)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(netd::datapath::OBJECT)
        .expect("the kernel takes the maps");
    for (name, program) in ebpf.programs_mut() {
        let program: &mut SchedClassifier = program.try_into().expect("a classifier");
        if let Err(error) = program.load() {
            panic!("{name}: {error:?}");
        }
    }
    ebpf
}

impl Lab {
    fn build() -> Self {
        // SAFETY: only the network namespace of this thread changes; no descriptor is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace needs root");
        let namespace = File::open("/proc/thread-self/ns/net").expect("own namespace");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
        ip(&topology());

        let mut ebpf = load();
        let mut lab = Self {
            namespace,
            ifindexes: BTreeMap::new(),
            control: take(&mut ebpf, "control"),
            networks: take(&mut ebpf, "networks"),
            subnets: take(&mut ebpf, "subnets"),
            ports: take(&mut ebpf, "ports"),
            endpoints: take(&mut ebpf, "endpoints"),
            devices: take(&mut ebpf, "devices"),
            flows: take(&mut ebpf, "flows4"),
            addresses: take(&mut ebpf, "addresses"),
            drops: take(&mut ebpf, "drops"),
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

    /// ifindex of a device.
    pub fn ifindex(&self, device: &str) -> u32 {
        *self
            .ifindexes
            .get(device)
            .unwrap_or_else(|| panic!("no device {device}: {:?}", self.ifindexes))
    }

    fn reset(&mut self) {
        self.clear_records();
        clear(&mut self.flows);
        clear(&mut self.endpoints);
        self.set_epoch(1);
        for (device, gateway, len, mode, uplink, mac) in NETWORKS {
            set_forwarding(device, true);
            let bridge = self.ifindex(device);
            let network = Network {
                gateway: *gateway,
                uplink: if uplink.is_empty() {
                    0
                } else {
                    self.ifindex(uplink)
                },
                mac: *mac,
                mtu: 1500,
                mode: *mode as u8,
                zero: [0; 3],
            };
            self.networks.insert(bridge, network, 0).expect("networks");
            self.add_subnet(*gateway, *len, bridge);
            let device = Device {
                address: *gateway,
                flags: DEVICE_ETHERNET,
            };
            self.devices.insert(bridge, device, 0).expect("devices");
            self.addresses
                .insert(gateway, bridge, 0)
                .expect("addresses");
        }
        for (port, bridge) in PORTS {
            let bridge = self.ifindex(bridge);
            let port = self.ifindex(port);
            self.ports
                .insert(port, BridgePort { bridge }, 0)
                .expect("ports");
        }
        self.set_device("up0", UP0, DEVICE_ETHERNET);
        self.set_device("up1", UP1, DEVICE_ETHERNET);
        self.set_device("plain0", PLAIN0, 0);
        for (address, device) in [(UP0, "up0"), (UP1, "up1"), (PLAIN0, "plain0")] {
            let ifindex = self.ifindex(device);
            self.addresses
                .insert(address, ifindex, 0)
                .expect("addresses");
        }
    }

    /// Empty the maps that the agent writes: what a flow still does without them it does by its
    /// own entry alone.
    pub fn clear_records(&mut self) {
        clear(&mut self.networks);
        clear(&mut self.ports);
        clear(&mut self.devices);
        clear(&mut self.addresses);
        let keys: Vec<_> = self
            .subnets
            .keys()
            .map(|key| key.expect("a readable map"))
            .collect();
        for key in keys {
            self.subnets.remove(&key).expect("subnets");
        }
    }

    pub fn add_subnet(&mut self, address: Addr4, len: u32, bridge: u32) {
        let mut network = u32::from_be_bytes(address);
        network &= u32::MAX << (32 - len);
        self.subnets
            .insert(
                &lpm_trie::Key::new(len, network.to_be_bytes()),
                Subnet { bridge },
                0,
            )
            .expect("subnets");
    }

    pub fn remove_network(&mut self, bridge: &str) {
        let bridge = self.ifindex(bridge);
        self.networks.remove(&bridge).expect("networks");
        self.devices.remove(&bridge).expect("devices");
        let keys: Vec<_> = self
            .subnets
            .iter()
            .map(|entry| entry.expect("a readable map"))
            .filter(|(_, subnet)| subnet.bridge == bridge)
            .collect();
        for (key, _) in keys {
            self.subnets.remove(&key).expect("subnets");
        }
    }

    /// Change a network's record.
    pub fn change_network(&mut self, bridge: &str, change: impl FnOnce(&mut Network)) {
        let bridge = self.ifindex(bridge);
        let mut network = self.networks.get(&bridge, 0).expect("networks");
        change(&mut network);
        self.networks.insert(bridge, network, 0).expect("networks");
    }

    pub fn set_mode(&mut self, bridge: &str, mode: Mode) {
        self.change_network(bridge, |network| network.mode = mode as u8);
    }

    pub fn set_device(&mut self, device: &str, address: Addr4, flags: u32) {
        let ifindex = self.ifindex(device);
        self.devices
            .insert(ifindex, Device { address, flags }, 0)
            .expect("devices");
    }

    /// Make an address one of the host's own, or no longer.
    pub fn set_own(&mut self, address: Addr4, device: Option<&str>) {
        match device {
            Some(device) => {
                let ifindex = self.ifindex(device);
                self.addresses.insert(address, ifindex, 0)
            }
            None => self.addresses.remove(&address),
        }
        .expect("addresses");
    }

    pub fn remove_device(&mut self, device: &str) {
        let ifindex = self.ifindex(device);
        self.devices.remove(&ifindex).expect("devices");
    }

    pub fn set_epoch(&mut self, epoch: u32) {
        self.control.set(0, Control { epoch }, 0).expect("control");
    }

    pub fn epoch(&self) -> u32 {
        self.control.get(&0, 0).expect("control").epoch
    }

    /// Say where a guest was seen.
    pub fn set_endpoint(&mut self, address: Addr4, device: &str, mac: MacAddr) {
        let endpoint = Endpoint {
            ifindex: self.ifindex(device),
            last_seen: now(),
            mac,
            zero: [0; 2],
        };
        self.endpoints
            .insert(address, endpoint, 0)
            .expect("endpoints");
    }

    pub fn endpoint(&self, address: Addr4) -> Option<Endpoint> {
        self.endpoints.get(&address, 0).ok()
    }

    pub fn flow(&self, key: &FlowKey4) -> Option<Flow4> {
        self.flows.get(key, 0).ok()
    }

    pub fn flows(&self) -> Vec<(FlowKey4, Flow4)> {
        let mut all: Vec<_> = self
            .flows
            .iter()
            .map(|entry| entry.expect("a readable map"))
            .collect();
        all.sort_by_key(|(k, _)| (k.proto, k.src, k.dst, k.sport, k.dport));
        all
    }

    pub fn set_flow(&mut self, (key, flow): (FlowKey4, Flow4)) {
        self.flows.insert(key, flow, 0).expect("flows4");
    }

    /// Make the flow table hold exactly these.
    pub fn set_flows(&mut self, flows: &[(FlowKey4, Flow4)]) {
        clear(&mut self.flows);
        for entry in flows {
            self.set_flow(*entry);
        }
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
    let path = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
    std::fs::write(path, if on { "1" } else { "0" }).expect("a sysctl of the test's namespace");
}

fn topology() -> String {
    let mut batch = "link set lo up\n".to_owned();
    let colons = |mac: &MacAddr| {
        let hex: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        hex.join(":")
    };
    let dots = |address: &Addr4| std::net::Ipv4Addr::from(*address);
    for (bridge, gateway, len, _, _, mac) in NETWORKS {
        batch += &format!(
            "link add {bridge} address {} type bridge\n\
             link set {bridge} up\n\
             addr add {}/{len} dev {bridge}\n",
            colons(mac),
            dots(gateway)
        );
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

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> T {
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| panic!("no map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
}

fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("a readable map")).collect();
    for key in keys {
        map.remove(&key).expect("a key that is there");
    }
}
