//! May this packet pass?
use std::net::IpAddr;
use tables::told::Port;

/// What the rules say of a packet that begins a flow, or whose answer is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may pass.
    Pass,
    /// It bears a source address that its port may not use.
    Spoofed,
}

/// Judges a packet by where it enters: a pod cannot send from an address that is not its own. Packets that came out of
/// a tunnel were judged by the host that sent them.
pub(crate) fn judge(port: &Port, source: IpAddr, decapped: bool) -> Verdict {
    if decapped || port.allows(source) { Verdict::Pass } else { Verdict::Spoofed }
}
