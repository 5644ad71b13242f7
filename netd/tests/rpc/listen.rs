//! `net-event` by the `netd` binary and by the real virsh.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use netd::api::{EventKind, Lifecycle, Metadata, NetworkEvent};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::fake::N1;
use crate::raw::PATIENCE;
use crate::{Ran, Server, netd, ran, virsh};

fn event(name: &str, uuid: Uuid, kind: EventKind) -> NetworkEvent {
    NetworkEvent {
        name: name.to_owned(),
        uuid,
        kind,
    }
}

fn lifecycle(name: &str, uuid: Uuid, now: Lifecycle) -> NetworkEvent {
    event(name, uuid, EventKind::Lifecycle(now))
}

fn spawned(mut program: Command, words: &[&str]) -> Child {
    program
        .args(words)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until so many programs have begun to listen.
fn wait_for_listeners(server: &Server, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while server.driver.listened.load(Ordering::SeqCst) < count {
        assert!(Instant::now() < deadline, "not all of them listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a program and waits until it listens.
fn listening(server: &Server, program: Command, words: &[&str]) -> Child {
    let before = server.driver.listened.load(Ordering::SeqCst);
    let child = spawned(program, words);
    wait_for_listeners(server, before + 1);
    child
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

/// What the program prints of these events until Ctrl-C.
fn prints(server: &Server, program: Command, words: &[&str], events: &[NetworkEvent]) -> Ran {
    let mut child = listening(server, program, words);
    for event in events {
        server.driver.events.publish(event.clone());
    }
    // The last event is one that it prints.
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut stdout = String::new();
    let last = events.last().unwrap();
    while !stdout
        .lines()
        .last()
        .is_some_and(|line| line.contains(&last.name))
    {
        assert_ne!(lines.read_line(&mut stdout).unwrap(), 0, "{stdout}");
    }
    interrupt(&child);
    std::io::Read::read_to_string(&mut lines, &mut stdout).unwrap();
    Ran {
        stdout,
        ..ended(child)
    }
}

#[test]
fn events_are_printed_as_by_virsh() {
    let server = Server::start();
    let other = Uuid::from_u128(7);
    let events = [
        lifecycle("n1", N1, Lifecycle::Defined),
        lifecycle("Zoo bare", other, Lifecycle::Started),
        event("n1", N1, EventKind::Metadata(Metadata::Title)),
        lifecycle("ünï 網", Uuid::from_u128(8), Lifecycle::Stopped),
        lifecycle("n1", N1, Lifecycle::Undefined),
        lifecycle("the last", N1, Lifecycle::Started),
    ];
    // A virsh that is interrupted right after an event has not counted it, so these end by themselves.
    let commands = [
        "net-event --event lifecycle --loop --timeout 20",
        "net-event --event lifecycle --loop --timeout 20 --network n1",
        "-q net-event --event lifecycle --loop --timeout 20",
    ];
    let mut running = Vec::new();
    let mut listeners = 0;
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        let ours = spawned(netd(&server.socket), &words);
        let theirs = virsh(&server.socket).map(|virsh| spawned(virsh, &words));
        listeners += 1 + usize::from(theirs.is_some());
        running.push((command, ours, theirs));
    }
    // All are started at once: none is to end before the last one listens.
    wait_for_listeners(&server, listeners);
    for event in &events {
        server.driver.events.publish(event.clone());
    }
    for (command, ours, theirs) in running {
        let ours = ended(ours);
        assert!(
            ours.stdout
                .starts_with("event 'lifecycle' for network n1: Defined\n"),
            "{ours:?}"
        );
        assert_eq!(ours.stdout.contains("Zoo"), !command.contains("n1"));
        assert_eq!(ours.code, Some(0));
        if let Some(theirs) = theirs {
            assert_eq!(ours, ended(theirs), "{command} (left is netd's)");
        }
    }
}

#[test]
fn one_event_is_enough_without_loop() {
    let server = Server::start();
    let words = ["net-event", "--event", "lifecycle"];
    for program in [Some(netd(&server.socket)), virsh(&server.socket)] {
        let Some(program) = program else { return };
        let child = listening(&server, program, &words);
        for now in [Lifecycle::Started, Lifecycle::Stopped] {
            server.driver.events.publish(lifecycle("n1", N1, now));
        }
        let output = ended(child);
        let expected = "event 'lifecycle' for network n1: Started\nevents received: 1\n\n";
        assert_eq!((output.stdout.as_str(), output.code), (expected, Some(0)));
    }
}

#[test]
fn metadata_and_times_are_printed() {
    let server = Server::start();
    let events = [
        event("n1", N1, EventKind::Metadata(Metadata::Title)),
        event("n1", N1, EventKind::Metadata(Metadata::Description)),
        event(
            "last",
            N1,
            EventKind::Metadata(Metadata::Element("urn:netd:network:1".to_owned())),
        ),
    ];
    let words = ["net-event", "--event", "metadata-change", "--loop"];
    let output = prints(&server, netd(&server.socket), &words, &events);
    assert_eq!(
        output.stdout,
        "event 'metadata-change' for network n1: type title, uri <null>\n\
         event 'metadata-change' for network n1: type description, uri <null>\n\
         event 'metadata-change' for network last: type element, uri urn:netd:network:1\n\
         event loop interrupted\n\
         events received: 3\n\n"
    );
    let words = [&words[..], &["--timestamp"]].concat();
    let output = prints(&server, netd(&server.socket), &words, &events);
    let first = output.stdout.lines().next().unwrap();
    let (time, rest) = first.split_at("2026-11-30 09:57:16.834+0000".len());
    assert!(
        time.ends_with("+0000") && time.as_bytes()[10] == b' ',
        "{first}"
    );
    assert_eq!(
        rest,
        ": event 'metadata-change' for network n1: type title, uri <null>"
    );
}

#[test]
fn nothing_heard_is_a_failure() {
    let server = Server::start();
    for (words, stdout, stderr) in [
        (
            ["net-event", "--event", "lifecycle", "--timeout", "1"].as_slice(),
            "event loop timed out\nevents received: 0\n\n",
            "",
        ),
        (
            &["-q", "net-event", "--event", "lifecycle", "--timeout", "1"],
            "event loop timed out\nevents received: 0\n",
            "",
        ),
        (
            &["net-event"],
            "\n",
            "error: either --list or --event <type> is required\n",
        ),
        (
            &["net-event", "--event", "nothing"],
            "\n",
            "error: unknown event type nothing\n",
        ),
    ] {
        let expected = Ran {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            code: Some(1),
        };
        assert_eq!(ran(netd(&server.socket).args(words)), expected, "{words:?}");
        let Some(mut virsh) = virsh(&server.socket) else {
            return;
        };
        assert_eq!(ran(virsh.args(words)), expected, "{words:?} by virsh");
    }
    let output = ran(netd(&server.socket).args(["net-event", "--list"]));
    assert_eq!(output.stdout, "lifecycle\nmetadata-change\n\n");
}

#[test]
fn an_agent_that_stops_ends_the_wait() {
    let mut server = Server::start();
    let words = ["net-event", "--event", "lifecycle", "--loop"];
    let mut child = listening(&server, netd(&server.socket), &words);
    server
        .driver
        .events
        .publish(lifecycle("n1", N1, Lifecycle::Started));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "event 'lifecycle' for network n1: Started\n");
    server.stop();
    let output = ended(child);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output
            .stderr
            .contains("the agent closed the connection: it was stopped"),
        "{output:?}"
    );
}
