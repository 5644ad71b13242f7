//! Why a packet was dropped: one name for each rule.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $value:literal, $name:literal, $text:literal;)*) => {
        /// Index into the `drops` map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $text] $variant = $value,)*
        }

        impl Reason {
            /// Every reason, in the order of the map.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Short name, as counters and tables show it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The rule in a sentence.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

reasons! {
    Isolated = 0, "isolated",
        "the guest's network is isolated: its guests reach each other and the host only";
    IntoIsolated = 1, "into_isolated",
        "the destination is in an isolated network, which nothing outside it may reach";
    IntoNat = 2, "into_nat",
        "the destination is in a NAT network, whose guests must open the connection";
    ForeignSource = 3, "foreign_source",
        "the source address is not in the subnet of the network the packet came from";
    ForeignDestination = 4, "foreign_destination",
        "the destination address is not in the subnet of the network it would go to";
    WrongUplink = 5, "wrong_uplink",
        "the network may only be forwarded by the device that its definition names";
    FragWithoutFirst = 6, "frag_without_first",
        "a fragment came before the first one of its packet, which alone carries ports";
    ProtocolTaken = 7, "protocol_taken",
        "a protocol without ports is translated for one guest per peer, and another one has it";
    NoFlow = 8, "no_flow",
        "a TCP packet that closes or answers belongs to no known connection";
    NoAddress = 9, "no_address",
        "the device the packet would leave by has no address to masquerade with";
    PortsExhausted = 10, "ports_exhausted",
        "no free source port was found for the masqueraded flow";
    TableFull = 11, "table_full",
        "the flow table is full of connections that both sides use";
    Malformed = 12, "malformed",
        "the packet's headers contradict its length";
    IcmpUnknown = 13, "icmp_unknown",
        "an ICMP error about a flow that is not known";
    Rewrite = 14, "rewrite",
        "the packet could not be changed: out of memory, or part of an SCTP packet whose checksum \
         covers the other parts";
    VlanTag = 15, "vlan_tag",
        "the frame carries more than one VLAN tag with number 0, behind which its packet hides";
    NetworkGone = 16, "network_gone",
        "the source address belongs to a network that has just been stopped";
    SourceRoute = 17, "source_route",
        "the packet carries a source route, by which the host would send it past the policy";
    NetworkFull = 18, "network_full",
        "the network has as many flows as the agent's configuration allows";
    NoMapping = 19, "no_mapping",
        "the address is one that guests are masqueraded with, and no flow of theirs is this one";
    NoMemory = 20, "no_memory",
        "the kernel had no memory for the flow";
    IcmpType = 21, "icmp_type",
        "of ICMP only queries and errors can be masqueraded";
    NoGuest = 22, "no_guest",
        "the guest that the answer is for is gone with its port, and was not seen at another";
    PortIsolated = 23, "port_isolated",
        "the ports of both guests are isolated: they reach each other neither directly nor by way \
         of the gateway";
    HostAccessDenied = 24, "host_access_denied",
        "the network's definition closes the host, or all of it but DHCP, DNS, TFTP and ICMP, to \
         its guests";
    SpoofedMac = 25, "spoofed_mac",
        "the frame's source MAC address is not the port's own";
    SpoofedAddress = 26, "spoofed_address",
        "the source address is not the guest's own: neither the definition nor a lease gives it \
         this address, or another guest had the IPv6 address before";
    SpoofedArp = 27, "spoofed_arp",
        "the ARP message speaks of an address that is not the guest's own";
    SpoofedNeighbour = 28, "spoofed_neighbour",
        "the neighbour advertisement is about an address that is not the guest's own";
    RogueServer = 29, "rogue_server",
        "guests of this network may not answer DHCP, advertise routers or redirect others";
    OtherProtocol = 30, "other_protocol",
        "a guarded port lets IP and ARP pass, not frames of other protocols or with a VLAN tag";
    SourceMoved = 31, "source_moved",
        "the connection's way out has another address now; its guest is told to open it anew";
    Banned = 32, "banned",
        "the address outside is banned (netd ban): what comes from it is dropped, and what guests send \
         to it is refused";
    HopLimit = 33, "hop_limit",
        "the packet's hops are used up (TTL 1): its sender was told so, as traceroute wants it";
    TooLarge = 34, "too_large",
        "the packet is larger than the path's MTU and may not be fragmented: its sender was told the \
         MTU";
    LostInStack = 35, "lost_in_stack",
        "a packet that the host's own stack had to carry (IP options, larger than the path's MTU, from an \
         uplink with filters) did not come out again: the host's rules drop it, most likely";
    Unresolved = 36, "unresolved",
        "nobody answers for the address of the next hop, or of the guest, on its link: the sender was \
         told so, and the address is asked for again some seconds later";
    Incomplete = 37, "incomplete",
        "a part of netd's programs was removed from the bpf file system; a restart of netd puts it back";
    IpsecPolicy = 38, "ipsec_policy",
        "an IPsec policy of the host's blocks the packet, or wants it protected once its source is \
         translated, when the kernel's IPsec is past";
    NoOutside = 39, "no_outside",
        "the network's prefix is translated (<netd:prefix>), and this address stands for none on the \
         other side: its subnet has the number 0xffff, or it is nobody's";
    NoInterface = 40, "no_interface",
        "the network's prefix is translated (<netd:prefix>), and the address has no number of an \
         interface that could be: all zeros or all ones";
}

/// Number of entries of the `drops` map; room for reasons to come.
pub const DROP_ENTRIES: usize = 64;

const _: () = assert!(Reason::ALL.len() <= DROP_ENTRIES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_dense_and_their_names_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            for other in &Reason::ALL[i + 1..] {
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
