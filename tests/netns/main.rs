//! netd on a hypervisor of network namespaces, with guests and an outside world: one module for
//! each subject. They are one program, so that there is one to link and tests of all of them run
//! beside each other.

mod bad_input;
mod bypass;
mod clsact;
mod crowds;
mod dhcp_dns;
mod differential;
mod drops;
mod enforcement;
mod events;
mod floods;
mod forward_changes;
mod forward_load;
mod forward_scopes;
mod forwards;
mod fragments;
mod harness;
mod hooks;
mod host6;
mod host_ports;
mod ipv6;
mod ipv6_frames;
mod ipv6_paths;
mod life;
mod limits;
mod modes;
mod nat;
mod nd;
mod network_ports;
mod networks;
mod offloads;
mod path_errors;
mod paths;
mod polkit;
mod pools;
mod published;
mod replaced_guest;
mod rfc;
mod sockets;
mod source_guard;
mod source_guard_evasion;
mod storms;
mod updates;
mod uplinks;
mod xdp;
