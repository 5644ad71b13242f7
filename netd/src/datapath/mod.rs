//! The eBPF side: load, pin, attach, fill maps.
