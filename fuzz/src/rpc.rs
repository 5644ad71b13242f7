//! Messages of clients.

use std::fmt::Debug;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use netd::rpc::message::{HEADER_LEN, Message};
use netd::rpc::procedures::{
    AutostartArgs, IdentityArgs, LeasesArgs, LeasesReply, ListArgs, ListReply, NetdProcedure,
    NetworkRef, OpenArgs, Procedure, UpdateArgs, XmlArgs, XmlDescArgs,
};
use netd::rpc::reader::Reader;
use netd::rpc::remote_error::RemoteError;
use netd::rpc::xdr::{Decode, Encode, STRING_MAX, from_bytes, to_bytes};

/// Input: what a client sends, any number of messages.
pub fn rpc_message(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut read = 0;
    loop {
        // A slice never lets one wait.
        let outcome = {
            let mut context = Context::from_waker(Waker::noop());
            pin!(reader.next()).poll(&mut context)
        };
        let Poll::Ready(outcome) = outcome else {
            panic!("the reader waits for bytes that are there");
        };
        let Ok(Some(received)) = outcome else {
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
