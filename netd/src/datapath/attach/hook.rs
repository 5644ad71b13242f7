//! What programs are attached to.

use std::fmt;

/// One program at one side of one kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// A port of a managed bridge, ingress.
    PortIngress,
    /// The host's end of the link to a network's services, ingress.
    ServicesIngress,
    /// The end of a network's shaper, ingress.
    ShaperIngress,
    /// A managed bridge, ingress.
    BridgeIngress,
    /// A managed bridge, egress.
    BridgeEgress,
    /// Any other device with Ethernet frames, ingress.
    UplinkIngress,
    /// Any other device with Ethernet frames, egress.
    UplinkEgress,
    /// A device without link-layer header, ingress.
    TunnelIngress,
    /// A device without link-layer header, egress.
    TunnelEgress,
    /// A port of a managed bridge, in its driver.
    PortXdp,
    /// Any other device with Ethernet frames, in its driver.
    UplinkXdp,
}

/// Where at a device a program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Traffic control, what comes in.
    Ingress,
    /// Traffic control, what goes out.
    Egress,
    /// The driver.
    Xdp,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::PortIngress,
        Self::ServicesIngress,
        Self::ShaperIngress,
        Self::BridgeIngress,
        Self::BridgeEgress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::TunnelIngress,
        Self::TunnelEgress,
        Self::PortXdp,
        Self::UplinkXdp,
    ];

    /// Name of the program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::PortIngress => "port_ingress",
            Self::ServicesIngress => "services_ingress",
            Self::ShaperIngress => "shaper_ingress",
            Self::BridgeIngress => "bridge_ingress",
            Self::BridgeEgress => "bridge_egress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::TunnelIngress => "tunnel_ingress",
            Self::TunnelEgress => "tunnel_egress",
            Self::PortXdp => "port_xdp",
            Self::UplinkXdp => "uplink_xdp",
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn point(self) -> Point {
        match self {
            Self::PortIngress
            | Self::ServicesIngress
            | Self::ShaperIngress
            | Self::BridgeIngress
            | Self::UplinkIngress
            | Self::TunnelIngress => Point::Ingress,
            Self::BridgeEgress | Self::UplinkEgress | Self::TunnelEgress => Point::Egress,
            Self::PortXdp | Self::UplinkXdp => Point::Xdp,
        }
    }

    /// Does it do nothing that another hook would not do?
    #[must_use]
    pub fn is_optional(self) -> bool {
        self.point() == Point::Xdp
    }

    /// The hook whose program has that name.
    #[must_use]
    pub fn from_program(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| {
            let program = hook.program();
            name == program || program.len() > KERNEL_NAME && name == &program[..KERNEL_NAME]
        })
    }
}

/// How much of a program's name the kernel keeps (`BPF_OBJ_NAME_LEN`, less the zero at its end).
const KERNEL_NAME: usize = 15;

/// A hook of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The device.
    pub ifindex: u32,
    /// The hook.
    pub hook: Hook,
}

impl Attachment {
    /// What a program's name stands for at a device; `None` for programs that are not netd's.
    pub(super) fn of(ifindex: u32, program: &str) -> Option<Self> {
        let hook = Hook::from_program(program)?;
        Some(Self { ifindex, hook })
    }

    /// What [`fmt::Display`] wrote; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (ifindex, program) = text.split_once('-')?;
        Self::of(ifindex.parse().ok()?, program)
    }
}

/// As pins are named: the device's number and the program.
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ifindex, self.hook.program())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_read_as_they_are_written() {
        for hook in Hook::ALL {
            let attachment = Attachment { ifindex: 70, hook };
            assert_eq!(Attachment::parse(&attachment.to_string()), Some(attachment));
        }
        // As the kernel tells of the longest one.
        assert_eq!(
            Attachment::of(70, "services_ingres").map(|at| at.hook),
            Some(Hook::ServicesIngress)
        );
        for other in [
            "",
            "7",
            "7-",
            "x-port_xdp",
            "7-port_xdp-new",
            "sockets-connect4",
        ] {
            assert_eq!(Attachment::parse(other), None, "{other}");
        }
    }
}
