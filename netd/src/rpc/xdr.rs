//! XDR (RFC 4506), the part libvirt's protocol uses, with a bound on everything a peer can size.
//!
//! Types implement [`Encode`] and [`Decode`]; `xdr_struct!` does so for a record of such types.
//! Decoding allocates for what arrived, never for what a length word promises. Encoding cannot
//! fail halfway: a value beyond its bound is remembered and reported by [`Encoder::finish`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Longest string in bytes.
pub const STRING_MAX: usize = 4 * 1024 * 1024;

/// Why a value could not be decoded or encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The bytes end inside a value.
    #[error("{wanted} more bytes expected where {left} are left")]
    Short {
        /// Bytes the value needs.
        wanted: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A string beyond [`STRING_MAX`].
    #[error("a string of {0} bytes is longer than {STRING_MAX}")]
    StringTooLong(usize),
    /// A list beyond its bound.
    #[error("a list of {count} elements is longer than {max}")]
    ListTooLong {
        /// Elements announced.
        count: usize,
        /// Elements allowed.
        max: usize,
    },
    /// A string no client library can hold: not UTF-8, or with a NUL inside.
    #[error("a string is not UTF-8 text without NUL")]
    BadString,
    /// A tag no arm of a union has.
    #[error("a union has the unknown tag {0}")]
    BadTag(i32),
}

/// Result of decoding or encoding.
pub type Result<T> = std::result::Result<T, XdrError>;

/// Collects the bytes of a message's payload.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: BytesMut,
    error: Option<XdrError>,
}

/// Reads values off a message's payload.
#[derive(Clone, Debug)]
pub struct Decoder {
    bytes: Bytes,
}

/// A type that can be written as XDR.
pub trait Encode {
    /// Appends the value.
    fn encode(&self, out: &mut Encoder);
}

/// A type that can be read from XDR.
pub trait Decode: Sized {
    /// Takes a value off the front.
    fn decode(from: &mut Decoder) -> Result<Self>;
}

impl Encoder {
    /// An empty payload.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The payload, unless a value was beyond its bound.
    pub fn finish(self) -> Result<Bytes> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.bytes.freeze()),
        }
    }

    fn fail(&mut self, error: XdrError) {
        self.error.get_or_insert(error);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.bytes.put_slice(bytes);
        self.bytes.put_bytes(0, padding(bytes.len()));
    }
}

impl Decoder {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn need(&self, wanted: usize) -> Result<()> {
        let left = self.bytes.len();
        if left < wanted {
            return Err(XdrError::Short { wanted, left });
        }
        Ok(())
    }

    fn octets<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.need(N)?;
        let mut octets = [0; N];
        self.bytes.copy_to_slice(&mut octets);
        Ok(octets)
    }

    fn word(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.bytes.get_u32())
    }
}

/// Encodes one value.
pub fn to_bytes<T: Encode + ?Sized>(value: &T) -> Result<Bytes> {
    let mut out = Encoder::new();
    value.encode(&mut out);
    out.finish()
}

/// Decodes one value; bytes behind it are ignored, as libvirt's own server does.
pub fn from_bytes<T: Decode>(bytes: Bytes) -> Result<T> {
    T::decode(&mut Decoder::new(bytes))
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

macro_rules! number {
    ($type:ty, $size:expr, $put:ident, $get:ident) => {
        impl Encode for $type {
            fn encode(&self, out: &mut Encoder) {
                out.bytes.$put(*self);
            }
        }
        impl Decode for $type {
            fn decode(from: &mut Decoder) -> Result<Self> {
                from.need($size)?;
                Ok(from.bytes.$get())
            }
        }
    };
}

number!(i32, 4, put_i32, get_i32);
number!(u32, 4, put_u32, get_u32);
number!(i64, 8, put_i64, get_i64);
number!(u64, 8, put_u64, get_u64);
number!(f64, 8, put_f64, get_f64);

impl Encode for () {
    fn encode(&self, _out: &mut Encoder) {}
}

impl Decode for () {
    fn decode(_from: &mut Decoder) -> Result<Self> {
        Ok(())
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Encoder) {
        if self.len() > STRING_MAX {
            return out.fail(XdrError::StringTooLong(self.len()));
        }
        out.bytes.put_u32(self.len() as u32);
        out.padded(self.as_bytes());
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Encoder) {
        self.as_str().encode(out);
    }
}

impl Decode for String {
    fn decode(from: &mut Decoder) -> Result<Self> {
        let len = from.word()? as usize;
        if len > STRING_MAX {
            return Err(XdrError::StringTooLong(len));
        }
        from.need(len + padding(len))?;
        let bytes = from.bytes.split_to(len);
        from.bytes.advance(padding(len));
        match std::str::from_utf8(&bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(XdrError::BadString),
        }
    }
}

impl Encode for Uuid {
    fn encode(&self, out: &mut Encoder) {
        out.bytes.put_slice(self.as_bytes());
    }
}

impl Decode for Uuid {
    fn decode(from: &mut Decoder) -> Result<Self> {
        from.octets().map(Self::from_bytes)
    }
}

/// The length of the address and the port in a word, then the address.
impl Encode for SocketAddr {
    fn encode(&self, out: &mut Encoder) {
        let mut head = |length: u32| out.bytes.put_u32(length << 16 | u32::from(self.port()));
        match self.ip() {
            IpAddr::V4(address) => {
                head(4);
                out.bytes.put_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                head(16);
                out.bytes.put_slice(&address.octets());
            }
        }
    }
}

impl Decode for SocketAddr {
    fn decode(from: &mut Decoder) -> Result<Self> {
        let head = from.word()?;
        let port = (head & 0xffff) as u16;
        match head >> 16 {
            4 => Ok(Self::new(Ipv4Addr::from(from.octets()?).into(), port)),
            16 => Ok(Self::new(Ipv6Addr::from(from.octets()?).into(), port)),
            _ => Err(XdrError::BadTag(head.cast_signed())),
        }
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Encoder) {
        out.bytes.put_u32(u32::from(self.is_some()));
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(from: &mut Decoder) -> Result<Self> {
        // RFC 4506 has 1 alone for "it follows", but libvirt's own decoder takes any word except 0,
        // and clients rely on it: go-libvirt sends 0x01000000.
        match from.word()? {
            0 => Ok(None),
            _ => T::decode(from).map(Some),
        }
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(from: &mut Decoder) -> Result<Self> {
        Ok((A::decode(from)?, B::decode(from)?))
    }
}

/// A counted array of at most `MAX` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Encode, const MAX: usize> Encode for List<T, MAX> {
    fn encode(&self, out: &mut Encoder) {
        let count = self.0.len();
        if count > MAX {
            return out.fail(XdrError::ListTooLong { count, max: MAX });
        }
        out.bytes.put_u32(count as u32);
        for element in &self.0 {
            element.encode(out);
        }
    }
}

impl<T: Decode, const MAX: usize> Decode for List<T, MAX> {
    fn decode(from: &mut Decoder) -> Result<Self> {
        let count = from.word()? as usize;
        if count > MAX {
            return Err(XdrError::ListTooLong { count, max: MAX });
        }
        // Every element has at least one word, so more than that many cannot follow.
        let mut elements = Vec::with_capacity(count.min(from.remaining() / 4));
        for _ in 0..count {
            elements.push(T::decode(from)?);
        }
        Ok(Self(elements))
    }
}

/// Declares a record and its XDR form: the fields in order.
macro_rules! xdr_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }

        impl $crate::rpc::xdr::Encode for $name {
            fn encode(&self, out: &mut $crate::rpc::xdr::Encoder) {
                let Self { $($field),* } = self;
                $($crate::rpc::xdr::Encode::encode($field, out);)*
            }
        }

        impl $crate::rpc::xdr::Decode for $name {
            fn decode(from: &mut $crate::rpc::xdr::Decoder) -> $crate::rpc::xdr::Result<Self> {
                Ok(Self { $($field: <$type as $crate::rpc::xdr::Decode>::decode(from)?,)* })
            }
        }
    };
}
pub(crate) use xdr_struct;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(words: &[u32]) -> Bytes {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn a_string_is_padded_to_words() {
        assert_eq!(&to_bytes("n1").unwrap()[..], b"\0\0\0\x02n1\0\0");
        assert_eq!(&to_bytes("").unwrap()[..], b"\0\0\0\0");
        assert_eq!(&to_bytes("abcd").unwrap()[..], b"\0\0\0\x04abcd");
        let decoded: String = from_bytes(Bytes::from_static(b"\0\0\0\x02n1\0\0")).unwrap();
        assert_eq!(decoded, "n1");
    }

    #[test]
    fn numbers_are_big_endian() {
        assert_eq!(&to_bytes(&-2_i32).unwrap()[..], b"\xff\xff\xff\xfe");
        assert_eq!(&to_bytes(&1_u64).unwrap()[..], b"\0\0\0\0\0\0\0\x01");
        assert_eq!(&to_bytes(&1.5_f64).unwrap()[..], b"\x3f\xf8\0\0\0\0\0\0");
    }

    #[test]
    fn an_end_is_an_address_and_a_port() {
        let cases = [
            ("10.0.0.2:80", 8),
            ("[2001:db8::1]:65535", 20),
            ("0.0.0.0:0", 8),
            ("[::]:0", 20),
        ];
        for (text, length) in cases {
            let end: SocketAddr = text.parse().unwrap();
            let encoded = to_bytes(&end).unwrap();
            assert_eq!(encoded.len(), length, "{text}");
            assert_eq!(from_bytes(encoded), Ok(end), "{text}");
        }
        let end = bytes(&[5 << 16, 0, 0, 0, 0]);
        assert_eq!(
            from_bytes::<SocketAddr>(end),
            Err(XdrError::BadTag(5 << 16))
        );
        let end = bytes(&[16 << 16, 0, 0, 0]);
        from_bytes::<SocketAddr>(end).unwrap_err();
    }

    #[test]
    fn an_absent_value_is_one_zero_word() {
        assert_eq!(to_bytes(&None::<String>).unwrap(), bytes(&[0]));
        assert_eq!(to_bytes(&Some(7_u32)).unwrap(), bytes(&[1, 7]));
    }

    #[test]
    fn any_word_but_zero_says_that_a_value_follows() {
        for flag in [1, 2, 0x0100_0000, 0x8000_0000, u32::MAX] {
            assert_eq!(
                from_bytes::<Option<u32>>(bytes(&[flag, 7])),
                Ok(Some(7)),
                "{flag:#x}"
            );
        }
        assert_eq!(from_bytes::<Option<u32>>(bytes(&[0, 7])), Ok(None));
    }

    #[test]
    fn promised_sizes_are_refused_before_they_are_allocated() {
        assert_eq!(
            from_bytes::<String>(bytes(&[u32::MAX])),
            Err(XdrError::StringTooLong(u32::MAX as usize))
        );
        assert_eq!(
            from_bytes::<String>(bytes(&[STRING_MAX as u32, 0])),
            Err(XdrError::Short {
                wanted: STRING_MAX,
                left: 4
            })
        );
        assert_eq!(
            from_bytes::<List<u32, 5>>(bytes(&[6])),
            Err(XdrError::ListTooLong { count: 6, max: 5 })
        );
        assert_eq!(
            from_bytes::<List<u32, { usize::MAX }>>(bytes(&[u32::MAX, 1, 2])),
            Err(XdrError::Short { wanted: 4, left: 0 })
        );
    }

    #[test]
    fn a_value_beyond_its_bound_is_not_sent() {
        let long = "x".repeat(STRING_MAX + 1);
        assert_eq!(
            to_bytes(long.as_str()),
            Err(XdrError::StringTooLong(STRING_MAX + 1))
        );
        assert_eq!(
            to_bytes(&List::<u32, 1>(vec![1, 2])),
            Err(XdrError::ListTooLong { count: 2, max: 1 })
        );
    }

    #[test]
    fn text_that_c_cannot_hold_is_refused() {
        assert_eq!(
            from_bytes::<String>(Bytes::from_static(b"\0\0\0\x01\xff\0\0\0")),
            Err(XdrError::BadString)
        );
        assert_eq!(
            from_bytes::<String>(Bytes::from_static(b"\0\0\0\x02a\0\0\0")),
            Err(XdrError::BadString)
        );
    }

    proptest! {
        #[test]
        fn strings_come_back(text in "[^\0]{0,200}") {
            let encoded = to_bytes(text.as_str()).unwrap();
            prop_assert_eq!(encoded.len() % 4, 0);
            prop_assert_eq!(from_bytes::<String>(encoded).unwrap(), text);
        }

        #[test]
        fn records_come_back(list in prop::collection::vec(any::<Option<u64>>(), 0..40)) {
            let list = List::<_, 40>(list);
            prop_assert_eq!(from_bytes::<List<Option<u64>, 40>>(to_bytes(&list).unwrap()).unwrap(), list);
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
            let raw = Bytes::from(raw);
            let _ = from_bytes::<List<String, 1000>>(raw.clone());
            let _ = from_bytes::<Option<Uuid>>(raw.clone());
            let _ = from_bytes::<List<Option<f64>, { usize::MAX }>>(raw);
        }
    }
}
