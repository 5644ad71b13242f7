//! The maps that there are one of for each address family, and what else differs between them.

use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie};
use aya::{Ebpf, Pod};
use netd_common::abi::{
    Addr4, Addr6, BINDING_STATIC, Ban, BanKey, Binding, BindingKey, Endpoint, EndpointKey,
    FLOW_REPLY, Flow, FlowKey, Forward, ForwardKey, Fragment, FragmentKey, IpsecPolicy, MacAddr,
    Slot, Subnet,
};
use netd_common::checksum::{sum4, sum6};

use crate::lab::{FLOWS, Lab, clear, now, take};
use crate::names;
use crate::packet::Version;

/// An address of either version.
pub trait Address: Pod + Default + Ord + Version {
    /// Index of the family in `usage`.
    const INDEX: usize;
    /// The addresses of the host's first uplink, of a guest of the NAT network, of one of the routed
    /// network, and of a server outside.
    const UP0: Self;
    const GUEST: Self;
    const ROUTE_GUEST: Self;
    const SERVER: Self;
    /// Its maps.
    fn maps(lab: &Lab) -> &Maps<Self>;
    fn maps_mut(lab: &mut Lab) -> &mut Maps<Self>;
    /// Sum of its words.
    fn sum(self) -> u64;
    /// Its prefix of a length.
    fn prefix(self, len: u32) -> Self;
}

impl Address for Addr4 {
    const INDEX: usize = 0;
    const UP0: Self = names::UP0;
    const GUEST: Self = names::GUEST;
    const ROUTE_GUEST: Self = names::ROUTE_GUEST;
    const SERVER: Self = names::SERVER;
    fn maps(lab: &Lab) -> &Maps<Self> {
        &lab.v4
    }
    fn maps_mut(lab: &mut Lab) -> &mut Maps<Self> {
        &mut lab.v4
    }
    fn sum(self) -> u64 {
        sum4(self)
    }
    fn prefix(self, len: u32) -> Self {
        (u32::from_be_bytes(self) & u32::MAX << (32 - len)).to_be_bytes()
    }
}

impl Address for Addr6 {
    const INDEX: usize = 1;
    const UP0: Self = names::UP0_6;
    const GUEST: Self = names::GUEST6;
    const ROUTE_GUEST: Self = names::ROUTE_GUEST6;
    const SERVER: Self = names::SERVER6;
    fn maps(lab: &Lab) -> &Maps<Self> {
        &lab.v6
    }
    fn maps_mut(lab: &mut Lab) -> &mut Maps<Self> {
        &mut lab.v6
    }
    fn sum(self) -> u64 {
        sum6(&self)
    }
    fn prefix(self, len: u32) -> Self {
        (u128::from_be_bytes(self) & u128::MAX << (128 - len)).to_be_bytes()
    }
}

/// What a map holds, of either family.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: private to this module, where T is one of the layouts of `netd_common::abi`, which are
// all repr(C) without padding, of integers and byte arrays.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// The maps of one family.
pub struct Maps<A: Address> {
    addresses: HashMap<MapData, A, u32>,
    subnets: LpmTrie<MapData, A, Subnet>,
    pools: LpmTrie<MapData, A, Subnet>,
    endpoints: HashMap<MapData, Plain<EndpointKey<A>>, Endpoint>,
    bindings: HashMap<MapData, Plain<BindingKey<A>>, Binding>,
    bans: LpmTrie<MapData, Plain<BanKey<A>>, Ban>,
    forwards: LpmTrie<MapData, Plain<ForwardKey<A>>, Plain<Forward<A>>>,
    flows: HashMap<MapData, Plain<FlowKey<A>>, Plain<Flow<A>>>,
    slots: Array<MapData, Plain<Slot<A>>>,
    fragments: HashMap<MapData, Plain<FragmentKey<A>>, Fragment>,
    policies: Array<MapData, Plain<IpsecPolicy<A>>>,
    /// The slot that the next flow of a test's gets.
    next_slot: u32,
}

impl<A: Address> Maps<A> {
    pub fn take(ebpf: &mut Ebpf, version: u8) -> Self {
        let name = |map: &str| format!("{map}{version}");
        Self {
            addresses: take(ebpf, &name("addresses")),
            subnets: take(ebpf, &name("subnets")),
            pools: take(ebpf, &name("pools")),
            endpoints: take(ebpf, &name("endpoints")),
            bindings: take(ebpf, &name("bindings")),
            bans: take(ebpf, &name("bans")),
            forwards: take(ebpf, &name("forwards")),
            flows: take(ebpf, &name("flows")),
            slots: take(ebpf, &name("slots")),
            fragments: take(ebpf, &name("fragments")),
            policies: take(ebpf, &name("policies")),
            next_slot: 0,
        }
    }

    /// No flows, fragments or endpoints.
    pub fn clear(&mut self) {
        self.clear_flows();
        clear(&mut self.endpoints);
        clear(&mut self.fragments);
    }

    pub fn clear_flows(&mut self) {
        clear(&mut self.flows);
        let free = Plain(Slot::default());
        for index in 0..FLOWS {
            let taken = self.slots.get(&index, 0).expect("slots").0.used != 0;
            if taken {
                self.slots.set(index, free, 0).expect("slots");
            }
        }
        self.next_slot = 0;
    }

    pub fn clear_records(&mut self) {
        clear(&mut self.addresses);
        clear(&mut self.bindings);
        self.remove_prefixes(|_| true);
        let keys: Vec<_> = self
            .bans
            .keys()
            .map(|key| key.expect("a readable map"))
            .collect();
        for key in keys {
            self.bans.remove(&key).expect("a key that is there");
        }
        let keys: Vec<_> = self
            .forwards
            .keys()
            .map(|key| key.expect("a readable map"))
            .collect();
        for key in keys {
            self.forwards.remove(&key).expect("a key that is there");
        }
    }

    pub fn add_subnet(&mut self, address: A, len: u32, bridge: u32) {
        let key = lpm_trie::Key::new(len, address.prefix(len));
        self.subnets
            .insert(
                &key,
                Subnet {
                    bridge_ifindex: bridge,
                },
                0,
            )
            .expect("subnets");
    }

    /// Addresses to masquerade with.
    pub fn add_pool(&mut self, address: A, len: u32, bridge: u32) {
        let key = lpm_trie::Key::new(len, address.prefix(len));
        self.pools
            .insert(
                &key,
                Subnet {
                    bridge_ifindex: bridge,
                },
                0,
            )
            .expect("pools");
    }

    pub fn bind(&mut self, key: BindingKey<A>, mac: MacAddr) {
        let binding = Binding {
            mac,
            kind: BINDING_STATIC,
            pad: 0,
        };
        self.bindings
            .insert(Plain(key), binding, 0)
            .expect("bindings");
    }

    /// How many addresses are somebody's.
    pub fn bindings_of(&self, mac: MacAddr) -> usize {
        let bindings = self.bindings.iter().map(|entry| entry.expect("bindings"));
        bindings.filter(|(_, binding)| binding.mac == mac).count()
    }

    pub fn bound(&self, key: &BindingKey<A>) -> Option<Binding> {
        self.bindings.get(&Plain(*key), 0).ok()
    }

    /// Add a forward of one port, or of a whole address (protocol 0), or take it away.
    /// Ban a prefix; `None`: no longer.
    pub fn ban(&mut self, bridge: u32, address: A, len: u32, until: Option<u32>) {
        let address = address.prefix(len);
        let key = lpm_trie::Key::new(BanKey::<A>::SCOPE + len, Plain(BanKey { bridge, address }));
        match until {
            Some(until) => self.bans.insert(&key, Ban { until }, 0),
            None => self.bans.remove(&key),
        }
        .expect("bans");
    }

    /// Write a list of IPsec policies from an index on.
    pub fn set_policies(&mut self, first: u32, policies: &[IpsecPolicy<A>]) {
        let end = [IpsecPolicy::default()];
        for (index, policy) in (first..).zip(policies.iter().chain(&end)) {
            self.policies
                .set(index, Plain(*policy), 0)
                .expect("policies");
        }
    }

    pub fn set_forward(&mut self, key: ForwardKey<A>, forward: Option<Forward<A>>) {
        let len = match key.proto {
            0 => ForwardKey::<A>::PORTLESS,
            _ => ForwardKey::<A>::BITS,
        };
        let key = lpm_trie::Key::new(len, Plain(key));
        match forward {
            Some(forward) => self.forwards.insert(&key, Plain(forward), 0),
            None => self.forwards.remove(&key),
        }
        .expect("forwards");
    }

    pub fn remove_subnets(&mut self, bridge: u32) {
        self.remove_prefixes(|subnet| subnet.bridge_ifindex == bridge);
    }

    fn remove_prefixes(&mut self, which: impl Fn(&Subnet) -> bool) {
        for map in [&mut self.subnets, &mut self.pools] {
            let keys: Vec<_> = map
                .iter()
                .map(|entry| entry.expect("a readable map"))
                .filter(|(_, subnet)| which(subnet))
                .collect();
            for (key, _) in keys {
                map.remove(&key).expect("a key that is there");
            }
        }
    }

    pub fn set_own(&mut self, address: A, ifindex: Option<u32>) {
        match ifindex {
            Some(ifindex) => self.addresses.insert(address, ifindex, 0),
            None => self.addresses.remove(&address),
        }
        .expect("addresses");
    }

    pub fn set_endpoint(&mut self, address: A, endpoint: Endpoint) {
        self.endpoints
            .insert(Plain(EndpointKey::new(address)), endpoint, 0)
            .expect("endpoints");
    }

    pub fn endpoint(&self, address: A) -> Option<Endpoint> {
        self.endpoints
            .get(&Plain(EndpointKey::new(address)), 0)
            .ok()
    }

    pub fn fragments(&self) -> Vec<(FragmentKey<A>, Fragment)> {
        self.fragments
            .iter()
            .map(|entry| entry.expect("a readable map"))
            .map(|(key, fragment)| (key.0, fragment))
            .collect()
    }

    pub fn flow(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.flows.get(&Plain(*key), 0).ok().map(|flow| flow.0)
    }

    /// All flows, in an order.
    pub fn flows(&self) -> Vec<(FlowKey<A>, Flow<A>)> {
        let mut all: Vec<_> = self
            .flows
            .iter()
            .map(|entry| entry.expect("a readable map"))
            .map(|(key, flow)| (key.0, flow.0))
            .collect();
        all.sort_by_key(|(k, _)| (k.proto, k.src, k.dst, k.sport, k.dport));
        all
    }

    pub fn set_flow(&mut self, key: FlowKey<A>, flow: Flow<A>) {
        self.flows
            .insert(Plain(key), Plain(flow), 0)
            .expect("a free place");
    }

    pub fn remove_flow(&mut self, key: &FlowKey<A>) {
        self.flows.remove(&Plain(*key)).expect("a flow");
    }

    /// Let all flows have been silent for so many ticks.
    pub fn age(&mut self, ticks: u32) {
        for (key, mut flow) in self.flows() {
            flow.last_seen = now().wrapping_sub(ticks);
            self.set_flow(key, flow);
        }
    }

    /// Let all first fragments have come so many ticks ago.
    pub fn age_fragments(&mut self, ticks: u32) {
        for (key, mut fragment) in self.fragments() {
            fragment.seen_at = now().wrapping_sub(ticks);
            self.fragments
                .insert(Plain(key), fragment, 0)
                .expect("fragments");
        }
    }

    /// Note a flow in the next slot.
    pub fn take_slot(&mut self, key: FlowKey<A>) -> u32 {
        let index = self.next_slot;
        self.next_slot += 1;
        let slot = Slot {
            key,
            used: 1,
            pad: 0,
        };
        self.slots.set(index, Plain(slot), 0).expect("slots");
        index
    }

    /// The slots that are taken.
    pub fn slots(&self) -> Vec<(u32, Slot<A>)> {
        (0..FLOWS)
            .map(|index| (index, self.slots.get(&index, 0).expect("slots").0))
            .filter(|(_, slot)| slot.used != 0)
            .collect()
    }

    /// Flows that count for a bridge.
    pub fn counted(&self, bridge: u32) -> u32 {
        let flows = self.flows();
        flows
            .iter()
            .filter(|(_, f)| f.counted_for == bridge)
            .count() as u32
    }

    /// What is wrong with the tables.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, flow) in self.flows() {
            let partner = self.flow(&flow.partner(key.proto));
            match partner {
                None => faults.push(format!("no other half: {key:?}")),
                Some(other) if other.partner(key.proto) != key => {
                    faults.push(format!("the other half is another's: {key:?}"));
                }
                Some(other) if (other.flags ^ flow.flags) & FLOW_REPLY == 0 => {
                    faults.push(format!("both halves are the same direction: {key:?}"));
                }
                Some(_) => {}
            }
            if flow.flags & FLOW_REPLY != 0 {
                if flow.counted_for != 0 {
                    faults.push(format!("an answering half is counted: {key:?}"));
                }
                continue;
            }
            match self.slots.get(&flow.slot, 0) {
                Ok(slot) if slot.0.used == 1 && slot.0.key == key => {}
                Ok(slot) => faults.push(format!("slot of {key:?} holds {:?}", slot.0)),
                Err(_) => faults.push(format!("no such slot: {}", flow.slot)),
            }
        }
        faults
    }

    /// How many slots are taken, those of flows that have gone included: whoever comes across one
    /// frees it.
    pub fn taken_slots(&self) -> usize {
        self.slots().len()
    }
}
