//! The files of settings: `netd.toml` in the configuration directory, then those of `netd.toml.d` by name.
//! What a later one says counts. They are read when the agent starts.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize as _, Serialize};
use toml::{Table, Value};

use crate::config::{Config, ConfigError};
use crate::paths::Paths;

/// Longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Settings, and where they are from.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What they come to.
    pub config: Config,
    /// The files that were read, in that order.
    pub files: Vec<PathBuf>,
    /// By section and name, the place in `files` of the file that a setting is from.
    origins: BTreeMap<(String, String), usize>,
}

/// One setting.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Its section.
    pub section: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: serde_json::Value,
    /// The file that it is from; none for a default.
    pub file: Option<PathBuf>,
}

/// All that is wrong with the files: one at least.
#[derive(Debug)]
pub struct Faults(pub Vec<ConfigError>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        formatter.write_str(&faults.join("\n"))
    }
}

impl std::error::Error for Faults {}

impl Settings {
    /// Reads the files; where there is none, everything has its default.
    ///
    /// # Errors
    /// One cannot be read, or something in it is wrong; of each the first fault is told.
    pub fn load(paths: &Paths) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut settings = Self::default();
        let mut merged = Table::new();
        let drop_ins = drop_ins(&paths.config_drop_ins()).unwrap_or_else(|error| {
            faults.push(error);
            Vec::new()
        });
        for path in std::iter::once(paths.config_file()).chain(drop_ins) {
            match read(&path) {
                Ok(Some(table)) => {
                    settings.note(&table);
                    settings.files.push(path);
                    merge(&mut merged, table);
                }
                Ok(None) => {}
                Err(error) => faults.push(error),
            }
        }
        if faults.is_empty() {
            match Config::deserialize(Value::Table(merged)) {
                Ok(config) => settings.config = config,
                // Each of the files was right, and no setting depends on another.
                Err(error) => faults.push(io_error(&paths.config_file(), io::Error::other(error))),
            }
        }
        match faults.is_empty() {
            true => Ok(settings),
            false => Err(Faults(faults)),
        }
    }

    /// The next of `files` says these.
    fn note(&mut self, table: &Table) {
        for (section, settings) in table {
            for name in settings.as_table().into_iter().flat_map(Table::keys) {
                self.origins
                    .insert((section.clone(), name.clone()), self.files.len());
            }
        }
    }

    /// All settings as a file that says them, with their origins.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for setting in self.all() {
            let Setting {
                section,
                name,
                value,
                file,
            } = setting;
            if last.as_ref() != Some(&section) {
                let gap = if last.is_some() { "\n" } else { "" };
                text.push_str(&format!("{gap}[{section}]\n"));
                last = Some(section);
            }
            // Numbers, booleans, strings and lists of strings read the same in both languages.
            let line = format!("{name} = {value}");
            match file {
                Some(file) => text.push_str(&format!("{line:<32} # {}\n", file.display())),
                None => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }

    /// Every setting, by section and name.
    #[must_use]
    pub fn all(&self) -> Vec<Setting> {
        let all = serde_json::to_value(&self.config).unwrap_or_default();
        let mut settings = Vec::new();
        for (section, of_it) in all.as_object().into_iter().flatten() {
            for (name, value) in of_it.as_object().into_iter().flatten() {
                let origin = self.origins.get(&(section.clone(), name.clone()));
                settings.push(Setting {
                    section: section.clone(),
                    name: name.clone(),
                    value: value.clone(),
                    file: origin.and_then(|at| self.files.get(*at)).cloned(),
                });
            }
        }
        settings
    }
}

fn merge(into: &mut Table, from: Table) {
    for (section, settings) in from {
        match (into.get_mut(&section), settings) {
            (Some(Value::Table(known)), Value::Table(more)) => known.extend(more),
            (_, settings) => {
                into.insert(section, settings);
            }
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Io {
        path: path.to_owned(),
        source,
    }
}

/// `*.toml` in a directory, by name; no directory has none.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| io_error(dir, error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| io_error(dir, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What a file says, which is right by itself; `None` where there is none.
fn read(path: &Path) -> Result<Option<Table>, ConfigError> {
    let io = |source| io_error(path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(io)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {MAX_FILE} bytes"),
        )));
    }
    Config::parse(&text, path)?;
    let table = toml::from_str(&text);
    table.map(Some).map_err(|error| io(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings in a directory of their own, with files of these names and texts.
    fn load(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Settings, String>) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        fs::create_dir_all(paths.config_drop_ins()).unwrap();
        for (name, text) in files {
            fs::write(paths.config_dir.join(name), text).unwrap();
        }
        let loaded = Settings::load(&paths).map_err(|faults| faults.to_string());
        (dir, loaded)
    }

    #[test]
    fn no_file_says_nothing() {
        let (_dir, settings) = load(&[]);
        let settings = settings.unwrap();
        assert_eq!(settings.config, Config::default());
        assert!(settings.files.is_empty());
    }

    #[test]
    fn a_later_file_counts_setting_by_setting() {
        let (_dir, settings) = load(&[
            (
                "netd.toml",
                "[flows]\nmax = 2048\nmax_per_network = 100\n[xdp]\non = ['a', 'b']\n",
            ),
            (
                "netd.toml.d/20-b.toml",
                "[flows]\nmax = 8192\n[xdp]\non = ['c']",
            ),
            (
                "netd.toml.d/10-a.toml",
                "[flows]\nmax = 4096\n[timeouts]\nudp = 45",
            ),
            ("netd.toml.d/30-c.toml.bak", "nonsense"),
        ]);
        let settings = settings.unwrap();
        let config = &settings.config;
        assert_eq!(
            (config.flows.max, config.flows.max_per_network),
            (8192, 100)
        );
        assert_eq!(
            (config.timeouts.udp.get(), config.xdp.on.as_slice()),
            (45, &["c".to_owned()][..])
        );
        let names = settings
            .files
            .iter()
            .map(|file| file.file_name().unwrap().to_str().unwrap());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["netd.toml", "10-a.toml", "20-b.toml"]
        );
        let text = settings.text();
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_owned()
        };
        assert!(line("max = 8192 ").ends_with("20-b.toml"), "{text}");
        assert!(
            line("max_per_network = 100 ").ends_with("netd.toml"),
            "{text}"
        );
        assert!(line("udp = 45 ").ends_with("10-a.toml"), "{text}");
        assert_eq!(line("icmp"), "icmp = 30");
        assert_eq!(Config::parse(&text, Path::new("shown")).unwrap(), *config);
    }

    #[test]
    fn the_faults_of_all_files_are_told() {
        let (dir, settings) = load(&[
            ("netd.toml", "[flows]\nmax = 1"),
            ("netd.toml.d/a.toml", "[flows]\nmax = 4096"),
            ("netd.toml.d/b.toml", "[flow]"),
        ]);
        let told = settings.unwrap_err();
        let lines: Vec<_> = told.lines().collect();
        let etc = dir.path().join("etc");
        assert_eq!(lines.len(), 2, "{told}");
        assert!(
            lines[0].starts_with(&format!(
                "{}, line 2, column 7: ",
                etc.join("netd.toml").display()
            )),
            "{told}"
        );
        assert!(lines[1].ends_with("did you mean `flows`?"), "{told}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read /"), "{error}");
        let path = dir.path().join("netd.toml");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("UTF-8"), "{error}");
        fs::write(&path, "#".repeat(MAX_FILE as usize + 1)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
    }
}
