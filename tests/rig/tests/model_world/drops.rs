//! Why the product dropped packets, as the model says it.
use model::Why;

/// A reason for each packet that was dropped, in order; none for those of which something else was made.
pub(super) fn reasons(moved: &[(&'static str, &'static str, u64)]) -> Vec<Why> {
    let mut all = Vec::new();
    for (node, arc, count) in moved {
        let reason = reason(node, arc);
        all.extend((0..*count).filter_map(|_| reason));
    }
    all.sort();
    all
}

/// Says of each reply to a blackhole what the product may say of it too.
pub(super) fn settle(why: &mut [Why], told: &[Why]) {
    let known = |all: &[Why]| all.iter().filter(|reason| **reason == Why::Blackhole).count();
    let mut left = known(told).saturating_sub(known(why));
    for reason in why.iter_mut().filter(|reason| **reason == Why::ReplyToBlackhole) {
        *reason = if left > 0 { Why::Blackhole } else { Why::ReplyWithoutFlow };
        left = left.saturating_sub(1);
    }
    why.sort();
}

fn reason(node: &str, arc: &str) -> Option<Why> {
    Some(match (node, arc) {
        ("front", "NoPort") => Why::NoPort,
        ("front", "NotForUs" | "Multicast" | "Tagged" | "NotIp") => Why::NotForUs,
        ("vxlan-decap", "UnknownNetwork" | "UnknownRemote" | "WrongAddress" | "Group") => Why::NotForUs,
        ("front" | "fragments", "Malformed" | "BadChecksum") => Why::Malformed,
        ("vxlan-decap", "NotVxlan" | "NotEthernet") => Why::Malformed,
        ("front" | "learn", "Martian") => Why::Martian,
        ("learn" | "fragments", "Spoofed") => Why::Spoofed,
        ("fragments", "NoFirst") => Why::NoFirst,
        ("fragments", "Tiny") => Why::Tiny,
        ("fragments", "Overlap") => Why::Overlap,
        ("learn", "ReplyWithoutFlow") => Why::ReplyWithoutFlow,
        ("learn", "ErrorWithoutFlow" | "Malformed") => Why::ErrorWithoutFlow,
        ("front" | "learn", "Denied" | "Blackhole") => Why::Blackhole,
        ("icmp-error", "NotWorthy" | "NoSource") | ("route", "NoRoute") => Why::Untold,
        ("arp" | "local", "Answered" | "Routed" | "Complain") => return None,
        ("arp" | "local", _) => Why::Ignored,
        ("icmp-error", "Done") | ("fragment", "Cut") => return None, // its sender hears of it; its fragments go on
        _ if GOES_ON.contains(&arc) => return None,
        _ => panic!("{node}.{arc} has no place in this world"),
    })
}

/// Arcs that do not drop.
const GOES_ON: [&str; 20] = [
    "Forward",
    "Tunnel",
    "Unknown",
    "Local",
    "Decap",
    "Arp",
    "Fragment",
    "Expired",
    "NoRoute",
    "Unreachable",
    "Inner",
    "Followed",
    "Back",
    "Routed",
    "Translated",
    "Out",
    "TooBig",
    "PieceToEgress",
    "PieceToTunnel",
    "Send",
];
