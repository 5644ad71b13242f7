//! `netd xml`: what is to be known of definitions in files, without an agent and without root.

use std::path::Path;

use serde::Serialize;

use super::args::{CanonicalArgs, CheckArgs, DnsmasqArgs, XmlCommand, XmlUpdateArgs};
use super::networks::read_xml;
use super::output::{Failure, Output};
use crate::dnsmasq::{self, NetworkFiles};
use crate::model::{
    self, FormatOptions, Network, Section, Update, UpdateCommand, XmlError, check_define,
    check_start, parse, parse_whole, validate,
};

/// Where libvirt's own driver keeps dnsmasq's files.
const LIBVIRT_DIR: &str = "/var/lib/libvirt/dnsmasq";
/// Where it has dnsmasq write its process number.
const LIBVIRT_RUN_DIR: &str = "/run/libvirt/network";

/// Runs one of the commands.
pub(super) fn xml(output: &mut Output, command: &XmlCommand) -> Result<(), Failure> {
    match command {
        XmlCommand::Canonical(args) => canonical(output, args),
        XmlCommand::Dnsmasq(args) => dnsmasq_files(output, args),
        XmlCommand::Update(args) => update(output, args),
        XmlCommand::Check(args) => check(output, args),
    }
}

fn network_of(file: &Path) -> Result<Network, Failure> {
    parse(&read_xml(file)?).map_err(|error| of(file, &error))
}

fn of(file: &Path, error: &dyn std::error::Error) -> Failure {
    format!("{}: {error}", file.display()).into()
}

fn print(output: &mut Output, network: &Network, inactive: bool) {
    let options = FormatOptions {
        inactive,
        connections: None,
    };
    output.data(model::format(network, options));
}

fn canonical(output: &mut Output, args: &CanonicalArgs) -> Result<(), Failure> {
    print(output, &network_of(&args.file)?, args.inactive);
    Ok(())
}

fn dnsmasq_files(output: &mut Output, args: &DnsmasqArgs) -> Result<(), Failure> {
    let network = network_of(&args.file)?;
    let failed = |error| of(&args.file, &error);
    if args.hostsfile {
        output.data(dnsmasq::hostsfile(&network).map_err(failed)?);
        return Ok(());
    }
    let (dir, run) = match args.libvirt_paths {
        true => (LIBVIRT_DIR.into(), Path::new(LIBVIRT_RUN_DIR)),
        false => (args.paths.dnsmasq_dir(), &*args.paths.run_dir),
    };
    let files = NetworkFiles {
        dir,
        pid_file: Some(run.join(format!("{}.pid", network.name))),
    };
    output.data(dnsmasq::conf(&network, &files).map_err(failed)?);
    if !args.libvirt_paths {
        output.data(dnsmasq::own_options(&network));
    }
    Ok(())
}

fn update(output: &mut Output, args: &XmlUpdateArgs) -> Result<(), Failure> {
    let network = network_of(&args.network)?;
    let update = Update {
        command: UpdateCommand::from_name(&args.command)
            .ok_or_else(|| format!("unrecognized command name '{}'", args.command))?,
        section: Section::from_name(&args.section)
            .ok_or_else(|| format!("unrecognized section name '{}'", args.section))?,
        parent_index: args.index.and_then(|index| index.try_into().ok()),
        xml: match args.update.starts_with('<') {
            true => args.update.clone(),
            false => read_xml(Path::new(&args.update))?,
        },
    };
    let updated = update.apply(&network);
    print(
        output,
        &updated.map_err(|error| of(&args.network, &error))?,
        true,
    );
    Ok(())
}

/// What `xml check --json` prints.
#[derive(Serialize)]
struct AllChecked<'a> {
    files: Vec<Checked<'a>>,
}

/// A file, and what is wrong with it.
#[derive(Serialize)]
struct Checked<'a> {
    file: &'a Path,
    faults: Vec<String>,
}

fn check(output: &mut Output, args: &CheckArgs) -> Result<(), Failure> {
    let checked = args.files.iter().map(|file| Checked {
        file,
        faults: match read_xml(file) {
            Ok(text) => faults(&text),
            Err(failure) => vec![failure.to_string().trim_end().to_owned()],
        },
    });
    let checked: Vec<Checked<'_>> = checked.collect();
    let wrong = checked.iter().map(|file| file.faults.len()).sum();
    if args.json {
        output.answer(&AllChecked { files: checked })?;
    } else {
        for Checked { file, faults } in &checked {
            for fault in faults {
                output.data(format!("{}: {fault}\n", file.display()));
            }
            if faults.is_empty() {
                output.extra(format!("{}: ok\n", file.display()));
            }
        }
    }
    match wrong {
        0 => Ok(()),
        1 => Err("1 fault".to_owned().into()),
        _ => Err(format!("{wrong} faults").into()),
    }
}

/// All that is wrong with a definition, or of no effect, each in a line. One that cannot be read at all
/// has one fault.
fn faults(text: &str) -> Vec<String> {
    let parsed = match parse_whole(text) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("not a network: {error}")],
    };
    let unknown = parsed.unknown.iter();
    let mut faults: Vec<String> = unknown
        .map(|piece| format!("{piece}: nobody reads this, it has no effect"))
        .collect();
    let mut add = |when: &str, result: Result<(), XmlError>| {
        if let Err(error) = result {
            faults.push(format!("{when}: {error}"));
        }
    };
    add("when it is defined", check_define(&parsed.network));
    add("when it is started", check_start(&parsed.network));
    add("by the schema (--validate)", validate(text));
    // The rules of one layer may hold in another, too.
    let mut told = Vec::new();
    faults.retain(|fault| {
        let what = fault.split_once(": ").map_or(&**fault, |(_, what)| what);
        let is_new = !told.contains(&what.to_owned());
        told.push(what.to_owned());
        is_new
    });
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let faults = faults(
            "<network>\n<name>n</name>\n<forward mode='nat'/>\n<port isolate='yes'/>\n\
             <bogus/>\n<ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>\n\
             <range start='10.0.0.9' end='10.0.0.20'/></dhcp></ip>\n\
             <virtualport type='openvswitch'/>\n</network>",
        );
        let has = |part: &str| faults.iter().any(|fault| fault.contains(part));
        assert!(has("line 4") && has("isolate"), "{faults:?}");
        assert!(has("line 5") && has("bogus"), "{faults:?}");
        assert!(has("when it is started"), "{faults:?}");
        assert!(has("by the schema"), "{faults:?}");
    }

    #[test]
    fn what_cannot_be_read_has_one_fault() {
        assert_eq!(faults("<network>").len(), 1);
        assert_eq!(
            faults("<network><name>n</name></network>"),
            Vec::<String>::new()
        );
    }
}
