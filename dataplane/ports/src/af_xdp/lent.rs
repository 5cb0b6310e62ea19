//! Frames that the kernel has: a place for each frame of the worker's memory.
//!
//! An address from a ring means nothing by itself. It names a frame only if that very frame is lent, and then it is
//! lent no longer: so no descriptor, however wrong, gives a frame twice or one that is not ours.
use engine::{Class, Frame, Frames, Memory};

pub(super) struct Lent {
    frames: Vec<Option<Frame>>,
    memory: Memory,
    page: u64, // no frame may cross a multiple of it: a driver sees no further than a page
    aside: Vec<Frame>,
    wrong: u64,
}

impl Lent {
    /// Nothing lent, of `memory`; frames that cross a multiple of `page` bytes cannot be.
    pub(super) fn new(memory: Memory, page: u64) -> Self {
        let places = memory.len.checked_div(memory.stride).unwrap_or(0);
        Lent {
            frames: std::iter::repeat_with(|| None).take(places).collect(),
            memory,
            page,
            aside: Vec::new(),
            wrong: 0,
        }
    }

    /// A free frame that can be lent. Those few that cannot are kept aside until all come back.
    #[inline(always)]
    pub(super) fn take(&mut self, frames: &mut Frames) -> Option<Frame> {
        loop {
            let frame = frames.take(Class::Small)?;
            if frame.offset(&self.memory).is_some_and(|address| self.fits(address)) {
                return Some(frame);
            }
            self.aside.push(frame);
        }
    }

    /// Lends a frame: its address for a descriptor. A frame of other memory, or that cannot be lent, comes back.
    #[inline(always)]
    pub(super) fn lend(&mut self, frame: Frame) -> Result<u64, Frame> {
        let stride = self.memory.stride as u64;
        let Some(address) = frame.offset(&self.memory).filter(|address| self.fits(*address)) else { return Err(frame) };
        match usize::try_from(address / stride).ok().and_then(|at| self.frames.get_mut(at)) {
            Some(place) if place.is_none() => *place = Some(frame),
            _ => return Err(frame),
        }
        Ok(address)
    }

    /// Takes back the frame at `address`; none, and counted, when there is no such frame or it is not lent.
    #[inline(always)]
    pub(super) fn back(&mut self, address: u64) -> Option<Frame> {
        let (address, stride) = (address & ADDRESS, self.memory.stride as u64);
        let place = usize::try_from(address / stride).ok().filter(|_| address.is_multiple_of(stride));
        let frame = place.and_then(|at| self.frames.get_mut(at)).and_then(Option::take);
        self.wrong += u64::from(frame.is_none());
        frame
    }

    /// How many addresses named no frame that was lent.
    pub(super) fn wrong(&self) -> u64 {
        self.wrong
    }

    /// All frames go home: the kernel has none any more.
    pub(super) fn all_back(&mut self, frames: &mut Frames) {
        let lent = self.frames.iter_mut().filter_map(Option::take);
        lent.chain(self.aside.drain(..)).for_each(|frame| frames.give(frame));
    }

    #[inline(always)]
    fn fits(&self, address: u64) -> bool {
        let first = self.memory.base as u64 + address;
        first / self.page == (first + self.memory.stride as u64 - 1) / self.page
    }
}

/// Where in its frame a descriptor's data begins: the kernel puts it in front of the address.
#[inline(always)]
pub(super) fn start(address: u64) -> u32 {
    u32::try_from(address >> OFFSET).unwrap_or(u32::MAX)
}

/// The address of data that begins `start` bytes into the frame at `address`.
#[inline(always)]
pub(super) fn with_start(address: u64, start: usize) -> u64 {
    address | (start as u64) << OFFSET
}

// linux/if_xdp.h: XSK_UNALIGNED_BUF_OFFSET_SHIFT.
const OFFSET: u32 = 48;
const ADDRESS: u64 = (1 << OFFSET) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use engine::FrameCounts;

    fn frames() -> Frames {
        let counts = FrameCounts { small: 8, jumbo: 0, super_: 0, packets: 8 };
        Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()
    }

    #[test]
    fn an_address_gives_its_frame_once() {
        let mut frames = frames();
        let mut lent = Lent::new(frames.memory(Class::Small), u64::MAX);
        let addresses: Vec<u64> = (0..8).map(|_| lent.lend(frames.take(Class::Small).unwrap()).unwrap()).collect();
        assert_eq!(start(with_start(addresses[3], 256)), 256);
        let frame = lent.back(with_start(addresses[3], 256)).unwrap();
        assert_eq!(frame.offset(&frames.memory(Class::Small)), Some(addresses[3]));
        frames.give(frame);
        for wrong in [addresses[3], addresses[2] + 64, u64::MAX, ADDRESS, addresses[7] + 2368] {
            assert!(lent.back(wrong).is_none());
        }
        assert_eq!(lent.wrong(), 5);
        assert!(!frames.all_home());
        lent.all_back(&mut frames);
        assert!(frames.all_home());
    }

    #[test]
    fn a_frame_of_other_memory_or_across_a_page_comes_back() {
        let (mut mine, mut other) = (frames(), frames());
        let mut lent = Lent::new(mine.memory(Class::Small), 4096);
        let frame = lent.lend(other.take(Class::Small).unwrap()).unwrap_err();
        other.give(frame);
        let taken: Vec<_> = std::iter::from_fn(|| lent.take(&mut mine)).collect();
        let addresses: Vec<_> = taken.into_iter().map(|frame| lent.lend(frame).unwrap()).collect();
        assert_eq!(addresses, [0, 4736, 9472, 16576]);
        lent.all_back(&mut mine);
        assert!(mine.all_home() && other.all_home());
    }
}
