//! The running agent: it owns the networks and keeps the kernel as they ask.
