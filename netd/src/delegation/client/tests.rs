//! The client beside a server that says what the test has it say.

use super::*;
use crate::delegation::message::Granted;

const ME: &[u8] = b"client";
const SERVER: &[u8] = b"server";
const NETWORK: [u8; 4] = [0, 0, 0, 7];

fn client(before: &[Given]) -> Client {
    let mut next = 0_u32;
    let random = move || {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        next
    };
    let begin = seconds(1000);
    Client::new(ME.to_vec(), NETWORK, 64, before, begin, Box::new(random))
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn prefix(text: &str, len: u8) -> (Ipv6Addr, u8) {
    (text.parse().unwrap(), len)
}

fn granted(text: &str, preferred: u32, valid: u32) -> Granted {
    Granted {
        prefix: prefix(text, 64),
        preferred,
        valid,
    }
}

fn given(text: &str, is_preferred: bool) -> Given {
    Given {
        prefix: prefix(text, 64),
        is_preferred,
    }
}

/// Bytes that a server answers a message of the client's with.
fn answer(to: &[u8], kind: u8, server: &[u8], options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![kind, to[1], to[2], to[3]];
    let mut put = |code: u16, value: &[u8]| {
        out.extend(code.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    };
    put(1, ME);
    put(2, server);
    for (code, value) in options {
        put(*code, value);
    }
    out
}

fn association(times: (u32, u32), prefixes: &[Granted]) -> (u16, Vec<u8>) {
    let mut value = NETWORK.to_vec();
    value.extend(times.0.to_be_bytes());
    value.extend(times.1.to_be_bytes());
    for granted in prefixes {
        value.extend([0, 26, 0, 25]);
        value.extend(granted.preferred.to_be_bytes());
        value.extend(granted.valid.to_be_bytes());
        value.push(granted.prefix.1);
        value.extend(granted.prefix.0.octets());
    }
    (25, value)
}

/// Let time pass until the client sends; what it sends, and when. What it tells meanwhile is left out.
fn next_message(client: &mut Client) -> (Vec<u8>, Duration) {
    for _ in 0..100 {
        let now = client.deadline();
        for action in client.act(now) {
            if let Action::Send(bytes) = action {
                return (bytes, now);
            }
        }
    }
    panic!("nothing is sent: {:?}", client.state);
}

/// What the client tells of prefixes.
fn used(actions: &[Action]) -> Option<Vec<Given>> {
    actions.iter().find_map(|action| match action {
        Action::Use(given) => Some(given.clone()),
        Action::Send(_) => None,
    })
}

/// Lead the client to be bound with these prefixes; returns when.
fn bind(client: &mut Client, times: (u32, u32), prefixes: &[Granted]) -> Duration {
    let (solicit, at) = next_message(client);
    assert_eq!(solicit[0], kind::SOLICIT);
    let offer = [association(times, prefixes), (7, vec![255])];
    let advertise = answer(&solicit, kind::ADVERTISE, SERVER, &offer);
    let actions = client.receive(&advertise, at);
    let [Action::Send(request)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(request[0], kind::REQUEST);
    let reply = answer(
        request,
        kind::REPLY,
        SERVER,
        &[association(times, prefixes)],
    );
    let told = used(&client.receive(&reply, at)).unwrap_or_default();
    assert_eq!(told.len(), prefixes.len(), "{told:?}");
    assert_eq!(client.state, State::Bound);
    at
}

#[test]
fn a_prefix_is_had_by_four_messages_and_renewed_in_time() {
    let mut client = client(&[]);
    let p1 = granted("2001:db8:1::", 300, 600);
    let at = bind(&mut client, (100, 200), &[p1]);
    assert_eq!(client.told, [given("2001:db8:1::", true)]);
    let (renew, when) = next_message(&mut client);
    assert_eq!((renew[0], when), (kind::RENEW, at + seconds(100)));
    let reply = answer(
        &renew,
        kind::REPLY,
        SERVER,
        &[association((100, 200), &[p1])],
    );
    // Nothing changes for the network.
    assert_eq!(client.receive(&reply, when), []);
    let (renew, again) = next_message(&mut client);
    assert_eq!((renew[0], again), (kind::RENEW, when + seconds(100)));
    // Nobody answers: it is repeated, then anybody is asked, then the prefix ends.
    let mut kinds = Vec::new();
    let mut told = Vec::new();
    while told.len() < 2 {
        let now = client.deadline();
        for action in client.act(now) {
            match action {
                Action::Send(bytes) => kinds.push((bytes[0], (now - when).as_secs())),
                Action::Use(given) => told.push((given, (now - when).as_secs())),
            }
        }
        assert!(kinds.len() < 100, "{kinds:?}");
    }
    assert!(
        kinds
            .iter()
            .any(|(kind, at)| *kind == kind::REBIND && *at == 200),
        "{kinds:?}"
    );
    assert_eq!(
        told,
        [(vec![given("2001:db8:1::", false)], 300), (vec![], 600),]
    );
    let (last, _) = next_message(&mut client);
    assert_eq!(last[0], kind::SOLICIT);
}

/// RFC 8415, section 15: the wait doubles, a tenth more or less, and has an end.
#[test]
fn solicitations_become_rare() {
    let mut client = client(&[]);
    let mut before = seconds(1000);
    let mut waits = Vec::new();
    for _ in 0..20 {
        let (message, at) = next_message(&mut client);
        assert_eq!(message[0], kind::SOLICIT);
        waits.push((at - before).as_secs_f64());
        before = at;
    }
    assert!(
        waits[0] < 1.0 && (1.0..=1.1).contains(&waits[1]),
        "{waits:?}"
    );
    for pair in waits[1..].windows(2) {
        let capped = pair[1] >= 3240.0;
        assert!(capped || pair[1] >= pair[0] * 1.8, "{waits:?}");
        assert!(pair[1] <= (pair[0] * 2.2).min(3960.0), "{waits:?}");
    }
    assert!(waits[19] >= 3240.0, "{waits:?}");
}

#[test]
fn the_best_offer_within_a_second_is_taken() {
    let mut client = client(&[]);
    let (solicit, at) = next_message(&mut client);
    let offer = |server: &[u8], preference, prefix| {
        let options = [association((0, 0), &[prefix]), (7, vec![preference])];
        answer(&solicit, kind::ADVERTISE, server, &options)
    };
    let good = granted("2001:db8:1::", 300, 600);
    assert_eq!(client.receive(&offer(b"a", 1, good), at), []);
    assert_eq!(client.receive(&offer(b"b", 5, good), at), []);
    assert_eq!(client.receive(&offer(b"c", 2, good), at), []);
    // A longer prefix has no room.
    let long = Granted {
        prefix: prefix("2001:db8:1::", 65),
        ..good
    };
    assert_eq!(client.receive(&offer(b"d", 255, long), at), []);
    let (request, _) = next_message(&mut client);
    assert_eq!(request[0], kind::REQUEST);
    assert_eq!(client.server, b"b");
    // Another server's reply, another client's, and another exchange's are none.
    let reply = |server: &[u8]| {
        answer(
            &request,
            kind::REPLY,
            server,
            &[association((0, 0), &[good])],
        )
    };
    assert_eq!(client.receive(&reply(b"a"), at), []);
    let mut others = reply(b"b");
    others[1] ^= 1;
    assert_eq!(client.receive(&others, at), []);
    assert!(used(&client.receive(&reply(b"b"), at)).is_some());
}

/// The server has another prefix: the old one stays for those who have addresses of it.
#[test]
fn rfc9096_renumbering_leaves_the_old_prefix_for_a_while() {
    let mut client = client(&[]);
    bind(
        &mut client,
        (100, 200),
        &[granted("2001:db8:1::", 30_000, 60_000)],
    );
    let (renew, at) = next_message(&mut client);
    let both = [
        granted("2001:db8:1::", 0, 0),
        granted("2001:db8:2::", 30_000, 60_000),
    ];
    let reply = answer(
        &renew,
        kind::REPLY,
        SERVER,
        &[association((100, 200), &both)],
    );
    let told = used(&client.receive(&reply, at)).unwrap();
    assert_eq!(
        told,
        [given("2001:db8:1::", false), given("2001:db8:2::", true)]
    );
    // It is renewed meanwhile, and the old one is not asked for: no server knows of it.
    let mut last = None;
    while last.is_none() {
        let now = client.deadline();
        for action in client.act(now) {
            match action {
                Action::Send(renew) => {
                    let old = prefix("2001:db8:1::", 64).0.octets();
                    assert!(!renew.windows(16).any(|bytes| bytes == old));
                    let kept = [granted("2001:db8:2::", 30_000, 60_000)];
                    let reply = answer(
                        &renew,
                        kind::REPLY,
                        SERVER,
                        &[association((100, 200), &kept)],
                    );
                    assert_eq!(client.receive(&reply, now), []);
                }
                Action::Use(given) => last = Some((given, now)),
            }
        }
    }
    let (told, ended) = last.unwrap();
    assert_eq!(told, [given("2001:db8:2::", true)]);
    assert_eq!(ended, at + LINGER);
}

/// An agent's restart: the network keeps its prefix, and whoever knows it confirms it.
#[test]
fn what_a_network_has_from_before_is_asked_about() {
    let before = [given("2001:db8:1::", true)];
    let mut known = client(&before);
    let (rebind, at) = next_message(&mut known);
    assert_eq!(rebind[0], kind::REBIND);
    let kept = [granted("2001:db8:1::", 300, 600)];
    let reply = answer(&rebind, kind::REPLY, SERVER, &[association((0, 0), &kept)]);
    assert_eq!(known.receive(&reply, at), []);
    assert_eq!(known.renew_at, at + seconds(150));
    assert_eq!(known.rebind_at, at + seconds(240));

    // Another one's server: it has never heard of it.
    let mut moved = client(&before);
    let (rebind, at) = next_message(&mut moved);
    let reply = answer(
        &rebind,
        kind::REPLY,
        b"other",
        &[(13, NO_BINDING.to_be_bytes().to_vec())],
    );
    let actions = moved.receive(&reply, at);
    let [Action::Send(request)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(request[0], kind::REQUEST);
    let new = [granted("2001:db8:2::", 300, 600)];
    let reply = answer(request, kind::REPLY, b"other", &[association((0, 0), &new)]);
    assert_eq!(
        used(&moved.receive(&reply, at)).unwrap(),
        [given("2001:db8:1::", false), given("2001:db8:2::", true)]
    );

    // Nobody answers: after some tries any server will do, and the prefix stays meanwhile.
    let mut alone = client(&before);
    let kinds: Vec<u8> = (0..6).map(|_| next_message(&mut alone).0[0]).collect();
    assert_eq!(kinds[..4], [kind::REBIND; 4]);
    assert_eq!(kinds[4..], [kind::SOLICIT; 2]);
    assert_eq!(alone.told, before);
}

#[test]
fn a_network_that_goes_gives_its_prefix_back() {
    let mut client = client(&[]);
    assert_eq!(client.release(seconds(1000)), None);
    let at = bind(
        &mut client,
        (100, 200),
        &[granted("2001:db8:1::", 300, 600)],
    );
    assert_eq!(client.release(at).unwrap()[0], kind::RELEASE);
}

/// A server that says nonsense gets no more of the client's time than one that says nothing.
#[test]
fn a_server_cannot_have_the_client_hurry() {
    let mut client = client(&[]);
    bind(&mut client, (1, 1), &[granted("2001:db8:1::", 1, u32::MAX)]);
    let mut sent = 0;
    let began = client.deadline();
    while client.deadline() < began + seconds(3600) {
        let now = client.deadline();
        for action in client.act(now) {
            if let Action::Send(message) = action {
                sent += 1;
                let prefixes = [granted("2001:db8:1::", 1, u32::MAX)];
                let reply = answer(
                    &message,
                    kind::REPLY,
                    SERVER,
                    &[association((1, 1), &prefixes)],
                );
                client.receive(&reply, now);
            }
        }
    }
    assert!(
        sent <= 3600 / PAUSE.as_secs() + 1,
        "{sent} messages in an hour"
    );
}
