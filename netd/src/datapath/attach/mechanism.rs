//! What the ways to attach programs have in common.

use std::collections::BTreeSet;
use std::fmt::Display;

use aya::programs::Program;
use rustix::net::{AddressFamily, SocketType, socket};

use super::hook::{Attachment, Point};
use super::refusal::Refusal;
use crate::datapath::error::Result;

/// One way to attach programs.
pub trait Mechanism: Send + Sync {
    /// What a program is attached to.
    type Place: Copy + Ord + Display;

    /// Attach a loaded program, or put it into the place of the one that is there without a gap.
    fn attach(&self, program: &mut Program, place: Self::Place)
    -> std::result::Result<(), Refusal>;

    /// Detach what is there. Nothing there is no error.
    fn detach(&self, place: Self::Place) -> Result<()>;

    /// What this agent or an earlier one attached. A device that has gone is listed until its
    /// programs are detached.
    fn attached(&self) -> Result<BTreeSet<Self::Place>>;
}

/// A mechanism for programs of devices.
pub trait DeviceMechanism: Mechanism<Place = Attachment> {
    /// What an administrator knows that place by.
    fn label(&self, point: Point) -> &'static str;

    /// All programs at that place, netd's and others', in the order they run.
    fn programs(
        &self,
        device: Device<'_>,
        point: Point,
    ) -> std::result::Result<Vec<AttachedProgram>, Refusal>;
}

/// A device as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Its number.
    pub ifindex: u32,
    /// Its present name.
    pub name: &'a str,
    /// The kernel's number of the program in its driver.
    pub xdp: Option<u32>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Did an agent attach it?
    pub ours: bool,
}

/// The present name of a device.
pub fn device_name(ifindex: u32) -> std::io::Result<String> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(socket, ifindex)?)
}
