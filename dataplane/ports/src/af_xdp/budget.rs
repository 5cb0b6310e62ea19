//! How many frames a port's lanes may hold to receive into, and how they share them.
//!
//! What a lane holds is what it has put into its fill ring and not yet taken from its receive ring, so also what a
//! driver has in its own rings. No lane can take frames out of a fill ring again: so a lane that receives little is not
//! given more than its floor, and what it was given before comes back only as it receives.

/// The frames that the lanes of one port and one worker may hold between them.
#[derive(Debug, Default)]
pub(super) struct Budget {
    limit: u32,
    floor: u32,     // what every lane may hold, whatever the others do
    set_aside: u32, // by each lane: what it holds, or its floor where that is more
    received: u32,
    age: u32,
}

/// One lane's part in a budget.
#[derive(Debug)]
pub(super) struct Share {
    held: u32,
    want: u32,
    peak: u32, // most that was found waiting at this age
    age: u32,
    ring: u32,
}

impl Budget {
    /// Half of `frames`, for so many lanes: a quarter of that half is theirs in equal parts, the rest is for those that
    /// need it. A single lane has a quarter of `frames`, always.
    pub(super) fn new(frames: usize, lanes: u16) -> Self {
        let limit = u32::try_from(frames / 2).unwrap_or(u32::MAX);
        let lanes = u32::from(lanes.max(1));
        let floor = if lanes == 1 { limit / 2 } else { (limit / 4 / lanes).max(SMALLEST).min(limit / lanes) };
        Budget { limit, floor, set_aside: floor * lanes, received: 0, age: 0 }
    }

    /// The part of one of its lanes, which has use for `ring` frames at most.
    pub(super) fn share(&self, ring: u32) -> Share {
        Share { held: 0, want: self.floor.min(ring), peak: 0, age: self.age, ring }
    }

    /// How many more frames a lane should have now. None holds more than it leaves to the others, beyond its floor.
    #[inline(always)]
    pub(super) fn missing(&self, share: &Share) -> u32 {
        let mine = share.held.max(self.floor);
        let free = self.limit.saturating_sub(self.set_aside);
        let most = mine + free.saturating_sub(mine) / 2;
        share.want.min(most).saturating_sub(share.held)
    }

    /// A lane has got `count` frames.
    #[inline(always)]
    pub(super) fn lent(&mut self, share: &mut Share, count: u32) {
        self.set(share, share.held + count);
    }

    /// A lane found `waiting` frames in its receive ring and took `count` of them: it wants several times as many as
    /// were ever waiting, and after a while half of that where it did not need them.
    #[inline(always)]
    pub(super) fn received(&mut self, share: &mut Share, waiting: u32, count: u32) {
        self.set(share, share.held.saturating_sub(count));
        self.received += count;
        if self.received >= AGE {
            (self.received, self.age) = (0, self.age.wrapping_add(1));
        }
        if share.age != self.age {
            (share.age, share.want, share.peak) = (self.age, share.want / 2, 0);
        }
        share.peak = share.peak.max(waiting);
        share.want = share.want.max(share.peak.saturating_mul(AHEAD)).max(self.floor).min(share.ring);
    }

    #[inline(always)]
    fn set(&mut self, share: &mut Share, held: u32) {
        self.set_aside = self.set_aside + held.max(self.floor) - share.held.max(self.floor);
        share.held = held;
    }
}

const SMALLEST: u32 = 64; // a floor below which only the limit goes
const AHEAD: u32 = 4;
const AGE: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(budget: &mut Budget, share: &mut Share) -> u32 {
        budget.lent(share, budget.missing(share));
        share.held
    }

    #[test]
    fn a_single_lane_has_a_quarter_or_its_ring() {
        let mut budget = Budget::new(16384, 1);
        let (mut long, mut short) = (budget.share(8192), budget.share(1024));
        assert_eq!(budget.missing(&short), 1024);
        assert_eq!(draw(&mut budget, &mut long), 4096);
        budget.received(&mut long, 4096, 64);
        assert_eq!(draw(&mut budget, &mut long), 4096);
        budget.received(&mut short, 1024, 0);
        assert_eq!(short.want, 1024);
    }

    #[test]
    fn a_busy_lane_gets_what_idle_ones_do_not_need() {
        let mut budget = Budget::new(16384, 8);
        let mut lanes: Vec<_> = (0..8).map(|_| budget.share(8192)).collect();
        lanes.iter_mut().for_each(|lane| assert_eq!(draw(&mut budget, lane), 256));
        budget.received(&mut lanes[5], 20, 20);
        assert_eq!(draw(&mut budget, &mut lanes[5]), 256);
        budget.received(&mut lanes[5], 256, 64);
        assert_eq!(draw(&mut budget, &mut lanes[5]), 1024);
        budget.received(&mut lanes[5], 1024, 64);
        assert_eq!(draw(&mut budget, &mut lanes[5]), 3200);
        budget.received(&mut lanes[2], 256, 256);
        budget.received(&mut lanes[2], 256, 0);
        assert_eq!(draw(&mut budget, &mut lanes[2]), 1024);
    }

    #[test]
    fn what_was_needed_once_is_given_up_as_others_receive() {
        let mut budget = Budget::new(16384, 2);
        let [mut was, mut is] = [budget.share(8192), budget.share(8192)];
        budget.received(&mut was, 2000, 0);
        let most = draw(&mut budget, &mut was);
        for _ in 0..4 * (AGE / 64) {
            draw(&mut budget, &mut is);
            budget.received(&mut is, 64, 64);
            if draw(&mut budget, &mut was) > 1024 {
                budget.received(&mut was, 1, 1);
            }
        }
        assert!(most > 3000 && was.held <= 1024, "{most}, {}", was.held);
    }

    #[test]
    fn lanes_never_hold_more_than_the_budget_and_each_has_its_floor() {
        for (frames, count) in [(16384, 8), (16384, 1), (4096, 3), (1024, 16), (64, 60), (3, 9)] {
            let mut budget = Budget::new(frames, count);
            let mut lanes: Vec<_> = (0..count).map(|_| budget.share(8192)).collect();
            let mut random = 1u32;
            for _ in 0..20_000 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let lane = &mut lanes[(random >> 8) as usize % usize::from(count)];
                let taken = if random >> 31 == 0 { lane.held } else { 0 };
                budget.received(lane, lane.held, taken);
                assert!(draw(&mut budget, lane) >= budget.floor);
                let held: u32 = lanes.iter().map(|lane| lane.held).sum();
                assert!(held <= budget.limit && budget.set_aside <= budget.limit, "{frames} {count}: {held}");
            }
        }
    }
}
