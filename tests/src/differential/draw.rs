//! What conversations are made of, drawn at random: steps, errors, mistreatments and lengths.

use super::cast;
use super::class::{Class, Classes};
use super::random::Random;
use super::step::{Body, Cut, End, ErrorKind, Oddity, Options, Quote, Step, Twist};

/// A step without surprises, but for what the twist brings.
pub(super) fn step(from: End, body: Body, twist: Twist) -> Step {
    let oddity = twist.bad_checksum.then_some(Oddity::Checksum);
    Step {
        from,
        body,
        twist,
        pause: 0,
        fresh: false,
        oddity,
    }
}

/// An error about the last packet that came in at `from`.
pub(super) fn error(random: &mut Random, classes: &Classes, from: End) -> Step {
    let kind = *random.pick(&[
        ErrorKind::HostUnreachable,
        ErrorKind::PortUnreachable,
        ErrorKind::TooBig,
        ErrorKind::TimeExceeded,
        ErrorKind::ParameterProblem,
    ]);
    let mut quotes = vec![(50, Quote::Full), (30, Quote::Eight)];
    if classes.contains(&Class::Strays) {
        quotes.extend([(6, Quote::Unknown), (3, Quote::Short)]);
    }
    let quote = *random.weighted(&quotes);
    let bad = classes.contains(&Class::Checksums) && random.chance(6);
    let twist = Twist {
        bad_checksum: bad,
        dont_fragment: false,
        ..Twist::default()
    };
    let body = Body::Error {
        kind,
        quote,
        router: random.chance(50),
    };
    let mut step = step(from, body, twist);
    if matches!(quote, Quote::Unknown | Quote::Short) {
        step.oddity = Some(Oddity::Stray);
    }
    step
}

/// Mostly nothing, sometimes one of the mistreatments that are switched on.
pub(super) fn twist(random: &mut Random, classes: &Classes) -> Twist {
    let mut twist = Twist {
        // Without DF the hypervisor cuts what is too big for its uplink.
        dont_fragment: random.chance(70) || !classes.contains(&Class::Fragments),
        ..Twist::default()
    };
    if random.chance(85) {
        return twist;
    }
    let choices = [
        (20, Class::Ttl),
        (20, Class::Options),
        (14, Class::Checksums),
        (6, Class::Headers),
        (20, Class::Fragments),
        (10, Class::Disorder),
    ];
    let choices: Vec<(usize, Class)> = choices
        .into_iter()
        .filter(|(_, class)| classes.contains(class))
        .collect();
    if choices.is_empty() {
        return twist;
    }
    match *random.weighted(&choices) {
        Class::Ttl => twist.ttl = *random.pick(&[1, 2]),
        Class::Options => {
            twist.options =
                *random.pick(&[Options::Nothing, Options::RecordRoute, Options::RouterAlert]);
        }
        Class::Headers => twist.bad_header = true,
        Class::Checksums => twist.bad_checksum = true,
        Class::Fragments => twist.cut = Cut::InOrder(random.between(2, 4)),
        _ => twist.cut = Cut::Reversed(random.between(2, 4)),
    }
    twist
}

/// How many bytes of data: small, some full, and some too big for the uplink.
pub(super) fn length(random: &mut Random, classes: &Classes, twist: &Twist) -> usize {
    if let Cut::InOrder(count) | Cut::Reversed(count) = twist.cut {
        return random.between(200, count * 1200);
    }
    match random.below(100) {
        0..80 => random.between(0, 64),
        80..95 => random.between(64, 1200),
        _ if classes.contains(&Class::Big) => random.between(cast::UPLINK_MTU - 60, 1440),
        _ => 1200,
    }
}
