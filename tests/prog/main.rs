//! The eBPF programs, one packet at a time: packet and maps in; verdict, packet, drop counters
//! and flows out. Routes and neighbours are the kernel's own.
//!
//! `NETD_TIME=1` prints for every fixture how long its program takes.

mod body;
mod checker;
mod dhcp;
mod egress;
mod events;
mod family;
mod fixture;
mod flows;
mod forward;
mod forward_flows;
mod fragments;
mod guards;
mod headers6;
mod host_answers;
mod icmp;
mod icmp6;
mod lab;
mod life;
mod load;
mod names;
mod nat;
mod nat6;
mod others;
mod packet;
mod packet6;
mod policy;
mod pools;
mod ports;
mod pressure;
mod protocols;
mod random;
mod random6;
mod route;
mod route6;
mod speed;
mod stack;
mod tcp_states;
mod verified;
mod xdp;
