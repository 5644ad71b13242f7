//! One of the two that are asked: libvirt's own daemon or netd, each on a host of its own.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::answer::Answers;
use super::document::Document;
use super::invent::{BRIDGES, DEVICES};
use crate::Netns;
use crate::libvirt::{Host, Root};

/// The program that asks, by libvirt's own binding for Python.
const ASK: &str = include_str!("ask.py");
/// Debian's libvirt binding is for the system's Python.
pub const PYTHON: &str = "/usr/bin/python3";
/// On both hosts, so that nothing that is printed tells them apart.
const URI: &str = "network+unix:///system?socket=/run/libvirt/libvirt-sock";

/// What libvirt calls for rates, which it has of kernel modules that not every kernel has. How it holds guests to rates is
/// compared elsewhere.
const TC: &str = "#!/bin/sh\nexit 0\n";

/// Gives a host the devices that definitions name.
///
/// # Errors
/// One of them is there.
pub fn furnish(host: &Netns) -> Result<()> {
    for device in DEVICES {
        let peer = format!("to-{device}");
        host.run(["ip", "link", "add", device, "type", "veth", "peer", &peer])?;
    }
    for bridge in BRIDGES {
        host.run(["ip", "link", "add", bridge, "type", "bridge"])?;
    }
    Ok(())
}

/// Takes them away.
///
/// # Errors
/// One of them is gone.
pub fn clear(host: &Netns) -> Result<()> {
    for device in DEVICES.iter().chain(&BRIDGES) {
        host.run(["ip", "link", "del", *device])?;
    }
    Ok(())
}

/// The program that asks, while it runs.
#[derive(Debug)]
pub struct Asker {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Asker {
    /// Starts it by a command that runs Python, perhaps by a way into a namespace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, uri: &str, folder: &str) -> Result<Self> {
        let mut child = command
            .args(["-c", ASK, uri, folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting the program that asks")?;
        Ok(Self {
            questions: child.stdin.take().context("its input")?,
            answers: BufReader::new(child.stdout.take().context("its output")?).lines(),
            child,
        })
    }

    /// What is answered about a document. Nothing, where whoever is asked is there no more.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn ask(&mut self, document: &Document) -> Result<Option<Answers>> {
        // Where the other end is gone, there is no answer either.
        let _ = writeln!(self.questions, "{}", document.line());
        match self.answers.next() {
            Some(line) => Ok(Some(Answers::read(&line?)?)),
            None => Ok(None),
        }
    }

    /// What it said before it ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn last_words(self) -> Result<String> {
        drop(self.questions);
        let output = self.child.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(format!("{}\n{words}", output.status))
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// libvirt's own daemon.
    Libvirt,
    /// netd.
    Netd,
}

/// A host with one of the two, and who asks it.
#[derive(Debug)]
pub struct Side {
    who: Who,
    host: Host,
    asker: Option<Asker>,
}

impl Side {
    /// A host of Debian sid; none where apt could not be reached to make it.
    ///
    /// # Errors
    /// Not root, or it does not come up.
    pub fn new(who: Who) -> Result<Option<Self>> {
        let Some(mut host) = Host::new(Root::Sid, "host1")? else {
            return Ok(None);
        };
        furnish(&host.hv)?;
        match who {
            Who::Libvirt => {
                // Debian's packages define a network.
                let networks = "/etc/libvirt/qemu/networks";
                let remove = format!("rm -f {networks}/*.xml {networks}/autostart/*");
                host.run(["sh", "-c", &remove])?;
                let tc = host.file("/usr/local/sbin/tc", TC)?;
                host.run(["chmod", "755", tc])?;
                host.libvirtd.start()?;
            }
            Who::Netd => {
                host.start_netd()?;
                host.run(["mkdir", "-p", "/run/libvirt"])?;
                let sockets = ["/run/netd/netd-sock", "/run/libvirt/libvirt-sock"];
                host.run(["ln", "-s", sockets[0], sockets[1]])?;
            }
        }
        Ok(Some(Self {
            who,
            host,
            asker: None,
        }))
    }

    /// What is answered about a document. A daemon that dies of it is started again.
    ///
    /// # Errors
    /// It cannot be asked at all.
    pub fn ask(&mut self, document: &Document) -> Result<Answers> {
        let asker = match &mut self.asker {
            Some(asker) => asker,
            None => {
                let command = self.host.inside().command(PYTHON);
                let folder = match self.who {
                    Who::Libvirt => "/var/lib/libvirt/dnsmasq",
                    Who::Netd => "/var/lib/netd/dnsmasq",
                };
                self.asker.insert(Asker::start(command, URI, folder)?)
            }
        };
        if let Some(answers) = asker.ask(document)? {
            return Ok(answers);
        }
        let words = self.asker.take().map(Asker::last_words).transpose()?;
        self.recover()
            .with_context(|| format!("after document {}", document.number))?;
        Ok(Answers::none(&words.unwrap_or_default()))
    }

    /// Starts a daemon again that died.
    fn recover(&mut self) -> Result<()> {
        let inside = self.host.inside();
        let (service, asked): (_, &[&str]) = match self.who {
            Who::Libvirt => (&mut self.host.libvirtd, &["virsh", "list"]),
            Who::Netd => (&mut self.host.netd, &["/usr/sbin/netd", "net-list"]),
        };
        if inside.run(asked.iter().copied()).is_ok() {
            return Ok(());
        }
        // It may have ended by itself.
        let _ = service.signal("KILL");
        service.wait()?;
        service.start()
    }

    /// What the daemon said.
    #[must_use]
    pub fn log(&self) -> String {
        self.host.logs()
    }

    /// The version of libvirt that this host has.
    ///
    /// # Errors
    /// Its libvirtd does not say.
    pub fn version(&self) -> Result<String> {
        let text = self.host.run(["libvirtd", "--version"])?;
        let version = text.trim().rsplit(' ').next().unwrap_or_default();
        ensure!(!version.is_empty(), "libvirtd says {text:?}");
        Ok(version.to_owned())
    }
}
