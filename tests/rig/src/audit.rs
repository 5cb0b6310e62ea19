//! The books of a graph: whatever enters a node, or is made there, leaves it by an arc.
use std::collections::BTreeMap;

/// Arcs by which nodes let go what they made or kept.
const MADE: [(&str, &str); 11] = [
    ("arp", "Released"),
    ("local", "Released"),
    ("icmp-error", "Back"),
    ("icmp-error", "Routed"),
    ("icmp-error", "Translated"),
    ("fragment", "PieceToEgress"),
    ("fragment", "PieceToTunnel"),
    ("egress", "Solicit"),
    ("egress", "Released"),
    ("egress", "Unreachable"),
    ("egress", "Displaced"),
];
/// Of these, those by which a packet goes that was kept.
const KEPT: [(&str, &str); 5] = [
    ("arp", "Released"),
    ("local", "Released"),
    ("egress", "Released"),
    ("egress", "Unreachable"),
    ("egress", "Displaced"),
];

/// What happened between two looks at a graph's counters.
pub(crate) struct Books<'a> {
    /// Every arc: node, arc, where it leads.
    pub(crate) map: &'a [(&'static str, &'static str, &'static str)],
    /// By how much each counter moved.
    pub(crate) moved: BTreeMap<(&'static str, &'static str), u64>,
    /// Packets that entered at `entry`.
    pub(crate) entered: u64,
    /// Where they entered.
    pub(crate) entry: &'static str,
    /// Packets that were sent.
    pub(crate) sent: u64,
}

impl Books<'_> {
    /// By how much the number of packets grew that are kept.
    ///
    /// # Errors
    /// What does not balance, to the packet.
    pub(crate) fn balance(&self) -> Result<i64, String> {
        let mut wrong = Vec::new();
        let lost = self.count(|(node, _)| node == "graph");
        for node in self.map.iter().map(|(node, ..)| *node).collect::<std::collections::BTreeSet<_>>() {
            let entered = if node == self.entry { self.entered } else { 0 };
            let made = self.count(|arc| arc.0 == node && MADE.contains(&arc));
            let (came, left) = (entered + made + self.led_to(node), self.count(|arc| arc.0 == node));
            // What is dropped between nodes for its laps was counted by the arc that it left by.
            if !(came..=came + lost).contains(&(left + lost)) {
                wrong.push(format!("{node}: {came} came, {left} left"));
            }
        }
        let (sent, made) = (self.led_to("send"), self.count(|arc| MADE.contains(&arc)));
        if sent != self.sent {
            wrong.push(format!("{sent} counted as sent, {} sent", self.sent));
        }
        let (dropped, kept) = (self.led_to("drop") + lost, self.led_to("hold"));
        if self.entered + made != sent + dropped + kept + self.led_to("hand-off") {
            wrong.push(format!("{} entered, {made} made; {sent} sent, {dropped} dropped, {kept} kept", self.entered));
        }
        let let_go = self.count(|arc| KEPT.contains(&arc));
        if wrong.is_empty() { Ok(kept.cast_signed() - let_go.cast_signed()) } else { Err(wrong.join("; ")) }
    }

    fn led_to(&self, end: &str) -> u64 {
        let arcs = self.map.iter().filter(|(.., to)| *to == end);
        arcs.map(|(node, arc, _)| self.moved.get(&(*node, *arc)).copied().unwrap_or(0)).sum()
    }

    fn count(&self, which: impl Fn((&str, &str)) -> bool) -> u64 {
        self.moved.iter().filter(|(arc, _)| which(**arc)).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [(&str, &str, &str); 4] = [
        ("front", "Forward", "egress"),
        ("front", "Denied", "drop"),
        ("egress", "Send", "send"),
        ("egress", "Held", "hold"),
    ];

    fn balance(moved: [u64; 4], entered: u64, sent: u64) -> Result<i64, String> {
        let moved = MAP.iter().zip(moved).map(|((node, arc, _), count)| ((*node, *arc), count)).collect();
        Books { map: &MAP, moved, entered, entry: "front", sent }.balance()
    }

    #[test]
    fn a_packet_too_few_or_too_many_is_told() {
        assert_eq!(balance([3, 2, 2, 1], 5, 2), Ok(1));
        for (moved, entered, sent) in [
            ([3, 2, 2, 1], 6, 2),
            ([3, 2, 2, 1], 5, 1),
            ([3, 1, 2, 1], 5, 2),
            ([3, 2, 2, 0], 5, 2),
            ([2, 2, 2, 1], 5, 2),
        ] {
            assert!(balance(moved, entered, sent).is_err(), "{moved:?}");
        }
    }
}
