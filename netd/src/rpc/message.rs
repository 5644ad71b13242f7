//! Messages on the wire: a length word, a header of six words, a payload.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::rpc::xdr::{self, Decode, Decoder, Encode, XdrError, xdr_struct};

/// libvirt's remote program.
pub const PROGRAM_REMOTE: u32 = 0x2000_8086;
/// The program of keepalive pings ("keep").
pub const PROGRAM_KEEPALIVE: u32 = 0x6b65_6570;
/// netd's own program ("netd"): what libvirt has no call for.
pub const PROGRAM_NETD: u32 = 0x6e65_7464;
/// The one version all three programs have.
pub const VERSION: u32 = 1;

/// Bytes of the length word and the header.
pub const HEADER_LEN: usize = 28;
/// Largest value of the length word.
pub const MESSAGE_MAX: usize = 33_554_432 + 4;

/// A call, client to server.
pub const TYPE_CALL: u32 = 0;
/// The reply to a call.
pub const TYPE_REPLY: u32 = 1;
/// Something nobody asked for: an event, a ping.
pub const TYPE_MESSAGE: u32 = 2;
/// A call whose file descriptors follow the message.
pub const TYPE_CALL_WITH_FDS: u32 = 4;

/// Status of calls and of good replies.
pub const STATUS_OK: u32 = 0;
/// Status of a reply that carries a [`crate::rpc::remote_error::RemoteError`].
pub const STATUS_ERROR: u32 = 1;

/// Keepalive: are you there?
pub const KEEPALIVE_PING: i32 = 1;
/// Keepalive: yes.
pub const KEEPALIVE_PONG: i32 = 2;

xdr_struct! {
    /// What stands before every payload.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Header {
        /// Program number.
        pub program: u32,
        /// Version of the program.
        pub version: u32,
        /// Procedure of the program.
        pub procedure: i32,
        /// One of the `TYPE_` constants, or what a stranger sent.
        pub kind: u32,
        /// The caller's number, copied to the reply.
        pub serial: u32,
        /// One of the `STATUS_` constants, or what a stranger sent.
        pub status: u32,
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// Arguments, result, error or nothing.
    pub payload: Bytes,
}

impl Header {
    /// The header of the reply to this call.
    #[must_use]
    pub fn reply(self, status: u32) -> Self {
        Self {
            kind: TYPE_REPLY,
            status,
            ..self
        }
    }

    /// The header of a ping or pong.
    #[must_use]
    pub fn keepalive(procedure: i32) -> Self {
        Self {
            program: PROGRAM_KEEPALIVE,
            version: VERSION,
            procedure,
            kind: TYPE_MESSAGE,
            serial: 0,
            status: STATUS_OK,
        }
    }
}

impl Message {
    /// A message that carries `value`.
    pub fn new<T: Encode + ?Sized>(header: Header, value: &T) -> xdr::Result<Self> {
        let payload = xdr::to_bytes(value)?;
        let count = HEADER_LEN + payload.len();
        if count > MESSAGE_MAX {
            return Err(XdrError::ListTooLong {
                count,
                max: MESSAGE_MAX,
            });
        }
        Ok(Self { header, payload })
    }

    /// A ping or pong.
    #[must_use]
    pub fn keepalive(procedure: i32) -> Self {
        Self {
            header: Header::keepalive(procedure),
            payload: Bytes::new(),
        }
    }

    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        out.put_u32((HEADER_LEN + self.payload.len()) as u32);
        let Header {
            program,
            version,
            procedure,
            kind,
            serial,
            status,
        } = self.header;
        for word in [program, version, procedure as u32, kind, serial, status] {
            out.put_u32(word);
        }
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// The one whole message in `bytes`, length word included.
    pub fn from_bytes(mut bytes: Bytes) -> io::Result<Self> {
        let actual = bytes.len();
        if actual < HEADER_LEN || bytes.get_u32() as usize != actual {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{actual} bytes are not one message"),
            ));
        }
        let mut decoder = Decoder::new(bytes.clone());
        let header = Header::decode(&mut decoder).map_err(io::Error::other)?;
        Ok(Self {
            header,
            payload: bytes.split_off(HEADER_LEN - 4),
        })
    }
}

/// Cuts a byte stream into messages. [`Reader::next`] may be dropped at any await and called
/// again: nothing is lost.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    buffer: BytesMut,
    budget: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
    patience: Option<Duration>,
    started: Option<Instant>,
}

/// A message read, with its share of the memory budget: the budget gets it back when this is
/// dropped.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Given back when the message is done with.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// Messages up to this size are read without asking the budget, and memory for larger ones grows
/// in steps of this size as bytes arrive.
const STEP: usize = 64 * 1024;

/// Unit of the memory budget in bytes.
pub const BUDGET_UNIT: usize = 1024;

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads messages from `stream`.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            budget: None,
            permit: None,
            patience: None,
            started: None,
        }
    }

    /// Gives up on a message that has not arrived whole this long after its first byte.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Takes the memory for large messages from `budget`, which counts in [`BUDGET_UNIT`].
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<Semaphore>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Bytes held for the message that is arriving.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next message; `None` when the peer closed between two. A length word no message can
    /// have is an error, after which the stream is useless.
    pub async fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            let wanted = match self.announced()? {
                Some(len) if self.buffer.len() >= len => {
                    self.started = None;
                    let bytes = self.buffer.split_to(len).freeze();
                    if len > STEP {
                        // What is left would hold on to the whole allocation.
                        self.buffer = BytesMut::from(&self.buffer[..]);
                    }
                    return Ok(Some(Received {
                        message: Message::from_bytes(bytes)?,
                        permit: self.permit.take(),
                    }));
                }
                Some(len) => {
                    self.reserve_budget(len).await;
                    len - self.buffer.len()
                }
                None => HEADER_LEN,
            };
            self.buffer.reserve(wanted.min(STEP));
            if self.read_some().await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection inside a message",
                ));
            }
        }
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        if !self.buffer.is_empty() {
            self.started.get_or_insert_with(Instant::now);
        }
        let read = self.stream.read_buf(&mut self.buffer);
        let (Some(started), Some(patience)) = (self.started, self.patience) else {
            return read.await;
        };
        timeout_at(started + patience, read)
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("a message did not arrive whole within {patience:?}"),
                ))
            })
    }

    fn announced(&self) -> io::Result<Option<usize>> {
        let Some(word) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*word) as usize;
        if !(HEADER_LEN..=MESSAGE_MAX).contains(&len) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message cannot be {len} bytes long"),
            ));
        }
        Ok(Some(len))
    }

    async fn reserve_budget(&mut self, len: usize) {
        if len <= STEP || self.permit.is_some() {
            return;
        }
        if let Some(budget) = &self.budget {
            let units = len.div_ceil(BUDGET_UNIT) as u32;
            // A closed semaphore means the server is going; the message no longer matters.
            self.permit = Arc::clone(budget).acquire_many_owned(units).await.ok();
            // The peer did not cause the wait.
            self.started = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            program: PROGRAM_REMOTE,
            version: VERSION,
            procedure: 46,
            kind: TYPE_CALL,
            serial: 6,
            status: STATUS_OK,
        }
    }

    #[test]
    fn a_call_has_the_documented_layout() {
        let message = Message::new(header(), "n1").unwrap();
        let mut expected = Vec::new();
        for word in [36, 0x2000_8086, 1, 46, 0, 6, 0, 2] {
            expected.extend_from_slice(&u32::to_be_bytes(word));
        }
        expected.extend_from_slice(b"n1\0\0");
        assert_eq!(message.to_bytes(), expected);
        assert_eq!(Message::from_bytes(expected.into()).unwrap(), message);
    }

    #[test]
    fn a_ping_has_28_bytes_and_serial_0() {
        let mut expected = Vec::new();
        for word in [28, 0x6b65_6570, 1, 1, 2, 0, 0] {
            expected.extend_from_slice(&u32::to_be_bytes(word));
        }
        assert_eq!(Message::keepalive(KEEPALIVE_PING).to_bytes(), expected);
    }

    #[tokio::test]
    async fn messages_are_cut_out_of_any_chunks() {
        let one = Message::new(header(), "one").unwrap();
        let two = Message::new(header(), &()).unwrap();
        let wire = [one.to_bytes(), two.to_bytes()].concat();
        for size in 1..=wire.len() {
            let mut reader = Reader::new(chunks(&wire, size));
            assert_eq!(reader.next().await.unwrap().unwrap().message, one);
            assert_eq!(reader.next().await.unwrap().unwrap().message, two);
            assert!(reader.next().await.unwrap().is_none());
        }
    }

    /// A stream that gives `size` bytes per read.
    fn chunks(bytes: &[u8], size: usize) -> impl AsyncRead + Unpin + use<> {
        struct Chunks(Bytes, usize);
        impl AsyncRead for Chunks {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                out: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let len = self.1.min(self.0.len()).min(out.remaining());
                out.put_slice(&self.0.split_to(len));
                std::task::Poll::Ready(Ok(()))
            }
        }
        Chunks(Bytes::copy_from_slice(bytes), size)
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused() {
        for len in [0_u32, 4, 27, MESSAGE_MAX as u32 + 1, u32::MAX] {
            let wire = [&len.to_be_bytes()[..], &[0; 28]].concat();
            let error = Reader::new(&wire[..]).next().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "length {len}");
        }
    }

    #[tokio::test]
    async fn memory_follows_the_bytes_not_the_promise() {
        let wire = [&(MESSAGE_MAX as u32).to_be_bytes()[..], &[0; 10]].concat();
        let mut reader = Reader::new(&wire[..]);
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(reader.capacity() <= 4 * STEP, "{} bytes", reader.capacity());
    }

    #[tokio::test]
    async fn the_largest_message_is_read() {
        let message = Message {
            header: header(),
            payload: Bytes::from(vec![0; MESSAGE_MAX - HEADER_LEN]),
        };
        let wire = message.to_bytes();
        let budget = Arc::new(Semaphore::new(64 * 1024));
        let mut reader = Reader::new(&wire[..]).with_budget(Arc::clone(&budget));
        let received = reader.next().await.unwrap().unwrap();
        assert_eq!(received.message, message);
        assert!(budget.available_permits() < 64 * 1024 - 32 * 1024);
        drop(received);
        assert!(reader.capacity() <= 4 * STEP, "{} bytes", reader.capacity());
        assert_eq!(budget.available_permits(), 64 * 1024);
    }

    proptest! {
        #[test]
        fn messages_come_back(words in any::<[u32; 5]>(), procedure in any::<i32>(),
                              payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let [program, version, kind, serial, status] = words;
            let message = Message {
                header: Header { program, version, procedure, kind, serial, status },
                payload: payload.into(),
            };
            prop_assert_eq!(Message::from_bytes(message.to_bytes()).unwrap(), message);
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::from_bytes(raw.clone().into());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut reader = Reader::new(&raw[..]);
            while let Ok(Some(_)) = runtime.block_on(reader.next()) {}
        }
    }
}
