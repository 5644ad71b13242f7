//! How fast netd is beside its peers: see `docs/performance.md`. `cargo xtask bench` runs it, as root.

mod bench;

use std::process::ExitCode;

fn main() -> ExitCode {
    match bench::perform(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
