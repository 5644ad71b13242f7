//! The eBPF programs, one packet at a time: packet and maps in; verdict, packet, drop counters
//! and flows out. Routes and neighbours are the kernel's own.
//!
//! `NETD_TIME=1` prints for every fixture how long its program takes.

mod announced;
mod answers;
mod bans;
mod body;
mod checker;
mod dhcp;
mod egress;
mod enter;
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
mod host_rules;
mod icmp;
mod icmp6;
mod ipsec;
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
mod prefix;
mod pressure;
mod protocols;
mod random;
mod random6;
mod readdressed;
mod route;
mod route6;
mod services;
mod shaping;
mod speed;
mod stack;
mod tcp_states;
mod verified;
mod xdp;
