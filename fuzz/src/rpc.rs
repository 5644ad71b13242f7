//! Messages of clients.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use netd::rpc::budget::Budget;
use netd::rpc::identity::Identity;
use netd::rpc::message::{HEADER_LEN, Message};
use netd::rpc::procedures::{
    AutostartArgs, IdentityArgs, LeasesArgs, LeasesReply, ListArgs, ListReply, NetdProcedure,
    NetworkRef, OpenArgs, Procedure, UpdateArgs, XmlArgs, XmlDescArgs,
};
use netd::rpc::reader::{Reader, Received, SMALL};
use netd::rpc::remote_error::RemoteError;
use netd::rpc::xdr::{Decode, Encode, STRING_MAX, from_bytes, to_bytes};

/// What a client may send that has not opened yet, here.
const LIMIT: usize = 300;

/// Input: what a client sends, any number of messages.
pub fn rpc_message(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut limited = Reader::new(data).with_share(Arc::new(Budget::new(0)).share());
    limited.set_limit(LIMIT);
    let mut read = 0;
    loop {
        let received = next(&mut reader);
        compare(received.as_ref(), next(&mut limited));
        assert!(limited.capacity() <= 2 * SMALL, "{}", limited.capacity());
        let Some(received) = received else {
            break;
        };
        let message = received.message;
        let bytes = message.to_bytes();
        assert_eq!(bytes.len(), HEADER_LEN + message.payload.len());
        assert_eq!(bytes, data[read..read + bytes.len()]);
        let again = Message::from_bytes(bytes.clone()).expect("it was read before");
        assert_eq!(again, message);
        read += bytes.len();
        let procedure = message.header.procedure;
        if let Some(known) = Procedure::from_number(procedure) {
            assert_eq!(known as i32, procedure);
        }
        if let Some(known) = NetdProcedure::from_number(procedure) {
            assert_eq!(known as i32, procedure);
        }
        payload(&message.payload);
    }
}

/// The next message of a slice, which never lets one wait.
fn next(reader: &mut Reader<&[u8]>) -> Option<Received> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(reader.next()).poll(&mut context) {
        Poll::Ready(outcome) => outcome.ok().flatten(),
        Poll::Pending => panic!("the reader waits for bytes that are there"),
    }
}

/// A reader with a limit sees the same messages, the large ones without what they carry.
fn compare(whole: Option<&Received>, limited: Option<Received>) {
    assert_eq!(whole.is_some(), limited.is_some());
    let (Some(whole), Some(limited)) = (whole, limited) else {
        return;
    };
    let bytes = HEADER_LEN + whole.message.payload.len();
    assert_eq!(limited.too_large, bytes > LIMIT);
    assert_eq!(limited.message.header, whole.message.header);
    match limited.too_large {
        true => assert!(limited.message.payload.is_empty()),
        false => assert_eq!(limited.message, whole.message),
    }
}

/// Whom a client claims to speak for makes no line of its own in the log.
fn identity(bytes: &Bytes) {
    let args = from_bytes::<IdentityArgs>(bytes.clone());
    if let Ok(Ok(identity)) = args.map(Identity::new) {
        let line = identity.to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// Whatever the procedure: nothing that arrives may hurt any decoder.
fn payload(bytes: &Bytes) {
    decode::<OpenArgs>(bytes);
    decode::<ListArgs>(bytes);
    decode::<NetworkRef>(bytes);
    decode::<XmlArgs>(bytes);
    decode::<XmlDescArgs>(bytes);
    decode::<AutostartArgs>(bytes);
    decode::<UpdateArgs>(bytes);
    decode::<LeasesArgs>(bytes);
    decode::<IdentityArgs>(bytes);
    identity(bytes);
    decode::<String>(bytes);
    decode::<i32>(bytes);
    // What the client reads.
    decode::<ListReply>(bytes);
    decode::<LeasesReply>(bytes);
    decode::<RemoteError>(bytes);
}

/// What can be read can be written, and is then the same (as bytes: a float may be NaN).
fn decode<T: Decode + Encode + Debug>(bytes: &Bytes) {
    let Ok(value) = from_bytes::<T>(bytes.clone()) else {
        return;
    };
    assert!(bytes.len() <= STRING_MAX * 2, "more than was sent in a run");
    let written = to_bytes(&value).expect("what was read is within its bounds");
    assert!(written.len() <= bytes.len(), "{value:?} has grown");
    let again = from_bytes::<T>(written.clone()).expect("what was written can be read");
    assert_eq!(to_bytes(&again).ok(), Some(written), "{value:?}");
}
