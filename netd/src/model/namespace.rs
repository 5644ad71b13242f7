//! Namespaces of the elements that are not libvirt's own.

/// Namespace of the options that are passed to dnsmasq.
pub const DNSMASQ_NAMESPACE: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Namespace of the elements that speak to netd.
pub const NETD_NAMESPACE: &str = "urn:netd:network:1";

/// How the namespaces of all versions of netd begin.
const NETD_NAMESPACES: &str = "urn:netd:";

/// Is this a namespace of some version of netd?
pub fn is_netd_namespace(namespace: &str) -> bool {
    namespace.starts_with(NETD_NAMESPACES)
}
