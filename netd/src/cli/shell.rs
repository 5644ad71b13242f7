//! What the command line says of itself: completion scripts and man pages.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the completion script of a shell.
///
/// # Errors
/// Nobody reads it.
pub(super) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "netd", &mut script);
    std::io::stdout()
        .write_all(&script)
        .context("cannot write to standard output")
}

/// Writes netd.8, and one page for each command.
///
/// # Errors
/// A page cannot be written.
pub(super) fn manpages(directory: &Path) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write(&command, "netd", directory)
}

fn write(command: &clap::Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8");
    let mut page = Vec::new();
    man.render(&mut page)
        .with_context(|| format!("cannot write the page of {name}"))?;
    let file = directory.join(format!("{name}.8"));
    std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        write(inner, &format!("{name}-{}", inner.get_name()), directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        manpages(dir.path()).unwrap();
        for page in ["netd", "netd-run", "netd-net-update", "netd-forward-add"] {
            let text = std::fs::read_to_string(dir.path().join(format!("{page}.8"))).unwrap();
            assert!(
                text.contains("Examples:") && text.contains(".SH NAME"),
                "{page}: {text}"
            );
        }
        assert!(!dir.path().join("netd-lease-helper.8").exists());
    }
}
