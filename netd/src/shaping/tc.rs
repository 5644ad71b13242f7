//! A [`Shape`] in the kernel: a queue of kind `htb` with its classes, by netlink.
//!
//! ```text
//! htb 6e64:            the device's queue
//!   class 6e64:1       all that it sends
//!     class 6e64:2     what has no class of its own
//!     class 6e64:3 ..  guests with a floor, chosen by u32 filters of priority 3 ..
//! ```
//!
//! Each class below the first has a queue of its own with a bound: `fq_codel`, which is fair to many
//! flows, or `bfifo` where the kernel has no other. In a class that runs rates are changed in place: no
//! packet is lost by it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rtnetlink::packet_core::{
    DecodeError, DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NetlinkDeserializable, NetlinkHeader, NlasIterator, parse_string,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHeader, TcMessage};

use netd_common::abi::QUEUES;

use super::rates::{Class, OTHERS, Shape};
use crate::model::Mac;

/// The handle of netd's queues, by which they are known.
const MAJOR: u16 = QUEUES as u16;

/// The device itself, as the place of a queue or class (`TC_H_ROOT`).
const ROOT: u32 = u32::MAX;

/// All protocols (`ETH_P_ALL` of linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3;

/// Length of `struct tcmsg`.
const HEADER: usize = 20;

// Of linux/rtnetlink.h and linux/pkt_sched.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_FQ_CODEL_MEMORY_LIMIT: u16 = 9;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;

/// Frames are counted with their Ethernet header (`TC_LINKLAYER_ETHERNET`): then the kernel reckons
/// rates itself, without a table.
const ETHERNET: u8 = 1;

/// What a class sends in its turn beyond its rate, in bytes: a few packets.
const QUANTUM: u32 = 12_000;

/// A device cannot be held to its rates.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} of {device}: {source}{}", advice(source))]
pub struct ShapeError {
    action: &'static str,
    device: String,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EEXIST) => {
            "; it has a queue of somebody else's (`tc qdisc show`), which netd leaves alone: \
             remove that, or <bandwidth> from the network"
        }
        Some(libc::ENOENT) => {
            "; the kernel may lack the module: netd needs sch_htb, and cls_u32 for floors"
        }
        _ => "",
    }
}

/// The devices that have a queue of netd's, and what that holds them to.
///
/// # Errors
/// The kernel does not list them.
pub fn shapes() -> io::Result<BTreeMap<u32, Shape>> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(message(0)?);
    let mut shapes = BTreeMap::new();
    for queue in dump(question)? {
        if queue.kind == "htb" && queue.parent == ROOT && queue.handle == handle(0) {
            shapes.insert(queue.ifindex, read(queue.ifindex)?);
        }
    }
    Ok(shapes)
}

/// What the queue of one device holds it to.
fn read(ifindex: u32) -> io::Result<Shape> {
    let mut shape = Shape::default();
    for class in dump(RouteNetlinkMessage::GetTrafficClass(message(ifindex)?))? {
        // Classes of another queue, below one of these.
        let Some(id) = own(class.handle) else {
            continue;
        };
        shape.classes.insert(id, class.rates());
    }
    let mut question = message(ifindex)?;
    question.header.parent = handle(0).into();
    for filter in dump(RouteNetlinkMessage::GetTrafficFilter(question))? {
        if let Some(mac) = filter.destination() {
            // The priority is the number of the class.
            let class = u16::try_from(filter.info >> 16).unwrap_or_default();
            shape.guests.insert(class, mac);
        }
    }
    Ok(shape)
}

/// Hold a device to `wanted`, whatever its queue held it to before. A queue that is not netd's stays.
///
/// # Errors
/// The kernel refuses, or the device has a queue of somebody else's.
pub fn apply(ifindex: u32, device: &str, wanted: &Shape) -> Result<(), ShapeError> {
    let failed = |action| {
        move |source| ShapeError {
            action,
            device: device.to_owned(),
            source,
        }
    };
    let held = shapes().map_err(failed("look at the queue"))?;
    let held = match held.get(&ifindex) {
        Some(held) => held.clone(),
        None => {
            add_root(ifindex).map_err(failed("make the queue"))?;
            Shape::default()
        }
    };
    for (&id, class) in &wanted.classes {
        let before = held.classes.get(&id);
        if before != Some(class) {
            set_class(ifindex, id, class).map_err(failed("set a rate"))?;
        }
        if class.queue && !before.is_some_and(|before| before.queue) {
            add_queue(ifindex, id, class).map_err(failed("make the queue of a class"))?;
        }
    }
    let all: BTreeSet<u16> = held
        .guests
        .keys()
        .chain(wanted.guests.keys())
        .copied()
        .collect();
    for id in all {
        let (before, after) = (held.guests.get(&id), wanted.guests.get(&id));
        if before == after {
            continue;
        }
        if before.is_some() {
            remove_filter(ifindex, id).map_err(failed("take away a guest's class"))?;
        }
        if let Some(mac) = after {
            add_filter(ifindex, id, *mac).map_err(failed("give a guest a class"))?;
        }
    }
    // Those below first.
    for &id in held
        .classes
        .keys()
        .rev()
        .filter(|id| !wanted.classes.contains_key(id))
    {
        let mut question = message(ifindex).map_err(failed("remove a class"))?;
        question.header.handle = handle(id).into();
        let question = RouteNetlinkMessage::DelTrafficClass(question);
        change(0, question).map_err(failed("remove a class"))?;
    }
    Ok(())
}

/// Hold a device to nothing any more. What waits in its queue is dropped.
///
/// # Errors
/// The kernel refuses. A device without a queue of netd's is no error.
pub fn remove(ifindex: u32, device: &str) -> Result<(), ShapeError> {
    let delete = || {
        let mut question = message(ifindex)?;
        question.header.parent = ROOT.into();
        question.header.handle = handle(0).into();
        question.attributes = vec![TcAttribute::Kind("htb".to_owned())];
        change(0, RouteNetlinkMessage::DelQueueDiscipline(question))
    };
    match delete() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        Err(source) => Err(ShapeError {
            action: "remove the queue",
            device: device.to_owned(),
            source,
        }),
        Ok(()) => Ok(()),
    }
}

fn add_root(ifindex: u32) -> io::Result<()> {
    let mut question = message(ifindex)?;
    question.header.parent = ROOT.into();
    question.header.handle = handle(0).into();
    // struct tc_htb_glob: version 3, the default for quanta, which are given here, and where packets
    // go that no filter knows.
    let init: Vec<u8> = [3, 10, u32::from(OTHERS), 0, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    question.attributes = attributes("htb", attribute(TCA_HTB_INIT, &init));
    let question = RouteNetlinkMessage::NewQueueDiscipline(question);
    change(NLM_F_CREATE | NLM_F_EXCL, question)
}

fn set_class(ifindex: u32, id: u16, class: &Class) -> io::Result<()> {
    let mut question = message(ifindex)?;
    question.header.parent = match Shape::parent(id) {
        0 => handle(0),
        parent => handle(parent),
    }
    .into();
    question.header.handle = handle(id).into();
    let mut options = attribute(TCA_HTB_PARMS, &parameters(class));
    options.extend(attribute(TCA_HTB_RATE64, &class.rate.to_ne_bytes()));
    options.extend(attribute(TCA_HTB_CEIL64, &class.ceil.to_ne_bytes()));
    question.attributes = attributes("htb", options);
    change(NLM_F_CREATE, RouteNetlinkMessage::NewTrafficClass(question))
}

/// `struct tc_htb_opt`.
fn parameters(class: &Class) -> Vec<u8> {
    let mut bytes = Vec::new();
    for rate in [class.rate, class.ceil] {
        let rate = u32::try_from(rate).unwrap_or(u32::MAX);
        bytes.extend([0, ETHERNET, 0, 0, 0, 0, 0, 0]);
        bytes.extend(rate.to_ne_bytes());
    }
    for number in [class.burst, class.ceil_burst, QUANTUM, 0, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}

/// The queue of a class.
fn add_queue(ifindex: u32, id: u16, class: &Class) -> io::Result<()> {
    let limit = class.queue_bytes();
    let add = |kind: &str, options: Vec<u8>| {
        let mut question = message(ifindex)?;
        question.header.parent = handle(id).into();
        question.attributes = attributes(kind, options);
        let question = RouteNetlinkMessage::NewQueueDiscipline(question);
        change(NLM_F_CREATE | NLM_F_EXCL, question)
    };
    // The kernel's overhead for small packets counts as well here.
    let memory = limit.saturating_mul(4).to_ne_bytes();
    match add("fq_codel", attribute(TCA_FQ_CODEL_MEMORY_LIMIT, &memory)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            add("bfifo", limit.to_ne_bytes().to_vec())
        }
        added => added,
    }
}

/// Frames to this guest are of its class.
fn add_filter(ifindex: u32, id: u16, Mac(mac): Mac) -> io::Result<()> {
    let mut question = filter(ifindex, id)?;
    // struct tc_u32_sel: the last word in the matter, two keys.
    let mut selector = vec![1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let [m0, m1, m2, m3, m4, m5] = mac;
    let keys = [
        ([0xff; 4], [m2, m3, m4, m5], -12_i32),
        ([0, 0, 0xff, 0xff], [0, 0, m0, m1], -16),
    ];
    for (mask, value, offset) in keys {
        selector.extend(mask);
        selector.extend(value);
        selector.extend(offset.to_ne_bytes());
        selector.extend([0; 4]);
    }
    let mut options = attribute(TCA_U32_CLASSID, &handle(id).to_ne_bytes());
    options.extend(attribute(TCA_U32_SEL, &selector));
    question.attributes = attributes("u32", options);
    let question = RouteNetlinkMessage::NewTrafficFilter(question);
    change(NLM_F_CREATE | NLM_F_EXCL, question)
}

fn remove_filter(ifindex: u32, id: u16) -> io::Result<()> {
    let question = RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, id)?);
    change(0, question)
}

fn filter(ifindex: u32, id: u16) -> io::Result<TcMessage> {
    let mut question = message(ifindex)?;
    question.header.parent = handle(0).into();
    question.header.info = u32::from(id) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    Ok(question)
}

fn handle(minor: u16) -> u32 {
    u32::from(MAJOR) << 16 | u32::from(minor)
}

/// The number of a class of netd's.
fn own(class: u32) -> Option<u16> {
    let [major, minor] = [(class >> 16) as u16, class as u16];
    (major == MAJOR && minor != 0).then_some(minor)
}

fn message(ifindex: u32) -> io::Result<TcMessage> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    Ok(TcMessage::with_index(index))
}

fn attributes(kind: &str, options: Vec<u8>) -> Vec<TcAttribute> {
    vec![
        TcAttribute::Kind(kind.to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)),
    ]
}

/// An attribute as its bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn change(flags: u16, question: RouteNetlinkMessage) -> io::Result<()> {
    crate::netlink::ask::<_, Object>(None, NLM_F_ACK | flags, question).map(drop)
}

fn dump(question: RouteNetlinkMessage) -> io::Result<Vec<Object>> {
    crate::netlink::ask(None, NLM_F_DUMP, question)
}

/// A queue, class or filter as the kernel tells of it.
struct Object {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
    kind: String,
    options: Vec<u8>,
}

impl NetlinkDeserializable for Object {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let header = TcHeader::parse(payload)?;
        let mut object = Self {
            ifindex: header.index.unsigned_abs(),
            handle: header.handle.into(),
            parent: header.parent.into(),
            info: header.info,
            kind: String::new(),
            options: Vec::new(),
        };
        for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            match attribute.kind() {
                TCA_KIND => object.kind = parse_string(attribute.value())?,
                TCA_OPTIONS => object.options = attribute.value().to_vec(),
                _ => {}
            }
        }
        Ok(object)
    }
}

impl Object {
    /// One of its options.
    fn option(&self, kind: u16) -> Option<Vec<u8>> {
        let options = NlasIterator::new(&self.options);
        let mut options = options.filter_map(Result::ok);
        let option = options.find(|option| option.kind() == kind)?;
        Some(option.value().to_vec())
    }

    /// What a class sends; zeros of what is no class of `htb`.
    fn rates(&self) -> Class {
        let words = self.option(TCA_HTB_PARMS).unwrap_or_default();
        let word = |at: usize| words.get(at..at + 4).and_then(|b| b.try_into().ok());
        let number = |at| u32::from_ne_bytes(word(at).unwrap_or_default());
        let long = |kind, short| {
            let bytes = self.option(kind).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(u64::from(number(short)), u64::from_ne_bytes)
        };
        Class {
            rate: long(TCA_HTB_RATE64, 8),
            ceil: long(TCA_HTB_CEIL64, 20),
            burst: number(24),
            ceil_burst: number(28),
            // The queue that a class has by itself has no number.
            queue: self.info != 0,
        }
    }

    /// The destination that a filter looks for; `None` for one that is not netd's.
    fn destination(&self) -> Option<Mac> {
        let selector = self.option(TCA_U32_SEL)?;
        let value = |key: usize| selector.get(16 + 16 * key + 4..16 + 16 * key + 8);
        let ([m2, m3, m4, m5], [_, _, m0, m1]) = (value(0)?, value(1)?) else {
            return None;
        };
        Some(Mac([*m0, *m1, *m2, *m3, *m4, *m5]))
    }
}
