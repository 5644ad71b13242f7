//! `netd config`: the agent's settings as its files say them.

use super::args::ConfigCommand;
use super::output::{Failure, Output};
use crate::paths::Paths;
use crate::settings::Settings;

/// Runs one of the commands.
pub(super) fn config(output: &mut Output, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(paths) => check(output, paths),
        ConfigCommand::Show(paths) => show(output, paths),
    }
}

fn check(output: &mut Output, paths: &Paths) -> Result<(), Failure> {
    match Settings::load(paths) {
        Ok(settings) if settings.files.is_empty() => {
            output.extra(format!(
                "There is no {}; all settings have their default\n",
                paths.config_file().display()
            ));
            Ok(())
        }
        Ok(settings) => {
            for file in &settings.files {
                output.extra(format!("{}: no fault\n", file.display()));
            }
            Ok(())
        }
        Err(faults) => {
            let count = faults.0.len();
            output.data(format!("{faults}\n"));
            let word = if count == 1 { "fault" } else { "faults" };
            Err(format!("{count} {word} in the settings; an agent does not start with them").into())
        }
    }
}

fn show(output: &mut Output, paths: &Paths) -> Result<(), Failure> {
    let settings = Settings::load(paths).map_err(|faults| faults.to_string())?;
    output.data(settings.text());
    Ok(())
}
