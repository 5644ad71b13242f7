//! What somebody does in a conversation, without any address or port in it.

/// One of the two who converse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one who began.
    Opener,
    /// The other one.
    Answerer,
}

impl End {
    /// 0 and 1.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The one at the other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Answerer,
            Self::Answerer => Self::Opener,
        }
    }
}

/// One packet, or the fragments of one.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who sends it.
    pub from: End,
    /// What.
    pub body: Body,
    /// How it is mistreated on the way out.
    pub twist: Twist,
    /// Rounds that go by before it: about thirty make a second.
    pub pause: usize,
    /// A new connection may begin with it, so that the translation may be another one.
    pub fresh: bool,
    /// What is wrong with it in the eyes of a connection tracker.
    pub oddity: Option<Oddity>,
}

impl Step {
    /// Is it sent, or passed on, in fragments?
    #[must_use]
    pub fn may_be_cut(&self) -> bool {
        let whole = self.twist.cut == Cut::Whole;
        !whole || (!self.twist.dont_fragment && self.body.length() > 1200)
    }
}

/// The content of a packet.
#[derive(Clone, Debug)]
pub enum Body {
    /// A segment.
    Tcp {
        /// Control bits.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Bytes of data.
        length: usize,
        /// Window, as it stands in the header.
        window: u16,
        /// Shift count of the window that a SYN offers.
        scale: Option<u8>,
    },
    /// A datagram.
    Udp {
        /// Bytes of data.
        length: usize,
        /// Has it a checksum?
        checksum: bool,
    },
    /// An ICMP query or its answer; its identifier is the conversation's port.
    Echo {
        /// What is asked.
        query: Query,
        /// Is it a reply?
        reply: bool,
        /// Sequence number.
        sequence: u16,
        /// Bytes of data.
        length: usize,
    },
    /// An ICMP error about the last packet that came in here.
    Error {
        /// Which.
        kind: ErrorKind,
        /// How much of the packet it quotes.
        quote: Quote,
        /// Comes it from the router before this end?
        router: bool,
    },
    /// SCTP with one chunk.
    Sctp {
        /// Type of the chunk.
        chunk: u8,
        /// Verification tag.
        tag: u32,
    },
    /// Another protocol, of which only the addresses count.
    Other {
        /// Protocol number.
        protocol: u8,
        /// Bytes after the IP header.
        length: usize,
    },
}

impl Body {
    /// Is it of a connection whose states are followed?
    #[must_use]
    pub fn has_states(&self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Sctp { .. })
    }

    /// Bytes of data.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Tcp { length, .. }
            | Self::Udp { length, .. }
            | Self::Echo { length, .. }
            | Self::Other { length, .. } => *length,
            Self::Error { .. } | Self::Sctp { .. } => 0,
        }
    }
}

/// ICMP queries. IPv6 has echo only, which stands there for the others, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// A ping.
    Echo,
    /// Timestamp.
    Timestamp,
    /// Information.
    Information,
    /// Address mask.
    AddressMask,
}

/// ICMP errors, by what they mean in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No route to the host.
    HostUnreachable,
    /// Nobody listens.
    PortUnreachable,
    /// Larger than the next hop's MTU.
    TooBig,
    /// TTL or hop limit used up.
    TimeExceeded,
    /// A header field is wrong.
    ParameterProblem,
}

/// What an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// As much as there is, within 548 bytes.
    Full,
    /// The IP header and 8 bytes.
    Eight,
    /// A packet of a flow that does not exist.
    Unknown,
    /// Fewer bytes than the ports need.
    Short,
}

/// How a packet is mistreated.
#[derive(Clone, Debug)]
pub struct Twist {
    /// TTL or hop limit.
    pub ttl: u8,
    /// DF.
    pub dont_fragment: bool,
    /// IP options, or extension headers.
    pub options: Options,
    /// Is the IP header's checksum wrong?
    pub bad_header: bool,
    /// Is the transport's checksum wrong?
    pub bad_checksum: bool,
    /// In how many fragments it is sent, and in which order.
    pub cut: Cut,
}

impl Default for Twist {
    fn default() -> Self {
        Self {
            ttl: 64,
            dont_fragment: true,
            options: Options::None,
            bad_header: false,
            bad_checksum: false,
            cut: Cut::Whole,
        }
    }
}

/// Options of the IPv4 header, and what comes nearest among IPv6's extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Options {
    /// None.
    None,
    /// Such as say nothing; in IPv6 hop-by-hop options.
    Nothing,
    /// Room for two routers to write their addresses; in IPv6 destination options that say
    /// nothing, behind hop-by-hop options.
    RecordRoute,
    /// Router alert; in IPv6 destination options.
    RouterAlert,
}

/// How a packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// Into so many fragments, sent in order.
    InOrder(usize),
    /// Into so many fragments, sent last first.
    Reversed(usize),
}

/// Why a connection tracker may have its doubts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// The checksum is wrong.
    Checksum,
    /// TCP: the numbers lie outside the window.
    OutOfWindow,
    /// It belongs to no connection, and cannot begin one.
    Stray,
    /// TCP: the control bits make no sense in the connection's state.
    WrongState,
}

/// TCP's control bits.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;
}
