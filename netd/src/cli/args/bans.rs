//! Arguments of the verbs on bans, and of `doctor`.

use clap::{Args, Subcommand};

use crate::model::Prefix;

/// Commands on bans.
#[derive(Debug, Subcommand)]
pub enum BanCommand {
    /// Ban addresses or prefixes
    #[command(after_help = "\
What comes from a banned address is dropped, also of running connections; what guests send to it is
refused. `netd drops` counts both as banned. With --network guests of one network alone are closed to
it; without, all networks and this host itself, by every interface that netd guards. Takes effect
immediately, and lasts over restarts of the agent and of the host. A ban that exists gets the new end.

TIME is a number of s, m, h, d or w: 90s, 1h30m, 2d.

Examples:
  netd ban add 203.0.113.7
  netd ban add 203.0.113.0/24 2001:db8::/32 --for 1h
  netd ban add 203.0.113.7 --network default
  xargs netd ban add --for 1d <list.txt")]
    Add(BanAddArgs),
    /// List bans
    #[command(after_help = "\
Examples:
  netd ban list
  netd ban list --network default
  netd ban list --json")]
    List(BanListArgs),
    /// End bans
    #[command(after_help = "\
Give prefix, network and owner as `netd ban list` shows them.

Examples:
  netd ban delete 203.0.113.0/24
  netd ban delete 203.0.113.7 --network default")]
    Delete(BanDeleteArgs),
}

/// Which bans.
#[derive(Debug, Args)]
pub struct BanIdArgs {
    /// Addresses or prefixes: 203.0.113.7, 203.0.113.0/24, 2001:db8::/32
    #[arg(required = true, value_name = "PREFIX")]
    pub prefixes: Vec<Prefix>,
    /// Only of this network's guests
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// On whose behalf: bans of several owners do not end each other
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub owner: String,
}

/// Arguments of `ban add`.
#[derive(Debug, Args)]
pub struct BanAddArgs {
    /// Which bans.
    #[command(flatten)]
    pub which: BanIdArgs,
    /// End the ban after this time
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub seconds: Option<u64>,
}

/// Arguments of `ban list`.
#[derive(Debug, Args)]
pub struct BanListArgs {
    /// Only bans of this network
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `ban delete`.
#[derive(Debug, Args)]
pub struct BanDeleteArgs {
    /// Which bans.
    #[command(flatten)]
    pub which: BanIdArgs,
    /// A ban that does not exist is no error
    #[arg(long)]
    pub if_exists: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Seconds of a time such as `1h30m`.
fn seconds(text: &str) -> Result<u64, String> {
    let error = || "write a time such as 90s, 1h30m, 2d or 1w".to_owned();
    let mut total = 0u64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let factor = match unit.bytes().next() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86_400,
            Some(b'w') => 604_800,
            _ => return Err(error()),
        };
        total = number
            .checked_mul(factor)
            .and_then(|seconds| total.checked_add(seconds))
            .ok_or("that is too long; leave --for out to ban for ever")?;
        rest = &unit[1..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, wanted) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("1w1s", 604_801),
            ("0s", 0),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "5",
            "1x",
            "h",
            "-1s",
            "1h-1s",
            "1 h",
            "99999999999999w",
            "1é",
        ] {
            seconds(text).unwrap_err();
        }
    }
}
