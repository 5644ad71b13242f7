//! Cuts what a peer sends into messages, with bounds on the memory and the time that one may take.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::rpc::budget::{Held, Share};
use crate::rpc::message::{HEADER_LEN, MESSAGE_MAX, Message};

/// A message up to this size is read without asking the budget.
pub const SMALL: usize = 4 * 1024;

/// Room for what begins to arrive: most calls are smaller.
const FIRST: usize = 256;

/// Cuts a byte stream into messages. [`Reader::next`] may be dropped at any await and called
/// again: nothing is lost.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    buffer: BytesMut,
    /// Larger messages are not kept.
    limit: usize,
    skipping: Option<Skipping>,
    share: Option<Share>,
    patience: Option<Patience>,
    started: Option<Instant>,
    /// Since when this message waits for memory.
    waiting: Option<Instant>,
}

/// How long a message may take from its first byte to its last.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One that needs no memory of the budget.
    pub small: Duration,
    /// One that does, and so keeps it from others.
    pub large: Duration,
}

/// A message read, with its share of the memory budget: the budget gets it back when this is
/// dropped.
#[derive(Debug)]
pub struct Received {
    /// The message; without its payload where that was beyond the limit.
    pub message: Message,
    /// Was it beyond the limit?
    pub too_large: bool,
    /// Given back when the message is done with.
    pub held: Held,
}

/// A message whose payload is read and forgotten.
#[derive(Debug)]
struct Skipping {
    /// Length word and header, as if there were no payload.
    head: Bytes,
    /// Bytes still to come.
    left: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads messages from `stream`.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            limit: MESSAGE_MAX,
            skipping: None,
            share: None,
            patience: None,
            started: None,
            waiting: None,
        }
    }

    /// Gives up on a message that takes longer.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Takes the memory for messages larger than [`SMALL`] from this share.
    #[must_use]
    pub fn with_share(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// From now on, forgets the payload of messages larger than `limit`.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(HEADER_LEN);
    }

    /// Bytes held for the message that is arriving.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next message; `None` when the peer closed between two. A length word no message can
    /// have is an error, after which the stream is useless.
    pub async fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(skipping) = self.skipping.take() {
                if let Some(received) = self.skip(skipping)? {
                    return Ok(Some(received));
                }
            } else {
                match self.announced()? {
                    Some(len) if len > self.limit => {
                        if self.buffer.len() >= HEADER_LEN {
                            self.skipping = Some(self.start_skipping(len));
                            continue;
                        }
                        self.grow(HEADER_LEN).await;
                    }
                    Some(len) if self.buffer.len() >= len => return self.whole(len).map(Some),
                    Some(len) => self.grow(len).await,
                    None => self.grow(FIRST).await,
                }
            }
            if self.read_some().await? == 0 {
                if self.buffer.is_empty() && self.skipping.is_none() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection inside a message",
                ));
            }
        }
    }

    fn whole(&mut self, len: usize) -> io::Result<Received> {
        self.started = None;
        let bytes = self.buffer.split_to(len).freeze();
        if len > SMALL {
            // What is left would hold on to the whole allocation.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        let held = self.share.as_mut().map(Share::take).unwrap_or_default();
        Ok(Received {
            message: Message::from_bytes(bytes)?,
            too_large: false,
            held,
        })
    }

    fn start_skipping(&mut self, len: usize) -> Skipping {
        let mut head = self.buffer.split_to(HEADER_LEN);
        head[..4].copy_from_slice(&(HEADER_LEN as u32).to_be_bytes());
        Skipping {
            head: head.freeze(),
            left: len - HEADER_LEN,
        }
    }

    /// Forgets what has arrived of a message; all of it has when this gives something back.
    fn skip(&mut self, mut skipping: Skipping) -> io::Result<Option<Received>> {
        let arrived = self.buffer.len();
        if arrived < skipping.left {
            skipping.left -= arrived;
            self.skipping = Some(skipping);
            self.buffer.clear();
            self.buffer.reserve(SMALL);
            return Ok(None);
        }
        self.buffer = BytesMut::from(&self.buffer[skipping.left..]);
        self.started = None;
        Ok(Some(Received {
            message: Message::from_bytes(skipping.head)?,
            too_large: true,
            held: Held::default(),
        }))
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        if !self.buffer.is_empty() || self.skipping.is_some() {
            self.started.get_or_insert_with(Instant::now);
        }
        let read = self.stream.read_buf(&mut self.buffer);
        let (Some(started), Some(patience)) = (self.started, self.patience) else {
            return read.await;
        };
        let patience = match self.share.as_ref().is_some_and(|share| share.covers(1)) {
            true => patience.large,
            false => patience.small,
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

    /// Makes room to read more of a message of `len` bytes: at most as much again as has arrived.
    async fn grow(&mut self, len: usize) {
        let arrived = self.buffer.len();
        if self.buffer.capacity() > arrived {
            return;
        }
        let room = len.min((2 * arrived).max(FIRST));
        if room > SMALL
            && let Some(share) = &mut self.share
            && !share.covers(room)
        {
            let is_first = !share.covers(1);
            let since = *self.waiting.get_or_insert_with(Instant::now);
            share.cover(room).await;
            self.waiting = None;
            if is_first {
                // From here on it keeps memory from others.
                self.started = Some(Instant::now());
            } else if let Some(started) = &mut self.started {
                // The peer did not cause the wait.
                *started += since.elapsed();
            }
        }
        let mut larger = BytesMut::with_capacity(room);
        larger.extend_from_slice(&self.buffer);
        self.buffer = larger;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::budget::Budget;
    use crate::rpc::message::Header;

    fn zeros(len: usize) -> Message {
        Message {
            header: Header::of_call(46),
            payload: Bytes::from(vec![0; len - HEADER_LEN]),
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
    async fn messages_are_cut_out_of_any_chunks() {
        let one = Message::new(Header::of_call(46), "one").unwrap();
        let two = Message::new(Header::of_call(46), &()).unwrap();
        let wire = [one.to_bytes(), two.to_bytes()].concat();
        for size in 1..=wire.len() {
            let mut reader = Reader::new(chunks(&wire, size));
            assert_eq!(reader.next().await.unwrap().unwrap().message, one);
            assert_eq!(reader.next().await.unwrap().unwrap().message, two);
            assert!(reader.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_beyond_the_limit_is_passed_over() {
        let small = Message::new(Header::of_call(46), "one").unwrap();
        let bytes = [small.to_bytes(), zeros(700).to_bytes(), small.to_bytes()].concat();
        for size in [1, 4, 27, 28, 29, 63, 700, 5000] {
            let mut reader = Reader::new(chunks(&bytes, size));
            reader.set_limit(64);
            for too_large in [false, true, false] {
                let received = reader.next().await.unwrap().unwrap();
                assert_eq!(received.too_large, too_large, "{size}");
                let expected = match too_large {
                    true => zeros(HEADER_LEN),
                    false => small.clone(),
                };
                assert_eq!(received.message, expected, "{size}");
            }
            assert!(reader.next().await.unwrap().is_none());
            assert!(reader.capacity() <= SMALL, "{} bytes", reader.capacity());
        }
        let mut reader = Reader::new(&bytes[..bytes.len() / 2]);
        reader.set_limit(64);
        reader.next().await.unwrap();
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused() {
        for len in [0_u32, 4, 27, MESSAGE_MAX as u32 + 1, u32::MAX] {
            let wire = [&len.to_be_bytes()[..], &[0; 28]].concat();
            for limit in [MESSAGE_MAX, 100] {
                let mut reader = Reader::new(&wire[..]);
                reader.set_limit(limit);
                let error = reader.next().await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "length {len}");
            }
        }
    }

    #[tokio::test]
    async fn memory_follows_the_bytes_not_the_promise() {
        let budget = Arc::new(Budget::new(0));
        // Somebody has all there is.
        let mut other = budget.share();
        other.cover(1).await;
        for arrived in [4, 10, 200, SMALL] {
            let mut wire = (MESSAGE_MAX as u32).to_be_bytes().to_vec();
            wire.resize(arrived, 0);
            let mut reader = Reader::new(chunks(&wire, 100)).with_share(budget.share());
            let next = tokio::time::timeout(Duration::from_millis(100), reader.next()).await;
            assert!(reader.capacity() <= (2 * arrived).max(FIRST));
            match arrived {
                SMALL => assert!(next.is_err(), "it waits for memory"),
                _ => assert_eq!(
                    next.unwrap().unwrap_err().kind(),
                    io::ErrorKind::UnexpectedEof
                ),
            }
        }
    }

    #[tokio::test]
    async fn the_largest_message_is_read() {
        let message = zeros(MESSAGE_MAX);
        let wire = message.to_bytes();
        let budget = Arc::new(Budget::new(0));
        let mut reader = Reader::new(&wire[..]).with_share(budget.share());
        let received = reader.next().await.unwrap().unwrap();
        assert_eq!(received.message, message);
        assert!(reader.capacity() <= SMALL, "{} bytes", reader.capacity());
        let mut other = budget.share();
        let mut at_once = || other.cover(1).now_or_never().is_some();
        assert!(!at_once(), "the message has all there is");
        drop(received);
        assert!(at_once());
    }

    #[tokio::test]
    async fn a_large_message_has_less_time_than_a_small_one() {
        let patience = Patience {
            small: Duration::from_secs(600),
            large: Duration::from_millis(50),
        };
        let budget = Arc::new(Budget::new(0));
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let mut reader = Reader::new(theirs)
            .with_share(budget.share())
            .with_patience(patience);
        let wire = zeros(100_000).to_bytes();
        tokio::io::AsyncWriteExt::write_all(&mut ours, &wire[..SMALL])
            .await
            .unwrap();
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("50ms"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200),
                                       limit in 0..300_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut reader = Reader::new(&raw[..]);
            reader.set_limit(limit);
            while let Ok(Some(_)) = runtime.block_on(reader.next()) {}
        }
    }
}
