//! What `<bandwidth>` asks for, in the kernel's numbers.

use std::collections::BTreeMap;

use crate::model::{Mac, Rate};

/// The class that holds all others together.
pub const WHOLE: u16 = 1;
/// The class of what has none of its own.
pub const OTHERS: u16 = 2;

/// Bytes in the definition's kilobyte, as `tc` has it; those of bursts are binary.
const KILOBYTE: u64 = 1000;
const KIBIBYTE: u64 = 1024;

/// How late a queue may be set going, in thousandths of a second, without sending less than its rate: so
/// much of it can be sent at once. Over ten seconds that is a fifth of a percent.
const SLACK_MS: u64 = 20;
/// Some packets, at the lowest rates.
const LEAST_BURST: u64 = 5000;
/// In bytes per second: the kernel refuses 0, and who has no share may still use what others leave.
const LEAST_RATE: u64 = 1000;
/// A tick of the kernel's packet scheduler is 64 ns (`PSCHED_SHIFT`).
const TICKS_PER_SECOND: u128 = 1_000_000_000 / 64;

/// The rates that a device's packets are held to: a class for all, one below it for each guest with a floor
/// and one for the rest. A class sends at its own rate whatever the others want, and beyond that what
/// the whole leaves. Without classes it is a queue that holds nothing back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The classes, by their minor numbers.
    pub classes: BTreeMap<u16, Class>,
    /// The guests that have a class of their own: their frames are told by the destination.
    pub guests: BTreeMap<u16, Mac>,
}

/// One class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// In bytes per second.
    pub rate: u64,
    /// The most that it ever sends, in bytes per second.
    pub ceil: u64,
    /// How much of its rate it may save up, as the ticks that sending it takes.
    pub burst: u32,
    /// The same of [`Self::ceil`].
    pub ceil_burst: u32,
    /// Has it a queue with a bound? The one that holds the others has none.
    pub queue: bool,
}

impl Shape {
    /// What a direction of `<bandwidth>` asks for, with floors as class, guest and kilobytes per second;
    /// `None` where it asks for nothing.
    #[must_use]
    pub fn new(rate: &Rate, floors: impl IntoIterator<Item = (u32, Mac, u64)>) -> Option<Self> {
        if rate.average == 0 {
            return None;
        }
        let average = rate.average.saturating_mul(KILOBYTE);
        let peak = rate.peak.map_or(0, |peak| peak.saturating_mul(KILOBYTE));
        let ceil = peak.max(average);
        let burst = rate.burst.unwrap_or(0).saturating_mul(KIBIBYTE);
        let mut shape = Self::default();
        let mut left = average;
        for (id, mac, floor) in floors {
            let Some(id) = u16::try_from(id).ok().filter(|id| *id > OTHERS) else {
                continue;
            };
            let floor = floor.saturating_mul(KILOBYTE).max(LEAST_RATE);
            left = left.saturating_sub(floor);
            shape.classes.insert(id, Class::new(floor, ceil, 0));
            shape.guests.insert(id, mac);
        }
        let whole = Class {
            queue: false,
            ..Class::new(average, ceil, 0)
        };
        shape.classes.insert(WHOLE, whole);
        let others = Class::new(left.max(LEAST_RATE), ceil, burst);
        shape.classes.insert(OTHERS, others);
        Some(shape)
    }

    /// The rate of the whole, in bytes per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.classes.get(&WHOLE).map_or(0, |class| class.rate)
    }

    /// The number of the class above this one; 0 for the root.
    #[must_use]
    pub fn parent(class: u16) -> u16 {
        if class == WHOLE { 0 } else { WHOLE }
    }
}

impl Class {
    /// A class with a queue. `burst` is in bytes.
    fn new(rate: u64, ceil: u64, burst: u64) -> Self {
        let ceil = ceil.max(rate);
        Self {
            rate,
            ceil,
            burst: ticks(slack(rate).max(burst), rate),
            ceil_burst: ticks(slack(ceil), ceil),
            queue: true,
        }
    }

    /// The bytes that may wait in its queue: what it sends in a fifth of a second at most, and a few of the
    /// packets of 64 kB that senders hand over whole.
    #[must_use]
    pub fn queue_bytes(&self) -> u32 {
        const LEAST: u64 = 128 << 10;
        u32::try_from((self.ceil / 5).max(LEAST)).unwrap_or(u32::MAX)
    }
}

fn slack(rate: u64) -> u64 {
    (rate / 1000).saturating_mul(SLACK_MS).max(LEAST_BURST)
}

/// The time that this many bytes take.
fn ticks(bytes: u64, rate: u64) -> u32 {
    let ticks = u128::from(bytes) * TICKS_PER_SECOND / u128::from(rate.max(1));
    u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(average: u64, peak: Option<u64>, burst: Option<u64>) -> Rate {
        Rate {
            average,
            peak,
            burst,
            floor: None,
        }
    }

    #[test]
    fn a_rate_is_two_classes() {
        let shape = Shape::new(&rate(1000, None, None), []).unwrap();
        assert_eq!(shape.rate(), 1_000_000);
        let whole = Class {
            rate: 1_000_000,
            ceil: 1_000_000,
            // 20 kB, which take 20 ms.
            burst: 312_500,
            ceil_burst: 312_500,
            queue: false,
        };
        assert_eq!(shape.classes[&WHOLE], whole);
        let others = Class {
            queue: true,
            ..whole
        };
        assert_eq!(shape.classes[&OTHERS], others);
        assert_eq!((shape.classes.len(), shape.guests.len()), (2, 0));
        assert_eq!(others.queue_bytes(), 200_000);
    }

    #[test]
    fn a_burst_is_sent_at_the_peak_and_saved_up_once() {
        let shape = Shape::new(&rate(100, Some(400), Some(50)), []).unwrap();
        let (whole, others) = (shape.classes[&WHOLE], shape.classes[&OTHERS]);
        assert_eq!((others.rate, others.ceil), (100_000, 400_000));
        // 51 200 bytes at 100 kB/s are 0.512 s.
        assert_eq!(others.burst, 8_000_000);
        assert_eq!(whole.burst, ticks(LEAST_BURST, 100_000));
        // A peak below the average is no limit of its own.
        let shape = Shape::new(&rate(100, Some(1), None), []).unwrap();
        assert_eq!(shape.classes[&OTHERS].ceil, 100_000);
    }

    #[test]
    fn floors_are_taken_from_what_the_others_have() {
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let floors = [(3, a, 300), (4, b, 700), (0x1_0003, a, 5), (2, b, 5)];
        let shape = Shape::new(&rate(1000, None, None), floors).unwrap();
        assert_eq!(shape.guests, BTreeMap::from([(3, a), (4, b)]));
        let rates = shape.classes.iter().map(|(id, class)| (*id, class.rate));
        let rates: Vec<_> = rates.collect();
        assert_eq!(
            rates,
            [(1, 1_000_000), (2, LEAST_RATE), (3, 300_000), (4, 700_000)]
        );
        assert!(shape.classes.values().all(|class| class.ceil == 1_000_000));
    }

    #[test]
    fn the_largest_numbers_fit_and_none_is_no_limit() {
        assert_eq!(Shape::new(&rate(0, Some(5), None), []), None);
        let most = Shape::new(&rate(1 << 54, Some(u64::MAX), Some(u64::MAX)), []).unwrap();
        assert_eq!(most.classes[&WHOLE].ceil, u64::MAX);
        assert_eq!(most.classes[&OTHERS].burst, ticks(u64::MAX, most.rate()));
        let least = Shape::new(&rate(1, None, Some((1 << 22) - 1)), []).unwrap();
        assert_eq!(least.classes[&OTHERS].burst, u32::MAX);
    }
}
