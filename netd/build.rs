//! Builds the eBPF programs, which the library embeds.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    // build-std for the eBPF target needs unstable options of cargo; this admits them for the one
    // toolchain there is, and for nothing but the eBPF crate's build.
    // SAFETY: the build script has one thread here.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let root = std::env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let ebpf = format!("{root}/../netd-ebpf");
    println!("cargo:rerun-if-changed={root}/../netd-common/src");
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "netd-ebpf",
            root_dir: &ebpf,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom(&toolchain),
    )
}
