//! The netd binary.

fn main() -> std::process::ExitCode {
    netd::cli::main()
}
