//! What was right, and what was done to it: random bytes alone get no further than a parser's first check.

/// Which input it was, bytes that are others now, where it is cut, and what follows it.
pub(crate) type Damage = (u8, Vec<(u16, u8)>, Option<u16>, Vec<u8>);

/// One of `bases`, damaged; or bytes out of nowhere.
pub(crate) fn damaged(bases: &[Vec<u8>], (base, changed, cut, more): &Damage) -> Vec<u8> {
    let mut bytes = bases.get(usize::from(*base) % (bases.len() + 1)).cloned().unwrap_or_default();
    let len = bytes.len();
    // A few changes get deeper than many.
    for (at, value) in changed.iter().take(usize::from(base % 8)).filter(|_| len > 0) {
        bytes[usize::from(*at) % len] = *value;
    }
    match cut {
        Some(cut) if cut % 4 == 0 && len > 0 => bytes.truncate(usize::from(*cut) % len),
        Some(cut) if cut % 4 == 1 => bytes.extend(more),
        Some(cut) if cut % 4 == 2 && len > 0 => {
            let at = usize::from(*cut) % len;
            bytes.splice(at..at, more.iter().copied());
        }
        _ if len == 0 => bytes.clone_from(more),
        _ => {}
    }
    bytes
}
