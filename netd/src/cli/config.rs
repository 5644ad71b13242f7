//! `netd config`: the agent's settings as its files say them.

use std::path::PathBuf;

use serde::Serialize;

use super::args::{ConfigArgs, ConfigCommand};
use super::output::{Failure, Output};
use crate::settings::{Setting, Settings};

/// Runs one of the commands.
pub(super) fn config(output: &mut Output, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => check(output, args),
        ConfigCommand::Show(args) => show(output, args),
    }
}

/// What `config check --json` prints.
#[derive(Serialize)]
struct Checked {
    /// Those that were read, where nothing is wrong.
    files: Vec<PathBuf>,
    faults: Vec<String>,
}

/// What `config show --json` prints.
#[derive(Serialize)]
struct Shown {
    files: Vec<PathBuf>,
    settings: Vec<Setting>,
}

fn check(output: &mut Output, args: &ConfigArgs) -> Result<(), Failure> {
    let (files, faults) = match Settings::load(&args.paths) {
        Ok(settings) => (settings.files, Vec::new()),
        Err(faults) => (
            Vec::new(),
            faults.0.iter().map(ToString::to_string).collect(),
        ),
    };
    let count = faults.len();
    if args.json {
        output.answer(&Checked { files, faults })?;
    } else if count > 0 {
        output.data(format!("{}\n", faults.join("\n")));
    } else if files.is_empty() {
        output.extra(format!(
            "There is no {}; all settings have their default\n",
            args.paths.config_file().display()
        ));
    } else {
        for file in &files {
            output.extra(format!("{}: no fault\n", file.display()));
        }
    }
    let word = if count == 1 { "fault" } else { "faults" };
    match count {
        0 => Ok(()),
        _ => {
            Err(format!("{count} {word} in the settings; an agent does not start with them").into())
        }
    }
}

fn show(output: &mut Output, args: &ConfigArgs) -> Result<(), Failure> {
    let settings = Settings::load(&args.paths).map_err(|faults| faults.to_string())?;
    if args.json {
        let shown = settings.all();
        return output.answer(&Shown {
            settings: shown,
            files: settings.files,
        });
    }
    output.data(settings.text());
    Ok(())
}
