//! One question to the kernel by netlink, and its answers. For what is asked seldom, or in places that
//! cannot wait for others' answers; `link` has a connection for the rest.

use std::io;
use std::num::NonZeroU32;

use rtnetlink::packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Longer than any datagram of the kernel's here.
const DATAGRAM: usize = 64 << 10;

/// Asks in the calling thread's network namespace, with `flags` of which one makes the kernel say
/// when it has finished: `NLM_F_DUMP` or `NLM_F_ACK`. The kernel has put the first answers into the
/// socket before it returns from the sending, and the others as they are read, so nobody waits.
pub(crate) fn ask<Q, A>(protocol: Option<NonZeroU32>, flags: u16, question: Q) -> io::Result<Vec<A>>
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
    let mut answers = Vec::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut datagram = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        while !datagram.is_empty() {
            let answer = NetlinkMessage::<A>::deserialize(datagram)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => answers.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                // The end of a list, or the acknowledgement.
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(answers),
                _ => {}
            }
            let length = (answer.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(length..).unwrap_or_default();
        }
    }
}
