//! The bytes of a frame, for TC and XDP programs alike.

use aya_ebpf::helpers::generated::{bpf_csum_update, bpf_skb_change_head};
use aya_ebpf::programs::{TcContext, XdpContext};
use netd_common::abi::MacAddr;
use network_types::eth::EthHdr;

/// The Ethernet header's length, for readers of frames.
pub const ETH: usize = EthHdr::LEN;

/// A frame, as a kind of program is shown it.
pub trait Frame {
    /// Where its linear part begins.
    fn start(&self) -> usize;
    /// Where that ends.
    fn end(&self) -> usize;
    /// Bytes have changed by `difference` (see [`netd_common::checksum`]) that no checksum in the
    /// packet makes good.
    fn changed(&self, difference: u16);
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    /// The sum over the packet that a device may have handed up (CHECKSUM_COMPLETE) follows. Of
    /// other packets the helper says that there is none.
    #[inline(always)]
    fn changed(&self, difference: u16) {
        // SAFETY: a valid context and no other pointer.
        let _ = unsafe { bpf_csum_update(self.skb.skb, u32::from(difference)) };
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    /// A frame has no such sum.
    #[inline(always)]
    fn changed(&self, _: u16) {}
}

/// Pointer to `T` at `offset` when all of it lies in the linear part of the packet.
#[inline(always)]
pub fn at<T>(ctx: &impl Frame, offset: usize) -> Option<*mut T> {
    let start = ctx.start() + offset;
    if start + size_of::<T>() > ctx.end() {
        None
    } else {
        Some(start as *mut T)
    }
}

/// Read `T` at `offset` of the linear part.
///
/// `T` is an integer or an array of bytes. BPF has no trap on alignment: the verifier allows
/// unaligned packet access where the machine does, and the JIT emits a plain load.
#[inline(always)]
pub fn read<T: Copy>(ctx: &impl Frame, offset: usize) -> Option<T> {
    // SAFETY: `at` proved that the bytes are in the packet.
    at::<T>(ctx, offset).map(|p| unsafe { *p })
}

/// Destination and source MAC of the frame.
#[inline(always)]
pub fn macs(ctx: &impl Frame) -> Option<(MacAddr, MacAddr)> {
    Some((read(ctx, 0)?, read(ctx, 6)?))
}

/// Write the MAC addresses of the frame.
#[inline(always)]
pub fn set_macs(ctx: &impl Frame, to: MacAddr, from: MacAddr) -> Option<()> {
    let frame = at::<[u16; 6]>(ctx, 0)?;
    let word = |mac: MacAddr, i: usize| u16::from_ne_bytes([mac[2 * i], mac[2 * i + 1]]);
    // SAFETY: `at` proved that the header is in the packet.
    unsafe {
        *frame = [
            word(to, 0),
            word(to, 1),
            word(to, 2),
            word(from, 0),
            word(from, 1),
            word(from, 2),
        ];
    }
    Some(())
}

/// Put an Ethernet header before a packet that has come without.
#[inline(always)]
pub fn put_header(ctx: &TcContext, to: MacAddr, from: MacAddr, ether_type: [u8; 2]) -> Option<()> {
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, ETH as u32, 0) } != 0 {
        return None;
    }
    let mut header = [0u8; ETH];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&ether_type);
    ctx.skb.store(0, &header, 0).ok()
}
