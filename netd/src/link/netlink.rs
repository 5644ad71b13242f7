//! The request socket: one message or one batch out, acknowledgements or a dump back.

use std::io;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{SocketAddr, protocols::NETLINK_ROUTE};

/// How often a dump that changed under our feet is repeated before giving up.
const DUMP_ATTEMPTS: usize = 16;

/// The kernel's end of every request.
const KERNEL: (u32, u32) = (0, 0);

/// A connection to the kernel's rtnetlink; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Requests(ConnectionHandle<RouteNetlinkMessage>);

impl Requests {
    /// Opens the socket and leaves a task behind that serves it for as long as a clone lives.
    pub(super) fn connect() -> io::Result<Self> {
        let (mut connection, handle, _unsolicited) =
            rtnetlink::proto::new_connection::<RouteNetlinkMessage>(NETLINK_ROUTE)?;
        // Without these an answer and a connection that broke look the same: a stream that ends.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut answers = self.batch(vec![(message, flags)]).await?;
        answers.pop().unwrap_or_else(|| Err(closed()))
    }

    /// Sends requests in one datagram, which the kernel works through in order within the one
    /// system call, going on after a request that fails. Returns one answer per request.
    pub(super) async fn batch(
        &self,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let count = requests.len();
        let messages = requests.into_iter().map(|(message, flags)| {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            message
        });
        let (port, groups) = KERNEL;
        let mut stream = self
            .0
            .request_batch(messages, SocketAddr::new(port, groups))
            .map_err(|_| closed())?;
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            match stream.next().await {
                Some(message) => {
                    if let NetlinkPayload::Error(answer) = message.payload {
                        answers.push(match answer.code {
                            None => Ok(()),
                            Some(_) => Err(answer.to_io()),
                        });
                    }
                }
                None => return Err(closed()),
            }
        }
        Ok(answers)
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<RouteNetlinkMessage> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        let (port, groups) = KERNEL;
        let mut stream = self
            .0
            .request(request, SocketAddr::new(port, groups))
            .map_err(|_| closed())?;
        while let Some(message) = stream.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(object) => return Ok(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Err(closed())
    }

    /// Lists objects. A list that changed while it was read may lack some, so it is read again.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.dump_once(message.clone()).await? {
                return Ok(objects);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the list keeps changing while it is read",
        ))
    }

    /// One attempt; `None` when the list changed meanwhile.
    async fn dump_once(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let (port, groups) = KERNEL;
        let mut stream = self
            .0
            .request(request, SocketAddr::new(port, groups))
            .map_err(|_| closed())?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        while let Some(message) = stream.next().await {
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(objects)),
                _ => {}
            }
        }
        Err(closed())
    }
}

fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the connection to the kernel's rtnetlink is closed",
    )
}
