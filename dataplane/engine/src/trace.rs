use crate::{counters::Counters, instant::Instant, packet::Packet};

/// How many bytes of the packet a step keeps: all headers of a packet in a tunnel, with room.
pub const STEP_BYTES: usize = 128;

/// One step of one marked packet's journey: the node that it met, the arc by which it left, its bytes as it left.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The packet's mark, [`crate::Meta::trace`]; never zero.
    pub mark: u8,
    /// The node's name.
    pub node: &'static str,
    /// The arc's name.
    pub arc: &'static str,
    /// When the turn began.
    pub at: Instant,
    /// How long the packet is, in bytes.
    pub len: u32,
    bytes: [u8; STEP_BYTES],
}

impl Step {
    pub(crate) fn of(packet: &Packet, counters: &Counters, arc: u8, at: Instant) -> Self {
        let (mut bytes, data) = ([0; STEP_BYTES], packet.data());
        let kept = data.len().min(STEP_BYTES);
        if let (Some(to), Some(from)) = (bytes.get_mut(..kept), data.get(..kept)) {
            to.copy_from_slice(from);
        }
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Step { mark: packet.meta().trace, node: counters.node(), arc: counters.arc(arc), at, len, bytes }
    }

    /// The packet's first bytes, as it left the node.
    pub fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        self.bytes.get(..len.min(STEP_BYTES)).unwrap_or_default()
    }
}
