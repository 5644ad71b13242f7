//! Taking calls apart and putting answers together.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{ApiError, ErrorCode};
use crate::rpc::message::{HEADER_LEN, MESSAGE_MAX};
use crate::rpc::remote_error::RemoteError;
use crate::rpc::xdr::{self, Decode, Encode};

/// The payload of a good reply, or the error of a bad one.
pub(in crate::rpc) type Answer = Result<Bytes, RemoteError>;

/// Decodes the arguments of a call.
pub(in crate::rpc) fn arguments<T: Decode>(payload: Bytes) -> Result<T, RemoteError> {
    xdr::from_bytes(payload)
        .map_err(|error| RemoteError::rpc(format!("Unable to decode message payload: {error}")))
}

/// Encodes the result of a call.
pub(in crate::rpc) fn result<T: Encode + ?Sized>(value: &T) -> Answer {
    let payload = xdr::to_bytes(value)
        .map_err(|error| RemoteError::rpc(format!("Unable to encode message payload: {error}")))?;
    if payload.len() > MESSAGE_MAX - HEADER_LEN {
        return Err(RemoteError::rpc(format!(
            "Unable to encode message payload: {} bytes are more than a message holds",
            payload.len()
        )));
    }
    Ok(payload)
}

/// The call exists, and nobody answers it.
pub(in crate::rpc) fn not_supported(function: &str) -> Answer {
    Err(ApiError::new(ErrorCode::NoSupport, function).into())
}

/// Refuses a call with flags that it does not know.
pub(in crate::rpc) fn only_flags(
    flags: u32,
    known: u32,
    function: &'static str,
) -> Result<(), ApiError> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(ApiError::unknown_flags(unknown, function)),
    }
}

/// JSON, which larger answers of netd's own are.
pub(in crate::rpc) fn to_json<T: Serialize>(value: &T) -> Result<String, ApiError> {
    serde_json::to_string(value)
        .map_err(|error| ApiError::internal(format!("cannot write the answer: {error}")))
}

/// An argument that came as JSON; `what` it is, for whoever sent something else.
pub(in crate::rpc) fn from_json<T: DeserializeOwned>(
    text: &str,
    what: &str,
) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        let detail = format!("{what} cannot be read: {error}");
        ApiError::new(ErrorCode::InvalidArg, detail)
    })
}
