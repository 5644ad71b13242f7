//! `net-update` of a network that runs: what guests notice, and what they must not notice.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{forward, forwards, range};
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Guest, Lab, Losses, Network, SOON, eventually};

const ECHO: u16 = 7;
const HOST_ENTRY: &str = "<host mac='52:54:00:00:00:01' name='web' ip='10.10.1.50'/>";

/// `net-update default …`, the words separated by blanks and the entry last.
fn update(lab: &Lab, words: &str, xml: &str) -> Result<String> {
    lab.agent.ok(arguments(words, xml))
}

/// The same where it is to fail.
fn refused(lab: &Lab, words: &str, xml: &str) -> Result<String> {
    lab.agent.fails(arguments(words, xml))
}

fn arguments<'a>(words: &'a str, xml: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["net-update", "default"];
    let (what, options) = words.split_at(words.find(" --").unwrap_or(words.len()));
    arguments.extend(what.split_whitespace());
    arguments.push(xml);
    arguments.extend(options.split_whitespace());
    arguments
}

/// The number of the one dnsmasq.
fn dnsmasq(lab: &Lab) -> Result<i32> {
    let all = lab.dnsmasqs()?;
    ensure!(all.len() == 1, "{all:?}");
    Ok(all[0])
}

/// The network stopped and started, its guests plugged in again by that.
fn restart(lab: &Lab) -> Result<()> {
    lab.agent.ok(["net-destroy", "default"])?;
    lab.agent.ok(["net-start", "default"])?;
    Ok(())
}

/// The network's definition: what runs, or with an option that of the next start.
fn dumped(lab: &Lab, options: &[&str]) -> Result<String> {
    lab.agent
        .ok([&["net-dumpxml", "default"], options].concat())
}

/// What a name server says to a question of any type, which it is to answer.
fn ask(guest: &Guest, kind: &str, name: &str) -> Result<String> {
    eventually(SOON, || {
        let said = ask_once(guest, kind, name)?;
        let silent = said.is_empty() || said.contains("timed out");
        ensure!(!silent, "nobody answers: {said}");
        Ok(said)
    })
}

/// The same where it may know nobody to ask, and say nothing.
fn ask_once(guest: &Guest, kind: &str, name: &str) -> Result<String> {
    let kind = format!("-type={kind}");
    let command = [
        "timeout",
        "10",
        "busybox",
        "nslookup",
        &kind,
        name,
        "10.10.1.1",
    ];
    let output = guest.netns().output(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Gives the address back and gets one, as a guest that boots again.
fn boot(guest: &Guest) -> Result<Ipv4Addr> {
    guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
    Ok(guest.dhcp()?.address)
}

/// Boots until that address is given: dnsmasq reads its files after it was told to, and a busy machine takes
/// its time.
fn soon_gets(guest: &Guest, is_right: impl Fn(Ipv4Addr) -> bool) -> Result<()> {
    eventually(SOON, || {
        let address = boot(guest)?;
        ensure!(is_right(address), "{address}");
        Ok(())
    })
}

/// One of those that anybody gets.
fn is_anybodys(address: Ipv4Addr) -> bool {
    address.octets()[3] >= 100
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_dhcp_host_counts_at_once_and_nobody_notices() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let _echo = Server::tcp_echo(&lab.wan, at(OUTSIDE, ECHO))?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, ECHO))?;
        let (guest, other) = (lab.plugged(1, "virbr1")?, lab.plugged(2, "virbr1")?);
        let first = boot(&guest)?;
        ensure!(first.octets()[3] >= 100, "{first}");
        boot(&other)?;
        let all = [&lab.hv, &lab.wan, other.netns()];
        let look = Losses::look(&all)?;
        let loads = [
            Load::tcp(other.netns(), at(OUTSIDE, ECHO))?,
            Load::udp(other.netns(), at(OUTSIDE, ECHO))?,
            Load::new_udp_flows(other.netns(), at(OUTSIDE, ECHO))?,
        ];
        let before = dnsmasq(lab)?;

        let said = lab
            .agent
            .virsh(arguments("add ip-dhcp-host --live", HOST_ENTRY))?;
        ensure!(said.status.success(), "{said:?}");
        soon_gets(&guest, |address| address == Ipv4Addr::new(10, 10, 1, 50))?;
        let moved = HOST_ENTRY.replace(".50", ".60");
        update(lab, "modify ip-dhcp-host --live", &moved)?;
        soon_gets(&guest, |address| address == Ipv4Addr::new(10, 10, 1, 60))?;
        update(lab, "delete ip-dhcp-host --live", "<host name='web'/>")?;
        soon_gets(&guest, is_anybodys).context("still a host")?;

        ensure!(dnsmasq(lab)? == before, "dnsmasq was replaced");
        for load in loads {
            load.reach(51)?;
            look.account_for(&load.finish()?, &all)?;
        }
        let xml = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(!xml.contains("<host"), "{xml}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn each_definition_has_its_own_entries() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.plugged(1, "virbr1")?;
        update(lab, "add ip-dhcp-host --config", HOST_ENTRY)?;
        ensure!(boot(&guest)?.octets()[3] >= 100, "in effect at once");
        let live = "<host mac='52:54:00:00:00:02' ip='10.10.1.70'/>";
        update(lab, "add ip-dhcp-host --current", live)?;
        let (runs, starts) = (dumped(lab, &[])?, dumped(lab, &["--inactive"])?);
        ensure!(runs.contains(".70") && !runs.contains(".50"), "{runs}");
        ensure!(
            starts.contains(".50") && !starts.contains(".70"),
            "{starts}"
        );
        // The record of what runs outlives the agent.
        lab.agent.kill()?;
        lab.agent.start()?;
        ensure!(dumped(lab, &[])? == runs && dumped(lab, &["--inactive"])? == starts);
        restart(lab)?;
        ensure!(dumped(lab, &[])?.contains(".50"), "{}", dumped(lab, &[])?);
        let address = boot(&guest)?;
        ensure!(address == Ipv4Addr::new(10, 10, 1, 50), "{address}");
        update(lab, "add ip-dhcp-host --live --config", live)?;
        ensure!(dumped(lab, &[])?.contains(".70") && dumped(lab, &["--inactive"])?.contains(".70"));
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn dns_hosts_are_answered_at_once() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().dns();
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let before = dnsmasq(lab)?;
        let server = network.gateway();
        // dnsmasq reads its files after it was told to, and a busy machine takes its time.
        let answered = |name: &str| {
            eventually(SOON, || {
                ensure!(guest.resolve(name, server)? == network.address(9));
                Ok(())
            })
        };
        let knows = |name: &str| -> Result<bool> {
            Ok(ask_once(&guest, "a", name)?.contains("Address: 10.10.1.9"))
        };
        ensure!(!knows("printer.lan")?, "it is known already");
        let host = |ip: &str| format!("<host ip='{ip}'><hostname>printer.lan</hostname></host>");
        update(lab, "add dns-host --live --config", &host("10.10.1.9"))?;
        answered("printer.lan")?;
        let lp = "<host ip='10.10.1.9'><hostname>lp.lan</hostname></host>";
        update(lab, "modify dns-host --live", lp)?;
        answered("lp.lan")?;
        let forgotten = |name: &str| {
            eventually(SOON, || {
                ensure!(!knows(name)?, "{name} is still known");
                Ok(())
            })
        };
        forgotten("printer.lan")?;
        update(lab, "delete dns-host --live", "<host ip='10.10.1.9'/>")?;
        forgotten("lp.lan")?;
        ensure!(dnsmasq(lab)? == before, "dnsmasq was replaced");
        restart(lab)?;
        answered("printer.lan")?;
        Ok(())
    });
}

/// What exists without an address of the family asked for is not "no such name", which clients would take for
/// all families.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t40_a_name_without_such_a_record_exists_all_the_same() {
    check(|lab| {
        lab.agent.start()?;
        let names = "<domain name='lab.example' localOnly='yes'/>\
                     <dns><host ip='10.10.1.9'><hostname>printer.lab.example</hostname></host></dns>";
        let network = Network::default().with(names).dhcp(HOST_ENTRY);
        lab.up(&network)?;
        let guest = lab.plugged(1, "virbr1")?;
        boot(&guest)?;
        for name in ["printer.lab.example", "web.lab.example", "WEB.lab.example"] {
            let has = |kind| -> Result<String> { ask(&guest, kind, name) };
            ensure!(
                has("a")?.contains("Address: 10.10.1."),
                "{name}: {}",
                has("a")?
            );
            for kind in ["aaaa", "mx", "txt"] {
                let answer = has(kind)?;
                // As busybox prints NOERROR.
                let exists = answer.contains("answer:") && !answer.contains("NXDOMAIN");
                ensure!(exists, "{kind} of {name}: {answer}");
            }
        }
        let missing = ask(&guest, "aaaa", "missing.lab.example")?;
        ensure!(missing.contains("NXDOMAIN"), "{missing}");
        update(lab, "delete dns-host --live", "<host ip='10.10.1.9'/>")?;
        eventually(SOON, || {
            let answer = ask_once(&guest, "a", "printer.lab.example")?;
            ensure!(answer.contains("NXDOMAIN"), "{answer}");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ranges_and_records_replace_dnsmasq_alone() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, ECHO))?;
        let (guest, other) = (lab.plugged(1, "virbr1")?, lab.plugged(2, "virbr1")?);
        let leased = boot(&other)?;
        lab.leases_with("default", leased)?;
        let all = [&lab.hv, &lab.wan, other.netns()];
        let look = Losses::look(&all)?;
        let load = Load::udp(other.netns(), at(OUTSIDE, ECHO))?;
        let bridge = lab.hv.ifindex("virbr1")?;

        let range = "<range start='10.10.1.10' end='10.10.1.19'/>";
        let mut last = dnsmasq(lab)?;
        let mut replaced = |what: &str| -> Result<()> {
            let now = dnsmasq(lab)?;
            ensure!(now != last, "{what}: not replaced");
            last = now;
            Ok(())
        };
        update(lab, "add-first ip-dhcp-range --live", range)?;
        replaced("the new range")?;
        let old = "<range start='10.10.1.100' end='10.10.1.200'/>";
        update(lab, "delete ip-dhcp-range --live", old)?;
        replaced("the old range")?;
        let address = boot(&guest)?;
        ensure!((10..=19).contains(&address.octets()[3]), "{address}");
        lab.leases_with("default", leased)?;

        let txt = "<txt name='note.lan' value='hello there'/>";
        update(lab, "add dns-txt --live", txt)?;
        replaced("a text")?;
        let said = ask(&guest, "txt", "note.lan")?;
        ensure!(said.contains("hello there"), "{said}");
        let txt = txt.replace("hello there", "good bye");
        update(lab, "modify dns-txt --live", &txt)?;
        let said = ask(&guest, "txt", "note.lan")?;
        ensure!(said.contains("good bye"), "{said}");
        update(lab, "delete dns-txt --live", "<txt name='note.lan'/>")?;
        let said = ask_once(&guest, "txt", "note.lan")?;
        ensure!(!said.contains("good bye"), "{said}");

        let srv = "<srv service='ldap' protocol='tcp' domain='lan' target='d.lan' port='389'/>";
        update(lab, "add dns-srv --live", srv)?;
        let said = ask(&guest, "srv", "_ldap._tcp.lan")?;
        ensure!(said.contains("389 d.lan"), "{said}");
        update(lab, "delete dns-srv --live", "<srv service='ldap'/>")?;
        let said = ask_once(&guest, "srv", "_ldap._tcp.lan")?;
        ensure!(!said.contains("389"), "{said}");

        ensure!(lab.hv.ifindex("virbr1")? == bridge, "another bridge");
        load.reach(51)?;
        look.account_for(&load.finish()?, &all)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn dhcp_and_dns_come_and_go_with_their_last_entry() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guest = lab.plugged(1, "virbr1")?;
        ensure!(lab.dnsmasqs()?.is_empty());
        update(lab, "add ip-dhcp-host --live", HOST_ENTRY)?;
        let address = boot(&guest)?;
        ensure!(address == network.address(50), "{address}");
        update(lab, "delete ip-dhcp-host --live", "<host name='web'/>")?;
        ensure!(lab.dnsmasqs()?.is_empty(), "{:?}", lab.dnsmasqs()?);
        // Neither does the agent start it again.
        std::thread::sleep(Duration::from_secs(1));
        ensure!(lab.dnsmasqs()?.is_empty(), "{:?}", lab.dnsmasqs()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guards_and_forwards_follow_dhcp_hosts() {
    check(|lab| {
        lab.agent.start()?;
        let guard = "<netd:antispoof/>";
        let web = forward("udp", "", "web", &range(8080, 8080, 80));
        let metadata = forwards(&web)
            .replace("<netd:forwards ", "<netd:network ")
            .replace(
                "</netd:forwards>",
                &format!("</netd:forwards>{guard}</netd:network>"),
            );
        let metadata = metadata.replacen("'>", "'><netd:forwards>", 1);
        let network = Network::default().dhcp("").with(&metadata);
        lab.up(&network)?;
        let (guest, other) = (lab.plugged(1, "virbr1")?, lab.plugged(2, "virbr1")?);
        guest.address("10.10.1.50/24", Some("10.10.1.1"))?;
        other.address("10.10.1.60/24", Some("10.10.1.1"))?;
        let passes = |guest: &Guest| -> Result<bool> {
            // A kernel that has asked in vain does not ask again for a second.
            guest.netns().run(["ip", "neigh", "flush", "dev", "eth0"])?;
            Ok(guest.try_ping(&OUTSIDE.to_string())?.status.success())
        };
        let must = |what: &str, is: &dyn Fn() -> Result<bool>| {
            eventually(SOON, || {
                ensure!(is()?, "{what}");
                Ok(())
            })
        };
        let anywhere = at(Ipv4Addr::UNSPECIFIED, 80);
        let servers = [
            Server::udp(guest.netns(), anywhere)?,
            Server::udp(other.netns(), anywhere)?,
        ];
        let heard = |place: usize| -> Result<bool> {
            let before = servers[place].received();
            traffic::ask_udp(&lab.wan, at(HOST, 8080))?;
            Ok(servers[place].received() > before)
        };
        ensure!(!passes(&guest)? && !passes(&other)?, "not guarded");

        update(lab, "add ip-dhcp-host --live", HOST_ENTRY)?;
        must("the address is not the guest's", &|| passes(&guest))?;
        must("not published", &|| heard(0))?;
        let moved = "<host mac='52:54:00:00:00:02' name='web' ip='10.10.1.60'/>";
        update(lab, "modify ip-dhcp-host --live", moved)?;
        must("the new address is not the guest's", &|| passes(&other))?;
        must("not published to the new guest", &|| heard(1))?;
        ensure!(!passes(&guest)?, "the old entry counts");
        update(lab, "delete ip-dhcp-host --live", "<host ip='10.10.1.60'/>")?;
        ensure!(
            !passes(&other)? && !heard(1)?,
            "an entry that is gone counts"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_device_of_a_network_changes_while_it_runs() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let passes =
            || -> Result<bool> { Ok(guest.try_ping(&OUTSIDE.to_string())?.status.success()) };
        guest.ping(&OUTSIDE.to_string()).context("no way out")?;
        let device = |command: &str, device: &str| {
            let words = format!("{command} forward-interface --live");
            update(lab, &words, &format!("<interface dev='{device}'/>"))
        };
        device("add", "elsewhere")?;
        ensure!(!passes()?, "it leaves by another device");
        let words = "add forward-interface --live";
        let error = refused(lab, words, "<interface dev='uplink'/>")?;
        ensure!(error.contains("takes one device"), "{error}");
        device("delete", "elsewhere")?;
        device("add", "uplink")?;
        guest
            .ping(&OUTSIDE.to_string())
            .context("not by its device")?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_fails_changes_nothing() {
    check(|lab| {
        // A dnsmasq that starts with no configuration any more once it is told so.
        let broken = lab.directory().join("broken");
        let script = format!(
            "#!/bin/sh\n\
             if [ -e {} ] && [ \"$1\" != --version ]; then echo 'no such option' >&2; exit 1; fi\n\
             exec /usr/sbin/dnsmasq \"$@\"\n",
            broken.display()
        );
        let script = lab.agent.script("dnsmasq", &script)?;
        lab.agent.set_env("NETD_DNSMASQ", &script);
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.plugged(1, "virbr1")?;
        update(lab, "add ip-dhcp-host --config", HOST_ENTRY)?;
        let state = || -> Result<_> {
            let starts = lab.agent.ok(["net-dumpxml", "default", "--inactive"])?;
            let runs = lab.agent.ok(["net-dumpxml", "default"])?;
            let file = lab.directory().join("etc/networks/default.xml");
            let read = |path| std::fs::read_to_string(path).context("a definition");
            let record = lab.directory().join("run/networks/default.xml");
            Ok((starts, runs, read(file)?, read(record)?, dnsmasq(lab)?))
        };
        let before = state()?;
        std::fs::write(&broken, "")?;
        let long = format!("<txt name='a' value='{}'/>", "x".repeat(2000));
        for (words, xml, why) in [
            // There is one in the definition, but not in what runs.
            (
                "add ip-dhcp-host --live --config",
                HOST_ENTRY,
                "there is an existing",
            ),
            (
                "add dns-txt --live --config",
                "<txt name='a' value='b'/>",
                "no such option; the change was taken back",
            ),
            ("add dns-txt --live --config", &long, "makes a line of"),
            (
                "add portgroup --live --config",
                "<portgroup name='a'><virtualport type='midonet'/></portgroup>",
                "<virtualport>",
            ),
            (
                "add ip --live",
                "<ip address='10.9.9.1'/>",
                "Operation not supported",
            ),
            (
                "add ip-dhcp-range --live --parent-index 1",
                "<range start='10.10.1.2' end='10.10.1.3'/>",
                "index 1",
            ),
        ] {
            let error = refused(lab, words, xml)?;
            ensure!(error.contains(why), "{words}: {error}");
            ensure!(
                error.contains("Failed to update network default"),
                "{error}"
            );
            ensure!(state()? == before, "{words} left something behind");
        }
        std::fs::remove_file(&broken)?;
        ensure!(boot(&guest)?.octets()[3] >= 100);
        lab.agent.ok(["net-destroy", "default"])?;
        refused(lab, "delete ip-dhcp-host --live", HOST_ENTRY)?;
        update(lab, "delete ip-dhcp-host", HOST_ENTRY)?;
        update(lab, "add portgroup", "<portgroup name='a'/>")?;
        lab.agent.ok(["net-start", "default"])?;
        update(
            lab,
            "add portgroup --live",
            "<portgroup name='b' default='yes'/>",
        )?;
        update(lab, "modify portgroup --live", "<portgroup name='b'/>")?;
        update(lab, "delete portgroup --live", "<portgroup name='b'/>")?;
        let xml = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(
            xml.contains("<portgroup name='a'>") && !xml.contains("<host"),
            "{xml}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_next_agent_finishes_what_one_did_not() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.plugged(1, "virbr1")?;
        let before = dnsmasq(lab)?;
        // As left by one that died when it had noted a change and told nobody.
        lab.agent.kill()?;
        let record = lab.directory().join("run/networks/default.xml");
        let text = std::fs::read_to_string(&record)?;
        ensure!(text.contains("</dhcp>"), "{text}");
        std::fs::write(
            &record,
            text.replace("</dhcp>", &format!("{HOST_ENTRY}</dhcp>")),
        )?;
        lab.agent.start()?;
        let fixed = |address| address == Ipv4Addr::new(10, 10, 1, 50);
        soon_gets(&guest, fixed)?;
        ensure!(dnsmasq(lab)? == before, "dnsmasq was replaced");
        lab.agent.kill()?;
        let text = std::fs::read_to_string(&record)?;
        std::fs::write(&record, text.replace(".200'", ".210'"))?;
        lab.agent.start()?;
        eventually(SOON, || {
            ensure!(dnsmasq(lab)? != before, "the range is the old one");
            Ok(())
        })?;
        soon_gets(&guest, fixed)
    });
}
