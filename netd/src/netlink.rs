//! One question to the kernel by netlink, and its answers. For what is asked seldom, or in places that
//! cannot wait for others' answers; `link` has a connection for the rest.

use std::io;
use std::num::NonZeroU32;

use rtnetlink::packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// netfilter's protocol number (linux/netlink.h).
pub(crate) const NETFILTER: NonZeroU32 = NonZeroU32::new(12).unwrap();

/// Longer than any datagram of the kernel's here.
const DATAGRAM: usize = 64 << 10;

/// An answer that nobody has read yet: where each is read by itself, what one of them says does not keep
/// the others from being read.
pub(crate) struct Unread {
    /// The message's type.
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl NetlinkDeserializable for Unread {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> io::Result<Self> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// Asks in the calling thread's network namespace, with `flags` of which one makes the kernel say
/// when it has finished: `NLM_F_DUMP` or `NLM_F_ACK`. The kernel has put the first answers into the
/// socket before it returns from the sending, and the others as they are read, so nobody waits.
pub(crate) fn ask<Q, A>(protocol: Option<NonZeroU32>, flags: u16, question: Q) -> io::Result<Vec<A>>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    let mut answers = Vec::new();
    ask_each(protocol, flags, question, |answer| answers.push(answer))?;
    Ok(answers)
}

/// The same for what has very many answers: each is handed over as it comes.
pub(crate) fn ask_each<Q, A>(
    protocol: Option<NonZeroU32>,
    flags: u16,
    question: Q,
    mut each: impl FnMut(A),
) -> io::Result<()>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol.map(Protocol::from_raw),
    )?;
    let payload = NetlinkPayload::InnerMessage(question);
    let mut message = NetlinkMessage::new(Default::default(), payload);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut datagram = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        while !datagram.is_empty() {
            let answer = NetlinkMessage::<A>::deserialize(datagram)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => each(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                // The end of a list, or the acknowledgement.
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(()),
                _ => {}
            }
            let length = (answer.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(length..).unwrap_or_default();
        }
    }
}
