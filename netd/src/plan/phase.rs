//! The order of steps.

use uuid::Uuid;

/// When a step is done. Every phase is compared anew with what the host has by then, so that what a
/// step could not do keeps those from being done that build upon it. The order is what makes each
/// moment in between safe, whoever dies in it:
///
/// - The record of an active network is on disk before anything of it is made, and goes after
///   everything of it has gone: an agent that starts finds it, and finishes.
/// - dnsmasq runs only while its bridge does, and in the namespace of its network's services, which is
///   there before anything is sent there, and goes after it.
/// - A bridge is made, and gets its addresses, switched off. It is switched on, and gets back its
///   ports, once its programs are attached and its records written: no guest sends a packet before its
///   network's policy is in force, and none at all where a step of those failed.
/// - Programs are attached before there are records that lead packets to their devices, and
///   detached after those have gone: no packet leaves by a device that nobody guards.
/// - Where guests are is forgotten before flows look again, which they do once the maps changed.
/// - Devices listen to solicitations, and the host's sockets are looked at, once the maps say what
///   for.
/// - Queues are there before records lead packets to them, and go after that: the kernel drops what a device
///   sends in the moment in which it gets another queue.
/// - The host forwards once all that is guarded. What it did before is on disk first.
/// - The ports of a bridge are written down once they are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Records of networks that are to run.
    Note,
    /// The end of dnsmasqs.
    EndService,
    /// Bridges, their attributes and addresses.
    Bridges,
    /// Namespaces of services.
    Namespaces,
    /// Devices in whose queues guests' packets wait.
    Shapers,
    /// Rates that devices are held to.
    Shapes,
    /// Programs to attach.
    Attach,
    /// Maps.
    Records,
    /// Solicitations.
    Proxies,
    /// The programs of the host's own sockets.
    Sockets,
    /// Programs to detach.
    Detach,
    /// Queues, and devices that were there for them, that are needed no more.
    Unshape,
    /// Bridges on, with routes and ports.
    Up,
    /// Forwarding.
    Forwarding,
    /// Ports: STP and isolation.
    Ports,
    /// Notes of bridges and their ports.
    NotePorts,
    /// dnsmasq.
    Serve,
    /// Records of networks of which nothing is left.
    Forget,
}

impl Phase {
    /// All of them, in order.
    const ALL: [Self; 18] = [
        Self::Note,
        Self::EndService,
        Self::Bridges,
        Self::Namespaces,
        Self::Shapers,
        Self::Shapes,
        Self::Attach,
        Self::Records,
        Self::Proxies,
        Self::Sockets,
        Self::Detach,
        Self::Unshape,
        Self::Up,
        Self::Forwarding,
        Self::Ports,
        Self::NotePorts,
        Self::Serve,
        Self::Forget,
    ];

    /// Are devices, addresses or routes other ones afterwards?
    #[must_use]
    pub fn changes_links(self) -> bool {
        matches!(
            self,
            Self::EndService
                | Self::Bridges
                | Self::Namespaces
                | Self::Shapers
                | Self::Unshape
                | Self::Up
                | Self::Ports
        )
    }

    /// Does a network whose steps failed here lack its policy, so that no guest may use it?
    #[must_use]
    pub fn guards(self) -> bool {
        (Self::Bridges..=Self::Records).contains(&self)
            && !matches!(self, Self::Shapers | Self::Shapes)
    }

    /// Are its steps done at the same time? They are waiting, mostly.
    #[must_use]
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Namespaces | Self::Serve)
    }

    /// Does a step that failed end those of its network in this phase? They build upon each other.
    #[must_use]
    pub fn is_chain(self) -> bool {
        matches!(self, Self::Bridges | Self::Records)
    }
}

/// How much of the host is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    #[default]
    Host,
    /// The record and the dnsmasq of one network, which goes on having one: nothing else depends on
    /// what changed.
    Service(Uuid),
    /// All of it, and of programs and maps nothing is to be left.
    Teardown,
}

impl Scope {
    /// The phases to go through.
    #[must_use]
    pub fn phases(self) -> &'static [Phase] {
        match self {
            Self::Host | Self::Teardown => &Phase::ALL,
            Self::Service(_) => &[Phase::Note, Phase::EndService, Phase::Serve],
        }
    }
}
