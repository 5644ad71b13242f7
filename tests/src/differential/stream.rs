//! TCP connections from the first SYN to the last stray RST.

use super::class::{Class, Classes};
use super::draw::{error, length, step, twist};
use super::random::Random;
use super::step::{Body, End, Oddity, Step, Twist, tcp};

/// Name of a connection that its opener resets before it is answered.
pub const TAKEN_BACK: &str = "tcp taken back";

/// A connection under construction: both ends' next sequence numbers and what was done so far.
#[derive(Debug)]
pub struct Stream<'a> {
    random: &'a mut Random,
    classes: &'a Classes,
    next: [u32; 2],
    /// Shift counts of the windows that the ends offer.
    scales: [Option<u8>; 2],
    /// Which ends have offered a window behind their SYN.
    heard: [bool; 2],
    steps: Vec<Step>,
}

impl<'a> Stream<'a> {
    /// A connection of some kind.
    pub fn invent(random: &'a mut Random, classes: &'a Classes) -> (&'static str, Vec<Step>) {
        let next = [random.draw() as u32, random.draw() as u32];
        // Scaled windows stay below what blind segments miss by.
        let mut scale = |percent| {
            let offered = random.chance(percent);
            offered.then(|| random.between(0, 7) as u8)
        };
        let scales = match scale(50) {
            None => [None, None],
            offered => [offered, scale(80)],
        };
        let mut stream = Self {
            random,
            classes,
            next,
            scales,
            heard: [false; 2],
            steps: Vec::new(),
        };
        let strays = classes.contains(&Class::Strays);
        let name = if strays && stream.random.chance(12) {
            stream.stray()
        } else {
            stream.connection(strays)
        };
        (name, stream.steps)
    }

    fn connection(&mut self, strays: bool) -> &'static str {
        self.open();
        match self.random.below(100) {
            0..8 => "tcp syn alone",
            8..16 => {
                self.answer();
                "tcp half open"
            }
            16..20 => {
                self.refuse();
                "tcp refused"
            }
            20..22 if strays => {
                // The opener changes its mind, and the answer comes all the same.
                self.send(End::Opener, tcp::RST, 0);
                self.send_odd(End::Answerer, tcp::SYN | tcp::ACK, 0, 0, Oddity::WrongState);
                TAKEN_BACK
            }
            kind => {
                self.answer();
                self.send(End::Opener, tcp::ACK, 0);
                self.talk();
                if strays && self.random.chance(25) {
                    self.blind();
                    self.talk();
                }
                match kind {
                    22..60 => {
                        self.finish();
                        let from = self.either();
                        self.maybe_error(from, 6);
                        self.after(strays);
                        "tcp closed"
                    }
                    60..70 => {
                        self.finish();
                        self.again();
                        "tcp ports reused"
                    }
                    70..85 => {
                        let from = self.either();
                        let flags = if self.random.chance(50) { tcp::ACK } else { 0 };
                        self.send(from, tcp::RST | flags, 0);
                        if self.random.chance(20) {
                            self.again();
                        } else {
                            self.after(strays);
                        }
                        "tcp aborted"
                    }
                    _ => "tcp abandoned",
                }
            }
        }
    }

    fn either(&mut self) -> End {
        *self.random.pick(&[End::Opener, End::Answerer])
    }

    /// A segment at the right place in the stream.
    fn send(&mut self, from: End, flags: u8, length: usize) {
        self.send_twisted(from, flags, length, Twist::default());
        self.heard[from.index()] |= flags & (tcp::SYN | tcp::ACK) == tcp::ACK;
        let used =
            length as u32 + u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        let next = &mut self.next[from.index()];
        *next = next.wrapping_add(used);
    }

    /// The same without moving on.
    fn send_twisted(&mut self, from: End, flags: u8, length: usize, twist: Twist) {
        let body = self.segment(from, flags, 0, length);
        self.steps.push(step(from, body, twist));
    }

    /// A segment whose numbers are off by `sequence` and `acknowledgement`.
    fn send_odd(&mut self, from: End, flags: u8, sequence: u32, length: usize, oddity: Oddity) {
        let body = self.segment(from, flags, sequence, length);
        let mut step = step(from, body, Twist::default());
        step.oddity = Some(oddity);
        self.steps.push(step);
    }

    /// A segment `ahead` of its place in the stream.
    fn segment(&mut self, from: End, flags: u8, ahead: u32, length: usize) -> Body {
        let syn = flags & tcp::SYN != 0;
        let scale = self.scales[from.index()];
        // Scaled where both ends offer that, but in a SYN: then it may be smaller, as it is shifted.
        let window = match self.shift(from) {
            Some(1..) if !syn => self.random.between(0x8000, 0xffff) as u16,
            _ => 0xffff,
        };
        Body::Tcp {
            flags,
            sequence: self.next[from.index()].wrapping_add(ahead),
            acknowledgement: if flags & tcp::ACK == 0 {
                0
            } else {
                self.next[from.other().index()]
            },
            length,
            window,
            scale: if syn { scale } else { None },
        }
    }

    /// By how much an end's windows are shifted, where they are.
    fn shift(&self, end: End) -> Option<u8> {
        self.scales[end.other().index()]?;
        self.scales[end.index()]
    }

    /// Data that only a scaled window has room for, some of what is before it being under way.
    fn run_ahead(&mut self, from: End) {
        let to = from.other();
        if matches!(self.shift(to), Some(2..)) && self.heard[to.index()] {
            let body = self.segment(from, tcp::PSH | tcp::ACK, 70_000, 16);
            self.steps.push(step(from, body, Twist::default()));
        }
    }

    fn open(&mut self) {
        if self.random.chance(8) {
            let twist = twist(self.random, self.classes);
            self.send_twisted(End::Opener, tcp::SYN, 0, twist);
        }
        if self.random.chance(10) {
            self.send_twisted(End::Opener, tcp::SYN, 0, Twist::default());
        }
        self.send(End::Opener, tcp::SYN, 0);
        self.maybe_error(End::Answerer, 3);
    }

    fn answer(&mut self) {
        if self.random.chance(4) {
            // Both opened at the same time: the answerer's SYN comes before its SYN with ACK.
            self.send_twisted(End::Answerer, tcp::SYN, 0, Twist::default());
        }
        if self.random.chance(5) {
            self.send_twisted(End::Answerer, tcp::SYN | tcp::ACK, 0, Twist::default());
        }
        self.send(End::Answerer, tcp::SYN | tcp::ACK, 0);
    }

    fn refuse(&mut self) {
        self.send(End::Answerer, tcp::RST | tcp::ACK, 0);
    }

    fn talk(&mut self) {
        for _ in 0..self.random.between(0, 4) {
            let from = self.either();
            if self.random.chance(8) {
                self.run_ahead(from);
            }
            let mistreated = twist(self.random, self.classes);
            let length = length(self.random, self.classes, &mistreated);
            // A copy that may get lost, then the same again as it should be.
            self.send_twisted(from, tcp::PSH | tcp::ACK, length, mistreated);
            if self.random.chance(50) {
                self.maybe_error(from.other(), 12);
            }
            let length = length.min(1200);
            self.send(from, tcp::PSH | tcp::ACK, length);
            if self.random.chance(60) {
                self.send(from.other(), tcp::ACK, 0);
            }
        }
    }

    /// What somebody sends who does not know the numbers.
    fn blind(&mut self) {
        let from = self.either();
        let far = self.random.between(1 << 24, 3 << 30) as u32;
        match self.random.below(4) {
            0 => self.send_odd(from, tcp::RST, far, 0, Oddity::OutOfWindow),
            1 => self.send_odd(from, tcp::RST | tcp::ACK, far, 0, Oddity::OutOfWindow),
            2 => self.send_odd(from, tcp::PSH | tcp::ACK, far, 16, Oddity::OutOfWindow),
            _ => self.send_odd(from, tcp::SYN, far, 0, Oddity::WrongState),
        }
    }

    fn finish(&mut self) {
        let first = self.either();
        self.send(first, tcp::FIN | tcp::ACK, 0);
        if self.random.chance(50) {
            self.send(first.other(), tcp::ACK, 0);
            if self.random.chance(30) {
                // Half closed: the other direction goes on.
                self.send(first.other(), tcp::PSH | tcp::ACK, 20);
                self.send(first, tcp::ACK, 0);
            }
        }
        self.send(first.other(), tcp::FIN | tcp::ACK, 0);
        self.send(first, tcp::ACK, 0);
    }

    /// Late segments of a connection that is over.
    fn after(&mut self, strays: bool) {
        if !strays || !self.random.chance(25) {
            return;
        }
        let from = self.either();
        let flags =
            *self
                .random
                .pick(&[tcp::ACK, tcp::RST, tcp::PSH | tcp::ACK, tcp::FIN | tcp::ACK]);
        let length = if flags & tcp::PSH == 0 { 0 } else { 8 };
        self.send_odd(from, flags, 0, length, Oddity::WrongState);
    }

    /// The same ports once more.
    fn again(&mut self) {
        for next in &mut self.next {
            *next = next.wrapping_add(0x0010_0000);
        }
        self.heard = [false; 2];
        self.send(End::Opener, tcp::SYN, 0);
        if let Some(syn) = self.steps.last_mut() {
            syn.fresh = true;
        }
        self.answer();
        self.send(End::Opener, tcp::ACK, 0);
        self.talk();
        self.finish();
    }

    /// A segment of no connection.
    fn stray(&mut self) -> &'static str {
        let flags = *self.random.pick(&[
            tcp::ACK,
            tcp::PSH | tcp::ACK,
            tcp::RST,
            tcp::RST | tcp::ACK,
            tcp::FIN | tcp::ACK,
            tcp::FIN,
            tcp::SYN | tcp::ACK,
            tcp::SYN | tcp::FIN,
            tcp::FIN | tcp::PSH | tcp::URG,
            0,
        ]);
        let length = if flags & tcp::PSH == 0 { 0 } else { 8 };
        self.send_odd(End::Opener, flags, 0, length, Oddity::Stray);
        // Where it got through, it may be answered.
        if self.random.chance(60) {
            self.send_odd(End::Answerer, tcp::RST | tcp::ACK, 0, 0, Oddity::Stray);
        }
        "tcp stray"
    }

    fn maybe_error(&mut self, from: End, percent: usize) {
        if self.classes.contains(&Class::Errors) && self.random.chance(percent) {
            let error = error(self.random, self.classes, from);
            self.steps.push(error);
        }
    }
}
