//! Dumps of netlink protocols other than rtnetlink, one after the other.

use std::io;
use std::num::NonZeroU32;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Longer than any datagram of the kernel's here.
const DATAGRAM: usize = 64 << 10;

/// What the calling thread's network namespace has of something. The kernel has put the first answers
/// into the socket before it returns from the sending, and the others as they are read, so nobody waits.
pub(super) fn objects<M>(protocol: NonZeroU32, question: M) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::Protocol::from_raw(protocol)),
    )?;
    let payload = NetlinkPayload::InnerMessage(question);
    let mut message = NetlinkMessage::new(Default::default(), payload);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut objects = Vec::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut datagram = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        while !datagram.is_empty() {
            let answer = NetlinkMessage::<M>::deserialize(datagram)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(objects),
                _ => {}
            }
            let length = (answer.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(length..).unwrap_or_default();
        }
    }
}
