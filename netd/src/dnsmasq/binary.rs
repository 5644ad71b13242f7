//! The dnsmasq binary: where it is, and whether it is new enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::{Error, Result, io_error};
use super::version::{MIN_VERSION, Version, parse_version};

/// How long `--version` may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Where to look besides PATH, which often lacks the administrator's directories.
const MORE_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Remembers which binary was found good.
#[derive(Debug, Default)]
pub(super) struct Binary {
    /// The binary last looked at, when it was changed, and its version.
    known: Mutex<Option<(PathBuf, SystemTime, Version)>>,
}

impl Binary {
    /// The binary that would be run, found and new enough. `--version` is asked only when the
    /// file has changed since the last time.
    ///
    /// # Errors
    /// No dnsmasq, or one that is too old.
    pub async fn find(&self) -> Result<PathBuf> {
        let path = locate()?;
        let modified = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .map_err(|e| io_error("read the date of", &path, e))?;
        let mut known = self.known.lock().await;
        let version = match &*known {
            Some((p, m, version)) if *p == path && *m == modified => *version,
            _ => ask_version(&path).await?,
        };
        if version < MIN_VERSION {
            return Err(Error::TooOld {
                path,
                found: version,
            });
        }
        *known = Some((path.clone(), modified, version));
        Ok(path)
    }
}

/// `$NETD_DNSMASQ`, else the first executable `dnsmasq` in PATH and the usual directories.
fn locate() -> Result<PathBuf> {
    use rustix::fs::{Access, access};
    let usable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if let Some(given) = std::env::var_os("NETD_DNSMASQ").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        return Some(path.clone()).filter(usable).ok_or(Error::Missing {
            searched: format!("NETD_DNSMASQ={}", path.display()),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    for dir in MORE_DIRS.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    let found = dirs.iter().map(|dir| dir.join("dnsmasq")).find(usable);
    found.ok_or_else(|| Error::Missing {
        searched: std::env::join_paths(&dirs)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    })
}

async fn ask_version(path: &Path) -> Result<Version> {
    let unknown = |problem: String| Error::UnknownVersion {
        path: path.to_owned(),
        problem,
    };
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(ANSWER_LIMIT, output)
        .await
        .map_err(|_| unknown("--version does not end".to_owned()))?
        .map_err(|e| unknown(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| {
        let line: String = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect();
        unknown(format!("--version answered {line:?}"))
    })
}
