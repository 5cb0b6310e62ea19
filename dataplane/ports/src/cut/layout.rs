use super::{MOST_HEADERS, Refusal, TCP_CHECKSUM, UDP_CHECKSUM, put};
use engine::{Packet, Segmentation};
use wire::checksum::{Sum, checksum};

/// Where the headers of a super-frame lie, counted from its first byte, all checked.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    outer: Option<Ip>, // of the tunnel; its transport header is UDP
    inner: Ip,
    pub(super) l4: usize,
    pub(super) tcp: bool,
    pub(super) headers: usize, // length of all headers
}

/// An IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    at: usize,
    end: usize,
    four: bool,
}

const ETHERNET: usize = 14;
const UDP: usize = 8;
const TUNNEL: usize = 8; // VXLAN; the shortest of those that lie between UDP and an inner Ethernet header
const TCP: u8 = 6;
const UDP_PROTOCOL: u8 = 17;

impl Layout {
    pub(super) fn of(packet: &Packet) -> Result<Layout, Refusal> {
        let (meta, data) = (packet.meta(), packet.data());
        let offload = meta.offload;
        let tcp = match offload.segmentation {
            Segmentation::None => return Err(Refusal::Whole),
            Segmentation::Tcp4 | Segmentation::Tcp6 => true,
            Segmentation::Udp => false,
        };
        let inside = |offset: u16| usize::from(offset).checked_sub(packet.start()).ok_or(Refusal::Headers);
        let (l3, l4) = (inside(meta.l3)?, inside(offload.checksum_start)?);
        let inner = Ip { at: l3, end: l4, four: byte(data, l3)? >> 4 == 4 };
        let family = match offload.segmentation {
            Segmentation::Tcp4 => inner.four,
            Segmentation::Tcp6 => !inner.four,
            _ => true,
        };
        let checksum = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if l3 < ETHERNET || !family || usize::from(offload.checksum_offset) != checksum {
            return Err(Refusal::Headers);
        }
        inner.check(data, if tcp { TCP } else { UDP_PROTOCOL })?;
        if inner.says(data)? != data.len() - l3 {
            return Err(Refusal::Headers);
        }
        let headers = l4 + if tcp { tcp_header(data, l4)? } else { UDP };
        if headers > data.len() || headers > MOST_HEADERS {
            return Err(Refusal::Headers);
        }
        Ok(Layout { outer: Layout::outer(data, l3)?, inner, l4, tcp, headers })
    }

    /// The tunnel's IP header, when what lies in front of the inner one is more than a link header.
    fn outer(data: &[u8], l3: usize) -> Result<Option<Ip>, Refusal> {
        const SHORTEST: usize = ETHERNET + 20 + UDP + TUNNEL + ETHERNET;
        if l3 < SHORTEST {
            return Ok(None);
        }
        let tunnel = |_| Refusal::Tunnel;
        let mut at = ETHERNET;
        if word(data, at - 2).map_err(tunnel)? == 0x8100 {
            at += 4;
        }
        let ip = match word(data, at - 2).map_err(tunnel)? {
            0x0800 => Ip { at, end: at + 20, four: true },
            0x86dd => Ip { at, end: at + 40, four: false },
            _ => return Err(Refusal::Tunnel),
        };
        ip.check(data, UDP_PROTOCOL).map_err(tunnel)?;
        if ip.end + UDP + TUNNEL + ETHERNET > l3 {
            return Err(Refusal::Tunnel);
        }
        Ok(Some(ip))
    }

    /// The sum of pseudo-header and transport header, without what differs between segments: lengths, and for TCP
    /// sequence number, and the word that holds the flags.
    ///
    /// The field of the checksum holds the pseudo-header's sum with the super-frame's length.
    pub(super) fn transport_sum(&self, data: &[u8]) -> Option<u16> {
        let header = data.get(self.l4..self.headers)?;
        let len = u16::try_from(data.len() - self.l4).ok()?;
        let sum = Sum::new().bytes(header).u16(!len); // RFC 1624: the complement takes a number out
        if self.tcp {
            let (high, low) = (word(header, 4).ok()?, word(header, 6).ok()?);
            Some(sum.u16(!high).u16(!low).u16(!word(header, 12).ok()?).folded())
        } else {
            Some(sum.u16(!word(header, 4).ok()?).folded())
        }
    }

    pub(super) fn write_inner_ip(&self, out: &mut [u8], count: u16) -> Option<()> {
        self.inner.write(out, count)
    }

    /// Finishes the tunnel's headers of a segment that is finished otherwise. A UDP checksum that is zero stays zero
    /// (RFC 7348 section 4.1, RFC 6935).
    pub(super) fn write_outer(&self, out: &mut [u8], count: u16) -> Option<()> {
        let Some(ip) = self.outer else { return Some(()) };
        ip.write(out, count)?;
        let pseudo = Sum::new().bytes(ip.addresses(out)?).u16(UDP_PROTOCOL.into());
        let udp = out.get_mut(ip.end..)?;
        let len = u16::try_from(udp.len()).ok()?;
        put(udp, 4, len)?;
        if word(udp, UDP_CHECKSUM).ok()? == 0 {
            return Some(());
        }
        put(udp, UDP_CHECKSUM, 0)?;
        let checksum = pseudo.u16(len).bytes(udp).checksum_udp();
        put(udp, UDP_CHECKSUM, checksum)
    }
}

impl Ip {
    /// Whether it is whole, no fragment, and leads to `protocol` at its end.
    fn check(&self, data: &[u8], protocol: u8) -> Result<(), Refusal> {
        if !self.four {
            let right = byte(data, self.at)? >> 4 == 6 && self.at + 40 <= self.end && self.end <= data.len();
            return if right { self.check_chain(data, protocol) } else { Err(Refusal::Headers) };
        }
        let right = byte(data, self.at)? >> 4 == 4
            && self.at + usize::from(byte(data, self.at)? & 0xf) * 4 == self.end
            && self.at + 20 <= self.end
            && self.end <= data.len()
            && byte(data, self.at + 9)? == protocol;
        if !right {
            return Err(Refusal::Headers);
        }
        if word(data, self.at + 6)? & 0x3fff == 0 { Ok(()) } else { Err(Refusal::Indivisible) }
    }

    /// How long the packet is by its word. An outer header's is not asked: that of a super-frame need not fit its
    /// field.
    fn says(&self, data: &[u8]) -> Result<usize, Refusal> {
        if self.four { Ok(word(data, self.at + 2)?.into()) } else { Ok(usize::from(word(data, self.at + 4)?) + 40) }
    }

    /// RFC 8200 section 4: hop-by-hop options, destination options and routing lead on; a fragment cannot be divided.
    fn check_chain(&self, data: &[u8], protocol: u8) -> Result<(), Refusal> {
        const MOST: usize = 8;
        let (mut next, mut at) = (byte(data, self.at + 6)?, self.at + 40);
        for _ in 0..MOST {
            match next {
                0 | 43 | 60 if at < self.end => {
                    (next, at) = (byte(data, at)?, at + 8 + 8 * usize::from(byte(data, at + 1)?));
                }
                44 => return Err(Refusal::Indivisible),
                _ => break,
            }
        }
        if next == protocol && at == self.end { Ok(()) } else { Err(Refusal::Headers) }
    }

    /// Writes lengths, identification and checksum of segment `count` that `out` is.
    fn write(&self, out: &mut [u8], count: u16) -> Option<()> {
        let len = out.len() - self.at;
        let header = out.get_mut(self.at..self.end)?;
        if !self.four {
            return put(header, 4, u16::try_from(len - 40).ok()?);
        }
        put(header, 2, u16::try_from(len).ok()?)?;
        let id = word(header, 4).ok()?.wrapping_add(count);
        put(header, 4, id)?;
        put(header, 10, 0)?;
        let checksum = checksum(header);
        put(header, 10, checksum)
    }

    fn addresses<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        if self.four { data.get(self.at + 12..self.at + 20) } else { data.get(self.at + 8..self.at + 40) }
    }
}

/// The length of a TCP header whose segment may be divided.
fn tcp_header(data: &[u8], at: usize) -> Result<usize, Refusal> {
    const SYN_RST_URG: u8 = 0x26;
    let len = usize::from(byte(data, at + 12)? >> 4) * 4;
    if len < 20 {
        return Err(Refusal::Headers);
    }
    if byte(data, at + 13)? & SYN_RST_URG == 0 { Ok(len) } else { Err(Refusal::Indivisible) }
}

fn byte(data: &[u8], at: usize) -> Result<u8, Refusal> {
    data.get(at).copied().ok_or(Refusal::Headers)
}

fn word(data: &[u8], at: usize) -> Result<u16, Refusal> {
    data.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u16::from_be_bytes(*word)).ok_or(Refusal::Headers)
}
