//! What the servers of all tests write to the log.

use std::io;
use std::sync::{LazyLock, Mutex, Once};

use crate::raw::PATIENCE;

static WRITTEN: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what is written from now on.
pub fn keep() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Writer)
            .init();
    });
}

/// Waits for a line that contains all these words.
pub async fn wait_for(words: &[&str]) {
    let found = async {
        loop {
            let written = WRITTEN.lock().unwrap().clone();
            let written = String::from_utf8(written).unwrap();
            let is_it = |line: &str| words.iter().all(|word| line.contains(word));
            if written.lines().any(is_it) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("not in the log: {words:?}"));
}
