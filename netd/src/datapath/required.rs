//! The kernel that messages speak of: the one that netd needs, and the one that runs.

/// What netd needs, for messages.
pub const NEEDED: &str = "netd needs Linux 6.1 or later with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT, \
    CONFIG_NET_CLS_BPF, CONFIG_NET_SCH_INGRESS and CONFIG_DEBUG_INFO_BTF, and root";

/// Version of the running kernel, as `uname -r` prints it.
#[must_use]
pub fn release() -> String {
    let uname = rustix::system::uname();
    uname.release().to_string_lossy().into_owned()
}
