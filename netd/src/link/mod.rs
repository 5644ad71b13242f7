//! Bridges, ports, addresses and sysctls over rtnetlink.
