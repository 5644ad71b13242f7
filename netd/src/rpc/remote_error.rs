//! The error of a reply, as libvirt's clients take it apart.

use uuid::Uuid;

use crate::api::{ApiError, ErrorCode};
use crate::rpc::xdr::{self, Decode, Decoder, Encode, Encoder};

/// Level of an error, as opposed to a warning.
pub const LEVEL_ERROR: i32 = 2;

/// The payload of a reply with status [`crate::rpc::message::STATUS_ERROR`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteError {
    /// libvirt's number, see [`ErrorCode`].
    pub code: i32,
    /// Which part of libvirt speaks.
    pub domain: i32,
    /// The complete text for the user.
    pub message: Option<String>,
    /// [`LEVEL_ERROR`].
    pub level: i32,
    /// Template of the text, or the function that an argument of is wrong.
    pub str1: Option<String>,
    /// The detail put into the template, or the argument's name.
    pub str2: Option<String>,
    /// Unused.
    pub str3: Option<String>,
    /// 0 where an argument is wrong, else -1.
    pub int1: i32,
    /// The same.
    pub int2: i32,
}

impl RemoteError {
    /// A fault of the protocol: code 39, domain 7.
    pub fn rpc(message: impl Into<String>) -> Self {
        ApiError::verbatim(ErrorCode::Rpc, message).into()
    }

    /// The same with more behind its text.
    #[must_use]
    pub fn append(mut self, more: &str) -> Self {
        for text in self.message.iter_mut().chain(&mut self.str2) {
            text.push_str(more);
        }
        self
    }

    /// The text, or what stands for a missing one.
    #[must_use]
    pub fn text(&self) -> &str {
        self.message.as_deref().unwrap_or("unknown error")
    }
}

impl From<ApiError> for RemoteError {
    /// An error as libvirt's own server fills it in.
    fn from(error: ApiError) -> Self {
        let ApiError {
            code,
            domain,
            message,
            argument,
        } = error;
        let (prefix, suffix) = (code.prefix(), code.suffix());
        let detail = message.strip_prefix(prefix);
        let detail = detail.and_then(|detail| detail.strip_suffix(suffix));
        let (str1, str2) = match (argument, detail) {
            (Some((function, name)), _) => (function.to_owned(), Some(name.to_owned())),
            (None, Some("")) if code == ErrorCode::NoName => (message.clone(), None),
            (None, Some(detail)) if !prefix.is_empty() => {
                (format!("{prefix}%1$s{suffix}"), Some(detail.to_owned()))
            }
            (None, _) => ("%s".to_owned(), Some(message.clone())),
        };
        let number = if argument.is_some() { 0 } else { -1 };
        Self {
            code: code as i32,
            domain: domain as i32,
            message: Some(message),
            level: LEVEL_ERROR,
            str1: Some(str1),
            str2,
            str3: None,
            int1: number,
            int2: number,
        }
    }
}

impl Encode for RemoteError {
    fn encode(&self, out: &mut Encoder) {
        let Self {
            code,
            domain,
            message,
            level,
            str1,
            str2,
            str3,
            int1,
            int2,
        } = self;
        code.encode(out);
        domain.encode(out);
        message.encode(out);
        level.encode(out);
        // The domain (a guest) an error is about: never in a network's error.
        0_u32.encode(out);
        str1.encode(out);
        str2.encode(out);
        str3.encode(out);
        int1.encode(out);
        int2.encode(out);
        // The network an error is about: libvirt never fills it in either.
        0_u32.encode(out);
    }
}

impl Decode for RemoteError {
    fn decode(from: &mut Decoder) -> xdr::Result<Self> {
        let code = i32::decode(from)?;
        let domain = i32::decode(from)?;
        let message = Option::decode(from)?;
        let level = i32::decode(from)?;
        // A guest: its name, UUID and number.
        Option::<((String, Uuid), i32)>::decode(from)?;
        let error = Self {
            code,
            domain,
            message,
            level,
            str1: Option::decode(from)?,
            str2: Option::decode(from)?,
            str3: Option::decode(from)?,
            int1: i32::decode(from)?,
            int2: i32::decode(from)?,
        };
        // A network: its name and UUID.
        Option::<(String, Uuid)>::decode(from)?;
        Ok(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_has_the_documented_fields() {
        let error: RemoteError = ApiError::new(ErrorCode::NoNetwork, "x").into();
        assert_eq!(
            error.str1.as_deref(),
            Some("Network not found: %1$s"),
            "clients show the message, libvirt-python the parts"
        );
        let mut expected = Vec::new();
        let word = |out: &mut Vec<u8>, w: i32| out.extend_from_slice(&w.to_be_bytes());
        word(&mut expected, 43);
        word(&mut expected, 19);
        word(&mut expected, 1);
        word(&mut expected, 20);
        expected.extend_from_slice(b"Network not found: x");
        word(&mut expected, 2);
        word(&mut expected, 0);
        word(&mut expected, 1);
        word(&mut expected, 23);
        expected.extend_from_slice(b"Network not found: %1$s\0");
        word(&mut expected, 1);
        word(&mut expected, 1);
        expected.extend_from_slice(b"x\0\0\0");
        for w in [0, -1, -1, 0] {
            word(&mut expected, w);
        }
        assert_eq!(xdr::to_bytes(&error).unwrap(), expected);
        assert_eq!(
            xdr::from_bytes::<RemoteError>(expected.into()).unwrap(),
            error
        );
    }

    #[test]
    fn a_wrong_argument_is_told_by_function_and_name() {
        let error: RemoteError = ApiError::unknown_flags(6, "networkUpdate").into();
        assert_eq!(
            error.text(),
            "unsupported flags (0x6) in function networkUpdate"
        );
        assert_eq!(error.str1.as_deref(), Some("networkUpdate"));
        assert_eq!(error.str2.as_deref(), Some("flags"));
        assert_eq!((error.code, error.domain), (8, 19));
        assert_eq!((error.int1, error.int2), (0, 0));
    }

    #[test]
    fn what_has_no_detail_has_no_template() {
        let error: RemoteError = ApiError::new(ErrorCode::NoName, "").into();
        assert_eq!(error.str1.as_deref(), Some("missing name information"));
        assert_eq!(error.str2, None);
        assert_eq!((error.code, error.domain, error.int1), (21, 19, -1));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = xdr::from_bytes::<RemoteError>(raw.into());
        }
    }
}
