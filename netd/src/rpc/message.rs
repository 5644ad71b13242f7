//! Messages on the wire: a length word, a header of six words, a payload.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

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

    /// A call of libvirt's remote program, for tests.
    #[cfg(test)]
    pub(super) fn of_call(procedure: i32) -> Self {
        Self {
            program: PROGRAM_REMOTE,
            version: VERSION,
            procedure,
            kind: TYPE_CALL,
            serial: 6,
            status: STATUS_OK,
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
        let mut out = BytesMut::with_capacity(self.len());
        out.put_slice(&self.head());
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// How many bytes are sent.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a message has a header at least"
    )]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// The bytes to send in front of the payload: length word and header.
    #[must_use]
    pub fn head(&self) -> [u8; HEADER_LEN] {
        let mut head = [0; HEADER_LEN];
        let mut out = &mut head[..];
        out.put_u32(self.len() as u32);
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
        head
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_has_the_documented_layout() {
        let message = Message::new(Header::of_call(46), "n1").unwrap();
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
        let ping = Message::keepalive(KEEPALIVE_PING);
        assert_eq!(ping.to_bytes(), expected);
        assert_eq!(ping.head()[..], expected);
        assert_eq!(ping.len(), expected.len());
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
            let _ = Message::from_bytes(raw.into());
        }
    }
}
