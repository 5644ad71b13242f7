//! The eBPF programs, one packet at a time: packet and maps in; verdict, packet, drop counters
//! and flows out. Routes and neighbours are the kernel's own.
//!
//! `NETD_TIME=1` prints for every fixture how long its program takes.

mod checker;
mod dhcp;
mod egress;
mod fixture;
mod flows;
mod icmp;
mod lab;
mod life;
mod load;
mod names;
mod nat;
mod others;
mod packet;
mod policy;
mod ports;
mod random;
mod route;
mod speed;
mod stack;
mod tcp;
