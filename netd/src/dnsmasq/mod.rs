//! DHCP and DNS: one dnsmasq process per network.
