//! A client that sends what it is told to, and what it expects.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use netd::rpc::Limits;
use netd::rpc::message::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, Message, PROGRAM_NETD, PROGRAM_REMOTE, STATUS_ERROR,
    STATUS_OK, TYPE_CALL, TYPE_REPLY,
};
use netd::rpc::procedures::{NetworkRef, OpenArgs};
use netd::rpc::reader::Reader;
use netd::rpc::remote_error::RemoteError;
use netd::rpc::xdr::{Encode, from_bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::Server;
use crate::fake::N1;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A client without manners.
pub struct Raw {
    pub reader: Reader<OwnedReadHalf>,
    pub writer: OwnedWriteHalf,
    pub serial: u32,
}

impl Raw {
    pub async fn connect(socket: &Path) -> Self {
        let (reader, writer) = UnixStream::connect(socket).await.unwrap().into_split();
        Self {
            reader: Reader::new(reader),
            writer,
            serial: 0,
        }
    }

    pub async fn open(socket: &Path) -> Self {
        let mut raw = Self::connect(socket).await;
        raw.ok(1, &open_args("network:///system", 0)).await;
        raw
    }

    pub fn header(&mut self, procedure: i32) -> Header {
        self.serial += 1;
        Header {
            program: PROGRAM_REMOTE,
            version: 1,
            procedure,
            kind: TYPE_CALL,
            serial: self.serial,
            status: STATUS_OK,
        }
    }

    /// A header for a call of netd's own.
    pub fn own_header(&mut self, procedure: i32) -> Header {
        Header {
            program: PROGRAM_NETD,
            ..self.header(procedure)
        }
    }

    pub async fn send(&mut self, message: &Message) {
        self.writer.write_all(&message.to_bytes()).await.unwrap();
    }

    /// The next message; `None` when the server closed the connection.
    pub async fn next(&mut self) -> Option<Message> {
        match tokio::time::timeout(PATIENCE, self.reader.next())
            .await
            .unwrap()
        {
            Ok(received) => received.map(|received| received.message),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next message but for pings, which are answered.
    pub async fn next_but_pings(&mut self) -> Message {
        loop {
            let message = self.next().await.unwrap();
            if message != Message::keepalive(KEEPALIVE_PING) {
                return message;
            }
            self.send(&Message::keepalive(KEEPALIVE_PONG)).await;
        }
    }

    pub async fn call(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> Message {
        let header = self.header(procedure);
        self.send(&Message::new(header, args).unwrap()).await;
        let reply = self.next().await.unwrap();
        assert_eq!(
            (reply.header.kind, reply.header.serial),
            (TYPE_REPLY, header.serial)
        );
        assert_eq!(reply.header.procedure, procedure);
        reply
    }

    pub async fn ok(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> Bytes {
        let reply = self.call(procedure, args).await;
        assert_eq!(reply.header.status, STATUS_OK, "{:?}", error(&reply));
        reply.payload
    }

    pub async fn fails(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> RemoteError {
        error(&self.call(procedure, args).await)
    }

    /// Sends a message and expects an error that copies its header.
    pub async fn refused(&mut self, message: &Message) -> RemoteError {
        self.send(message).await;
        let reply = self.next().await.unwrap();
        assert_eq!(reply.header, message.header.reply(STATUS_ERROR));
        error(&reply)
    }
}

pub fn error(reply: &Message) -> RemoteError {
    from_bytes(reply.payload.clone()).unwrap()
}

pub fn open_args(name: &str, flags: u32) -> OpenArgs {
    OpenArgs {
        name: Some(name.into()),
        flags,
    }
}

pub fn n1() -> NetworkRef {
    NetworkRef {
        name: "an old name".into(),
        uuid: N1,
    }
}

pub fn numbers(error: &RemoteError) -> (i32, i32) {
    (error.code, error.domain)
}

/// Runs `test` against a server with these limits.
pub fn against<F: Future<Output = ()>>(limits: Limits, test: impl FnOnce(std::path::PathBuf) -> F) {
    let server = Server::with_limits(limits);
    let socket = server.socket.clone();
    server.runtime.block_on(test(socket));
}

/// A network whose start takes until the test lets it end ([`crate::slow::SlowStarts::let_end`]).
pub fn slow() -> NetworkRef {
    NetworkRef {
        name: "slow".into(),
        uuid: uuid::Uuid::from_u128(9),
    }
}
