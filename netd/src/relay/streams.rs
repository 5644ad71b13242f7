//! Questions and answers in connections.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::sockets::Side;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long one may last: longer than dnsmasq's own limit for those to servers.
const LAST: Duration = Duration::from_secs(300);

/// Connections at a time.
const CONNECTIONS: usize = 256;

/// How long to wait after the kernel gave no connection.
const PAUSE: Duration = Duration::from_millis(500);

/// Pass on what comes to `listener`.
pub async fn relay(listener: TcpListener, side: Side) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot take connections"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Closed by nobody.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let near = match listener.accept().await {
            Ok((near, _)) => near,
            Err(error) => {
                tracing::warn!(%error, "a connection is lost");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let side = side.clone();
        tokio::spawn(async move {
            let _place = place;
            let lasted = timeout(LAST, join(near, &side)).await;
            if let Ok(Err(error)) = lasted {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

async fn join(mut near: TcpStream, side: &Side) -> std::io::Result<()> {
    // A connection that was steered here has the address that it was opened to.
    let to = match side.to {
        Some(to) => to,
        None => near.local_addr()?,
    };
    let mut far = timeout(CONNECT, side.open(to)).await??;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}
