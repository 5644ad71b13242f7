//! Connections over a live server: listed in pieces, ended by what is meant.

use netd::api::{FlowFilter, FlowKill};
use netd::rpc::Limits;
use netd::rpc::message::Message;
use netd::rpc::procedures::{FlowListArgs, NetdProcedure};

use crate::raw::{Raw, against, numbers};
use crate::{Server, netd, ran};

#[test]
fn connections_are_listed_piece_by_piece() {
    let server = Server::start();
    let say = |words: &[&str]| ran(netd(&server.socket).args(words)).stdout;
    assert_eq!(
        say(&["-q", "flows"]),
        " n1   vm1   tcp   established   192.168.177.15:4000   203.0.113.1:443   \
         as 198.51.100.2:1024   eth0   fast   3s   12/12   1200/1200\n \
         n1   vm1   tcp   established   [fd00::15]:4001       [2001:db8::1]:443   \
         -                      -      stack/fast   3s   12/12   1200/1200\n"
    );
    let text = say(&["flows", "n1", "--limit", "1"]);
    assert!(text.starts_with(" Network   Guest   Protocol"), "{text}");
    assert_eq!(
        text.lines().filter(|line| line.contains(" vm1 ")).count(),
        1
    );
    let json: serde_json::Value = serde_json::from_str(&say(&["flows", "--json"])).unwrap();
    let flows = json["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[1]["source"], "[fd00::15]:4001");
    assert_eq!(flows[1]["path_out"], "stack");
    let json = say(&["flows", "--json", "--sort", "bytes", "--limit", "1"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["flows"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_ended_is_what_was_meant() {
    let server = Server::start();
    let say = |words: &[&str]| ran(netd(&server.socket).args(words));
    let killed = say(&["flows", "kill", "n1", "--guest", "vm1", "--proto", "udp"]);
    assert_eq!(
        (killed.stdout.as_str(), killed.code),
        ("Ended 2 connections.\n\n", Some(0))
    );
    say(&[
        "flows",
        "kill",
        "--port",
        "443",
        "--address",
        "203.0.113.0/24",
    ]);
    say(&["flows", "kill", "--guest", "192.0.2.7", "--proto", "47"]);
    say(&["flows", "kill", "--all"]);
    // Nothing is not everything, and nobody is nobody else.
    for words in [&["flows", "kill"][..], &["flows", "kill", "n1", "--all"]] {
        assert_eq!(say(words).code, Some(2), "{words:?}");
    }
    for words in [
        &["flows", "kill", "--guest", "vm2"][..],
        &["flows", "kill", "nosuch", "--port", "1"],
    ] {
        assert_eq!(say(words).code, Some(1), "{words:?}");
    }
    let address = |text: &str| text.parse().unwrap();
    assert_eq!(
        *server.driver.kills.lock().unwrap(),
        [
            FlowKill::Matching(FlowFilter {
                network: Some("n1".to_owned()),
                guests: vec![address("192.168.177.15"), address("fd00::15")],
                protocol: Some(17),
                ..FlowFilter::default()
            }),
            FlowKill::Matching(FlowFilter {
                port: Some(443),
                address: Some("203.0.113.0/24".parse().unwrap()),
                ..FlowFilter::default()
            }),
            FlowKill::Matching(FlowFilter {
                guests: vec![address("192.0.2.7")],
                protocol: Some(47),
                ..FlowFilter::default()
            }),
            FlowKill::All,
        ]
    );
}

#[test]
fn what_cannot_be_a_filter_is_refused() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for filter in ["", "7", "{\"port\":65536}", "{\"guests\":[\"x\"]}"] {
            let args = FlowListArgs {
                filter: filter.to_owned(),
                from: 0,
            };
            let header = raw.own_header(NetdProcedure::FlowList as i32);
            let error = raw.refused(&Message::new(header, &args).unwrap()).await;
            assert_eq!(numbers(&error).0, 8, "{filter}: {}", error.text());
        }
    });
}
