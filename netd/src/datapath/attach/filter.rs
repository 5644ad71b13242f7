//! The kernel's filters of traffic control, by netlink: those of the `bpf` kind at the two sides of a
//! device, and the qdisc that they hang from.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL,
    NetlinkDeserializable, NetlinkHeader, NlasIterator, Parseable as _, parse_string,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};

use super::hook::Point;

/// What netd's filters have in common. Filters run in the order of their priorities: there is room
/// for others before netd's, and those that get a priority from the kernel (49152 downwards) come
/// after. The handle spells "netd", so that another `bpf` filter may have the same priority.
const PRIORITY: u16 = 0x20;
const HANDLE: [u8; 4] = *b"netd";

/// All protocols (`ETH_P_ALL` of linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3;

/// Of linux/rtnetlink.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// Length of `struct tcmsg`.
const HEADER: usize = 20;

/// The qdisc at the place where traffic control's hooks are, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qdisc {
    /// `clsact`: filters for both sides.
    Clsact,
    /// `ingress`: filters for what comes in.
    Ingress,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Its name, where it has one.
    pub name: String,
    /// The kernel's number of its program, where it has one.
    pub program: Option<u32>,
}

/// The qdisc of a device, if it has one that filters can hang from.
pub(super) fn qdisc(ifindex: u32) -> io::Result<Option<Qdisc>> {
    let mut question = message(ifindex)?;
    question.header.parent = TcHandle::CLSACT;
    let question = RouteNetlinkMessage::GetQueueDiscipline(question);
    // The kernel tells whoever listens to changes, and the one who asks by this flag alone.
    let answers: Vec<Answer> = match ask(NLM_F_ACK | NLM_F_ECHO, question) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        answers => answers?,
    };
    Ok(answers
        .iter()
        .find_map(|answer| match answer.kind.as_str() {
            "clsact" => Some(Qdisc::Clsact),
            "ingress" => Some(Qdisc::Ingress),
            _ => None,
        }))
}

/// The devices that have such a qdisc.
pub(super) fn devices_with_qdisc() -> io::Result<BTreeSet<u32>> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(message(0)?);
    let answers: Vec<Answer> = ask(NLM_F_DUMP, question)?;
    let theirs = answers
        .iter()
        .filter(|answer| matches!(answer.kind.as_str(), "clsact" | "ingress"));
    Ok(theirs.map(|answer| answer.ifindex).collect())
}

/// Give a device the qdisc `clsact`; fails where it has one already.
pub(super) fn add_qdisc(ifindex: u32) -> io::Result<()> {
    let mut question = clsact(ifindex)?;
    question.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    let question = RouteNetlinkMessage::NewQueueDiscipline(question);
    change(NLM_F_CREATE | NLM_F_EXCL, question)
}

/// Remove the qdisc `clsact`, with all its filters.
pub(super) fn delete_qdisc(ifindex: u32) -> io::Result<()> {
    let question = RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex)?);
    change(0, question)
}

fn clsact(ifindex: u32) -> io::Result<TcMessage> {
    let mut question = message(ifindex)?;
    question.header.parent = TcHandle::CLSACT;
    question.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    Ok(question)
}

/// All filters at one side of a device, in the order they run.
pub(super) fn all(ifindex: u32, point: Point) -> io::Result<Vec<Filter>> {
    let mut question = message(ifindex)?;
    question.header.parent = side(point);
    let question = RouteNetlinkMessage::GetTrafficFilter(question);
    let answers: Vec<Answer> = ask(NLM_F_DUMP, question)?;
    // Of each priority the kernel tells first that it is there, as if that were a filter.
    let filters = answers.into_iter().filter(|answer| answer.handle != 0);
    Ok(filters.map(|answer| answer.filter).collect())
}

/// The filter at netd's place, if any.
pub(super) fn own(ifindex: u32, point: Point) -> io::Result<Option<Filter>> {
    let question = RouteNetlinkMessage::GetTrafficFilter(place(ifindex, point)?);
    match ask::<Answer>(NLM_F_ACK, question) {
        Ok(answers) => Ok(answers.into_iter().next().map(|answer| answer.filter)),
        // No such filter; no qdisc, or a filter of another protocol at that priority.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Put a program at netd's place: a new filter, or into the present one, which the kernel replaces
/// without a packet passing in between.
pub(super) fn set_own(
    ifindex: u32,
    point: Point,
    name: &str,
    program: BorrowedFd<'_>,
    is_new: bool,
) -> io::Result<()> {
    let descriptor = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let mut question = place(ifindex, point)?;
    let options = [
        TcFilterBpfOption::ProgFd(descriptor),
        TcFilterBpfOption::ProgName(name.to_owned()),
        // What the program returns is what is done.
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    question.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).to_vec()),
    ];
    let flags = if is_new { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    change(flags, RouteNetlinkMessage::NewTrafficFilter(question))
}

/// Remove the filter at netd's place.
pub(super) fn delete_own(ifindex: u32, point: Point) -> io::Result<()> {
    let mut question = place(ifindex, point)?;
    question.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    change(0, RouteNetlinkMessage::DelTrafficFilter(question))
}

/// Netd's place at one side of a device.
fn place(ifindex: u32, point: Point) -> io::Result<TcMessage> {
    let mut message = message(ifindex)?;
    message.header.parent = side(point);
    message.header.handle = u32::from_be_bytes(HANDLE).into();
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    Ok(message)
}

fn message(ifindex: u32) -> io::Result<TcMessage> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    Ok(TcMessage::with_index(index))
}

/// Which of the two filter lists of `clsact`; the one of `ingress` goes by the same number.
fn side(point: Point) -> TcHandle {
    TcHandle {
        major: TcHandle::CLSACT.major,
        minor: match point {
            Point::Egress => TcHandle::MIN_EGRESS,
            Point::Ingress | Point::Xdp => TcHandle::MIN_INGRESS,
        },
    }
}

fn change(flags: u16, question: RouteNetlinkMessage) -> io::Result<()> {
    ask::<Answer>(NLM_F_ACK | flags, question).map(drop)
}

fn ask<A: NetlinkDeserializable>(flags: u16, question: RouteNetlinkMessage) -> io::Result<Vec<A>> {
    crate::netlink::ask(None, flags, question)
}

/// A qdisc or filter as the kernel tells of it. Those of others can be of any kind: nothing is read
/// of them that is not needed.
struct Answer {
    ifindex: u32,
    handle: u32,
    kind: String,
    filter: Filter,
}

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let header = TcHeader::parse(payload)?;
        let mut answer = Self {
            ifindex: header.index.unsigned_abs(),
            handle: header.handle.into(),
            kind: String::new(),
            filter: Filter {
                name: String::new(),
                program: None,
            },
        };
        let mut options = Vec::new();
        for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            match attribute.kind() {
                TCA_KIND => answer.kind = parse_string(attribute.value())?,
                TCA_OPTIONS => options = attribute.value().to_vec(),
                _ => {}
            }
        }
        if answer.kind == TcFilterBpf::KIND {
            for option in NlasIterator::new(&options) {
                match TcFilterBpfOption::parse(&option?)? {
                    TcFilterBpfOption::ProgName(name) => answer.filter.name = name,
                    TcFilterBpfOption::ProgId(id) => answer.filter.program = Some(id),
                    _ => {}
                }
            }
        }
        Ok(answer)
    }
}
