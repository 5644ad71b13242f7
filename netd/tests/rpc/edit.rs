//! `net-edit`, with editors that are one-line programs.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::fake::{Fake, N1};
use crate::{Ran, Server, netd, ran, virsh};

/// An editor that does `script` to the file named by `$1`.
fn editor(server: &Server, script: &str) -> PathBuf {
    let path = server.file("editor", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn edit(server: &Server, script: &str, words: &[&str]) -> Ran {
    let editor = editor(server, script);
    ran(netd(&server.socket)
        .args(words)
        .env("EDITOR", editor)
        .env_remove("VISUAL")
        .env("TMPDIR", server.dir.path()))
}

fn stored(driver: &Fake) -> String {
    let networks = driver.networks();
    let network = networks.into_iter().find(|n| n.info.uuid == N1).unwrap();
    network.stored.unwrap()
}

fn leftovers(server: &Server) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(server.dir.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "xml"))
        .collect()
}

#[test]
fn an_edit_is_what_virsh_says_it_is() {
    for (script, words) in [
        ("true", &["net-edit", "n1"][..]),
        ("true", &["-q", "net-edit", "n1"]),
        ("true", &["net-edit", "nosuch"]),
        (
            "sed -i 's|</uuid>|</uuid><edited/>|' \"$1\"",
            &["net-edit", "n1"],
        ),
        (
            "sed -i 's|</uuid>|</uuid><edited/>|' \"$1\"",
            &["-q", "net-edit", "n1"],
        ),
    ] {
        let server = Server::start();
        let ours = edit(&server, script, words);
        assert!(leftovers(&server).is_empty(), "{:?}", leftovers(&server));
        let after = server.driver.networks();
        let Some(mut virsh) = virsh(&server.socket) else {
            return;
        };
        server.driver.reset();
        let editor = editor(&server, script);
        let theirs = ran(virsh.args(words).env("EDITOR", editor).env_remove("VISUAL"));
        assert_eq!(ours, theirs, "{script} {words:?} (left is netd's)");
        assert_eq!(after, server.driver.networks(), "{script} {words:?}");
    }
}

#[test]
fn visual_comes_before_editor_and_may_have_arguments() {
    let server = Server::start();
    let output = ran(netd(&server.socket)
        .args(["net-edit", "n1"])
        .env("VISUAL", "sed -i s/<name>/<new\\/><name>/")
        .env("EDITOR", "false"));
    assert_eq!(
        output.stdout, "Network n1 XML configuration edited.\n\n",
        "{output:?}"
    );
    assert!(stored(&server.driver).contains("<new/>"));
}

#[test]
fn a_refused_text_is_kept() {
    let server = Server::start();
    let before = stored(&server.driver);
    let output = edit(&server, "echo '<network' >\"$1\"", &["net-edit", "n1"]);
    assert_eq!(output.code, Some(1));
    assert_eq!(stored(&server.driver), before);
    let kept = leftovers(&server);
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read_to_string(&kept[0]).unwrap(), "<network\n");
    assert_eq!(
        output.stderr,
        format!(
            "error: Failed to define the edited network\n\
             error: (network_definition):1: not well formed\n\
             error: the network was not changed; your text is in {}\n",
            kept[0].display()
        )
    );
}

#[test]
fn somebody_elses_change_is_not_overwritten() {
    let server = Server::start();
    let other = "<network><name>n1</name><uuid>11111111-2222-3333-4444-555555555555</uuid><other/></network>";
    let other_file = server.file("other.txt", other);
    let script = format!(
        "{} --socket {} -q net-define {}; echo '<mine/>' >>\"$1\"",
        env!("CARGO_BIN_EXE_netd"),
        server.socket.display(),
        other_file.display()
    );
    let output = edit(&server, &script, &["net-edit", "n1"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output
            .stderr
            .starts_with("error: The XML configuration was changed by another user.\n"),
        "{output:?}"
    );
    assert_eq!(stored(&server.driver), other);
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let server = Server::start();
    let before = stored(&server.driver);
    let output = edit(&server, "echo x >\"$1\"; exit 3", &["net-edit", "n1"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("exit status: 3"), "{output:?}");
    assert_eq!(stored(&server.driver), before);

    let output = ran(netd(&server.socket)
        .args(["net-edit", "n1"])
        .env_remove("VISUAL")
        .env("EDITOR", "/no/such/editor")
        .env("TMPDIR", server.dir.path()));
    assert!(
        output
            .stderr
            .contains("cannot run the editor /no/such/editor"),
        "{output:?}"
    );
}

#[test]
fn a_refused_text_may_be_edited_again() {
    let server = Server::start();
    // Broken the first time, mended the second.
    let editor = editor(
        &server,
        "if grep -q '^<broken' \"$1\"; then sed -i 's|^<broken|<!-- mended -->\\n</network>|' \"$1\"; \
         else sed -i 's|^</network>|<broken|' \"$1\"; fi",
    );
    // `script` gives the command a terminal and types what it reads.
    let mut command = std::process::Command::new("script");
    if command.arg("--version").output().is_err() {
        eprintln!("SKIPPED: no script(1) on this machine (Debian: bsdutils)");
        return;
    }
    let words = format!(
        "{} --socket {} net-edit n1",
        env!("CARGO_BIN_EXE_netd"),
        server.socket.display()
    );
    let mut child = std::process::Command::new("script")
        .args(["-qec", &words, "/dev/null"])
        .env("EDITOR", editor)
        .env_remove("VISUAL")
        .env("TMPDIR", server.dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"y\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    drop(keys);
    assert!(text.contains("Try again? [y,n,f,?]"), "{text}");
    assert!(text.contains("XML configuration edited."), "{text}");
    assert!(stored(&server.driver).contains("<!-- mended -->"));
}
