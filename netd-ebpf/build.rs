//! Asks the linker for the instructions that need more than the first BPF instruction set.

fn main() {
    // Atomic operations that return a value and 32-bit registers came with cpu v3, which every
    // supported kernel has; bpf-linker's default is v1.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+alu32");
    println!("cargo:rerun-if-changed=build.rs");
}
