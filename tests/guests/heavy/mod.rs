//! What takes minutes, on a host of each release.

/// A test of each release's libvirt for each function, which gets the file system.
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => {
        $(on_each!(@ $name, bookworm Bookworm, trixie Trixie, sid Sid);)+
    };
    (@ $name:ident, $($suite:ident $root:ident),+) => {
        mod $name {
            use netd_tests::libvirt::Root;
            $(
                #[test]
                #[ignore = "boots guests: cargo xtask test --clients"]
                fn $suite() {
                    super::$name(Root::$root);
                }
            )+
        }
    };
}

mod answers;
mod boot;
mod confined;
mod documents;
mod door;
mod firewalls;
mod interrupted;
mod life;
mod migration;
mod module;
mod packages;
mod plugs;
mod readme;
mod restarts;
mod stock;
mod switch;
mod systemd;
mod third_parties;
