//! Every verb by our command line and by virsh, unmodified, on the same socket: what they print
//! and how they end is the same.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{Lab, check};
use netd_tests::{Agent, Network, SOON, eventually};

/// What a user sees of a command.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Seen {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `before` and the command, for each client anew; compares and returns what was seen.
fn same_after(lab: &Lab, before: &[&[&str]], command: &[&str]) -> Result<Seen> {
    let prepare = || -> Result<()> {
        for command in before {
            // A step may find that it has nothing to do: what counts is the command compared.
            lab.agent.cli(command.iter().copied())?;
        }
        Ok(())
    };
    prepare()?;
    let ours = Seen::from(lab.agent.cli(command.iter().copied())?);
    prepare()?;
    let virsh = Seen::from(lab.agent.virsh(command.iter().copied())?);
    ensure!(
        ours == virsh,
        "{}:\nnetd:  {ours:#?}\nvirsh: {virsh:#?}",
        command.join(" ")
    );
    Ok(ours)
}

/// Runs a command that changes nothing by both clients.
fn same(lab: &Lab, command: &[&str]) -> Result<Seen> {
    same_after(lab, &[], command)
}

/// The same, and it must succeed.
fn well(lab: &Lab, before: &[&[&str]], command: &[&str]) -> Result<Seen> {
    let seen = same_after(lab, before, command)?;
    ensure!(seen.status == Some(0), "{}: {seen:#?}", command.join(" "));
    Ok(seen)
}

/// The same, and it must fail.
fn ill(lab: &Lab, before: &[&[&str]], command: &[&str]) -> Result<Seen> {
    let seen = same_after(lab, before, command)?;
    ensure!(seen.status == Some(1), "{}: {seen:#?}", command.join(" "));
    Ok(seen)
}

/// A definition with everything that would be chosen at random.
fn definition(agent: &Agent) -> Result<String> {
    let xml = Network::default()
        .with("<uuid>0b4b8f1c-51f3-4a55-8b4f-0c3c7e3d9a10</uuid><mac address='52:54:00:aa:bb:cc'/>")
        .dhcp("")
        .xml();
    agent.file("default.xml", &xml)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn verbs_that_change_something_say_the_same() {
    check(|lab| {
        lab.agent.start()?;
        let file = definition(&lab.agent)?;
        let broken = lab
            .agent
            .file("broken.xml", "<network><name>a/b</name></network>")?;
        let missing = lab.directory().join("missing.xml").display().to_string();
        let define: &[&str] = &["net-define", &file];
        let start: &[&str] = &["net-start", "default"];
        let stop: &[&str] = &["net-destroy", "default"];
        let forget: &[&str] = &["net-undefine", "default"];
        let create: &[&str] = &["net-create", &file];

        well(lab, &[], define)?;
        ill(lab, &[], &["net-define", &broken])?;
        ill(lab, &[], &["net-define", &missing])?;
        well(lab, &[stop], start)?;
        ill(lab, &[], start)?;
        well(lab, &[], &["net-autostart", "default"])?;
        well(lab, &[], &["net-autostart", "default", "--disable"])?;
        well(lab, &[start], stop)?;
        ill(lab, &[], stop)?;
        well(lab, &[define], forget)?;
        well(lab, &[stop, forget], create)?;
        ill(lab, &[], create)?;
        ill(lab, &[], forget)?;
        ill(lab, &[], &["net-autostart", "default"])?;
        well(lab, &[create], stop)?;
        for verb in ["net-start", "net-destroy", "net-undefine", "net-autostart"] {
            ill(lab, &[], &[verb, "nobody"])?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn verbs_that_only_ask_say_the_same() {
    check(|lab| {
        lab.agent.start()?;
        same(lab, &["net-list"])?;
        same(lab, &["net-list", "--all"])?;
        let file = definition(&lab.agent)?;
        lab.agent.ok(["net-define", &file])?;
        lab.agent.ok(["net-start", "default"])?;
        lab.agent.ok(["net-autostart", "default"])?;
        for network in [
            Network::isolated("Zoo", 2),
            Network::route("a-long-name-for-a-network", 3),
        ] {
            lab.agent.define(&network.xml())?;
        }
        let transient = lab
            .agent
            .file("transient.xml", &Network::open("brief", 4).xml())?;
        lab.agent.ok(["net-create", &transient])?;
        let guest = lab.plugged(1, "virbr1")?;
        let lease = guest.dhcp()?;
        lab.leases_with("default", lease.address)?;

        for options in [
            [].as_slice(),
            &["--all"],
            &["--inactive"],
            &["--persistent", "--all"],
            &["--transient"],
            &["--autostart"],
            &["--no-autostart", "--all"],
            &["--all", "--name"],
            &["--all", "--uuid"],
            &["--all", "--table"],
        ] {
            well(lab, &[], &[&["net-list"], options].concat())?;
        }
        let uuid = lab.agent.ok(["net-uuid", "default"])?;
        let uuid = uuid.trim();
        ensure!(uuid == "0b4b8f1c-51f3-4a55-8b4f-0c3c7e3d9a10", "{uuid}");
        for command in [
            ["net-info", "default"].as_slice(),
            &["net-info", uuid],
            &["net-info", "Zoo"],
            &["net-info", "brief"],
            &["net-dumpxml", "default"],
            &["net-dumpxml", "default", "--inactive"],
            &["net-dumpxml", "Zoo"],
            &["net-uuid", "default"],
            &["net-name", uuid],
            &["net-dhcp-leases", "default"],
            &["net-dhcp-leases", "default", "--mac", "52:54:00:00:00:01"],
            &["net-dhcp-leases", "default", "--mac", "52:54:00:00:00:99"],
        ] {
            well(lab, &[], command)?;
        }
        let leases = same(lab, &["net-dhcp-leases", "default"])?;
        ensure!(leases.stdout.contains("52:54:00:00:00:01"), "{leases:#?}");
        for command in [
            ["net-info", "nobody"].as_slice(),
            &["net-dumpxml", "nobody"],
            &["net-uuid", "nobody"],
            &["net-name", "00000000-0000-0000-0000-000000000000"],
            &["net-dhcp-leases", "nobody"],
            &["net-event"],
            &["net-event", "--event", "nothing"],
            &["net-event", "--event", "lifecycle", "--timeout", "1"],
        ] {
            ill(lab, &[], command)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn entries_are_changed_alike() {
    check(|lab| {
        lab.agent.start()?;
        let file = definition(&lab.agent)?;
        lab.agent.ok(["net-define", &file])?;
        let entry = "<host mac='52:54:00:00:00:07' name='seven' ip='10.10.1.7'/>";
        let entry_file = lab.agent.file("entry.xml", entry)?;
        let update = |command: &'static str, xml: &'static str| {
            ["net-update", "default", command, "ip-dhcp-host", xml]
        };
        let add = update("add", entry);
        let delete = update("delete", "<host name='seven'/>");
        // Of a network that does not run, and then of one that does.
        for before in [[].as_slice(), &["net-start", "default"]] {
            if !before.is_empty() {
                lab.agent.ok(before.iter().copied())?;
            }
            well(lab, &[&delete], &add)?;
            ill(lab, &[], &add)?;
            well(lab, &[], &update("modify", entry))?;
            well(lab, &[&add], &delete)?;
            ill(lab, &[], &delete)?;
        }
        let from_file = [
            "net-update",
            "default",
            "add-first",
            "ip-dhcp-host",
            &entry_file,
        ];
        well(lab, &[&delete], &from_file)?;
        let all = |words: &[&'static str]| [words, &["--live", "--config"]].concat();
        lab.agent.cli(delete)?;
        well(lab, &[&all(&delete)], &all(&add))?;
        well(lab, &[&all(&add)], &all(&delete))?;
        ill(lab, &[], &all(&delete))?;
        for (section, xml) in [
            ("ip", "<ip address='10.9.9.1'/>"),
            ("ip-dhcp-host", "<range/>"),
            ("dns-host", "<host"),
            ("nothing", entry),
        ] {
            ill(lab, &[], &["net-update", "default", "add", section, xml])?;
        }
        ill(
            lab,
            &[],
            &["net-update", "default", "put", "dns-txt", entry],
        )?;
        ill(lab, &[], &["net-update", "nobody", "add", "dns-txt", entry]).map(drop)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ports_are_made_and_deleted_alike() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let uuid = "aaaaaaaa-0000-0000-0000-000000000001";
        let xml = |more: &str| {
            format!(
                "<networkport><uuid>{uuid}</uuid><owner><name>vm</name><uuid>{uuid}</uuid></owner>\
                 <mac address='52:54:00:00:00:01'/>{more}</networkport>"
            )
        };
        let file = lab.agent.file("port.xml", &xml(""))?;
        let plugged = xml("<plug type='network' bridge='virbr1'/>");
        let plugged = lab.agent.file("plugged.xml", &plugged)?;
        let create: &[&str] = &["net-port-create", "default", &file];
        let delete: &[&str] = &["net-port-delete", "default", uuid];
        well(lab, &[], &["net-port-list", "default"])?;
        well(lab, &[delete], create)?;
        ill(lab, &[], create)?;
        ill(lab, &[], &["net-port-create", "default", &plugged])?;
        ill(lab, &[], &["net-port-create", "nobody", &file])?;
        well(lab, &[], &["net-port-list", "default"])?;
        well(lab, &[], &["net-port-list", "default", "--uuid"])?;
        well(lab, &[], &["net-port-dumpxml", "default", uuid])?;
        well(lab, &[], &["net-dumpxml", "default"])?;
        well(lab, &[create], delete)?;
        well(
            lab,
            &[create, &["net-destroy", "default"]],
            &["net-start", "default"],
        )?;
        well(lab, &[], &["net-port-list", "default"])?;
        lab.agent.ok(["net-destroy", "default"])?;
        ill(lab, &[], &["net-port-list", "default"])?;
        ill(lab, &[], create).map(drop)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn net_edit_changes_what_the_editor_changed() {
    check(|lab| {
        let editor = lab.agent.script(
            "editor",
            "#!/bin/sh\nsed -i 's/10.10.1.1/10.10.9.1/' \"$1\"\n",
        )?;
        let idle = lab.agent.script("idle", "#!/bin/sh\nexit 0\n")?;
        let file = definition(&lab.agent)?;
        let plain = Network::default()
            .dns()
            .with("<uuid>0b4b8f1c-51f3-4a55-8b4f-0c3c7e3d9a10</uuid>");
        let plain = lab.agent.file("plain.xml", &plain.xml())?;
        ensure!(file != plain);
        lab.agent.set_env("EDITOR", &editor);
        lab.agent.set_env("VISUAL", &editor);
        lab.agent.start()?;
        well(lab, &[&["net-define", &plain]], &["net-edit", "default"])?;
        let dump = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(dump.contains("10.10.9.1"), "{dump}");
        lab.agent.set_env("EDITOR", &idle);
        lab.agent.set_env("VISUAL", &idle);
        well(lab, &[], &["net-edit", "default"])?;
        ensure!(lab.agent.ok(["net-dumpxml", "default"])? == dump);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_only_netd_has() {
    check(|lab| {
        lab.agent.start()?;
        let file = definition(&lab.agent)?;
        lab.agent.ok(["net-define", &file])?;
        let before = lab.snapshot()?;
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(
            plan.contains("virbr1") && plan.contains("10.10.1.1"),
            "{plan}"
        );
        before
            .wait_for_same(&lab.hv, lab.directory())
            .context("a plan only tells")?;
        lab.agent.ok(["net-start", "default"])?;
        lab.plugged(1, "virbr1")?;
        let guest = lab.plugged(2, "virbr1")?;
        guest.dhcp()?;
        // The agent hears of the ports, and acts upon that, while they are plugged in.
        eventually(SOON, || {
            let status = lab.agent.ok(["status"])?;
            for word in [
                "default",
                "nat",
                "virbr1",
                "vnet2",
                "uplink",
                "tcx ingress",
                "Tracked connections",
            ] {
                ensure!(status.contains(word), "no {word} in:\n{status}");
            }
            let plan = lab.agent.ok(["--quiet", "plan"])?;
            ensure!(plan.trim().is_empty(), "everything is done, but: {plan}");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_socket_is_for_root_alone() {
    check(|lab| {
        use std::os::unix::fs::PermissionsExt;
        lab.agent.start()?;
        let mode = std::fs::metadata(lab.agent.socket())?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        lab.agent.stop()?;
        let error = lab.agent.fails(["net-list"])?;
        let socket = lab.agent.socket().display().to_string();
        ensure!(error.contains(&socket), "{error}");
        Ok(())
    });
}
