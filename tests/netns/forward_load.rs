//! Published ports under load and in numbers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netd_tests::lab::{HOST, at, check};
use netd_tests::published::{forward, forwards, range};
use netd_tests::traffic::{self, Server};
use netd_tests::{Network, TcpPool};

/// Connections that go by a forward.
const CONNECTIONS: usize = 500;
/// Changes of other forwards meanwhile.
const CHANGES: u16 = 40;
/// Forwards of one network.
const MANY: u16 = 10_000;

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn connections_go_on_while_other_forwards_change() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        run("forward add default tcp 7000 10.10.1.11:80")?;
        let server = (guest.netns(), at(Ipv4Addr::new(10, 10, 1, 11), 80));
        let pool = TcpPool::published(&lab.wan, at(HOST, 7000), server, CONNECTIONS)?;
        for change in 0..CHANGES {
            let port = 20_000 + change;
            run(&format!("forward add default tcp {port} 10.10.1.12:80"))?;
            if change % 2 == 1 {
                run(&format!("forward delete default tcp {}", port - 1))?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let outcome = pool.finish()?;
        outcome.ensure_whole()?;
        let table = run("forward list default")?;
        ensure!(table.lines().count() > usize::from(CHANGES) / 2, "{table}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ten_thousand_forwards_and_one_more() {
    check(|lab| {
        lab.agent.start()?;
        let many: String = (0..MANY)
            .map(|n| {
                let port = 20_000 + n;
                // Each leads somewhere else, so that none is part of another.
                let guest = format!("10.10.1.{}", 11 + n % 200);
                forward("udp", "", &guest, &range(port, port, 1000 + n))
            })
            .collect();
        let network = Network::default().with(&forwards(&many));
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let ask = |port: u16, inside: u16| -> Result<()> {
            let _server = Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, inside))?;
            traffic::answered(&lab.wan, at(HOST, port)).map(|_| ())
        };
        for n in [0, 200, 9800] {
            ask(20_000 + n, 1000 + n)?;
        }
        let before = Instant::now();
        lab.agent
            .ok("forward add default udp 19999 10.10.1.11:99".split(' '))?;
        println!("one more of {MANY} forwards: {:?}", before.elapsed());
        ask(19_999, 99)?;
        let table = lab.agent.ok(["forward", "list", "default"])?;
        ensure!(
            table.lines().count() > usize::from(MANY),
            "too short a table"
        );
        Ok(())
    });
}
