//! Frames of neighbour discovery (RFC 4861).
use super::{Addresses, Path, icmp6};
use crate::icmpv6::{Icmpv6, Kind};
use crate::nd::{self, LinkLayer};
use crate::{IntoBytes, Mac, U128};

/// Asks who has `target`, from `mac` and `src`, to the target's group (RFC 4861, section 4.3); from the unspecified
/// address, as duplicate address detection does, without the link-layer option.
pub fn neighbour_solicitation(into: &mut [u8], mac: Mac, src: U128, target: U128) -> Option<usize> {
    let path = to_group(mac, src, nd::solicited_node(target));
    message(into, &path, (Kind::NEIGHBOUR_SOLICITATION, 0), target.as_bytes(), option(mac, src))
}

/// Says to the path's destination that `target` is at the path's source; `flags` such as [`nd::SOLICITED`]
/// (RFC 4861, section 4.4). None when the path is not IPv6.
pub fn neighbour_advertisement(into: &mut [u8], path: &Path, target: U128, flags: u32) -> Option<usize> {
    let path = Path { hops: nd::HOP_LIMIT, ..*path };
    let Addresses::V6(..) = path.addresses else { return None };
    let option = LinkLayer::new(nd::TARGET, path.src_mac);
    message(into, &path, (Kind::NEIGHBOUR_ADVERTISEMENT, flags), target.as_bytes(), Some(option))
}

/// Asks all routers to speak, from `mac` and `src` (RFC 4861, section 4.1).
pub fn router_solicitation(into: &mut [u8], mac: Mac, src: U128) -> Option<usize> {
    let path = to_group(mac, src, nd::ALL_ROUTERS);
    message(into, &path, (Kind::ROUTER_SOLICITATION, 0), &[], option(mac, src))
}

fn to_group(mac: Mac, src: U128, group: U128) -> Path {
    let path = Path::new((mac, Mac::of_ipv6_group(group.get())), Addresses::V6(src, group));
    Path { hops: nd::HOP_LIMIT, ..path }
}

fn option(mac: Mac, src: U128) -> Option<LinkLayer> {
    (src != U128::ZERO).then_some(LinkLayer::new(nd::SOURCE, mac))
}

fn message(
    into: &mut [u8],
    path: &Path,
    (kind, rest): (Kind, u32),
    target: &[u8],
    option: Option<LinkLayer>,
) -> Option<usize> {
    let mut body = [0; 24];
    let (head, tail) = body.split_at_mut_checked(target.len())?;
    head.copy_from_slice(target);
    let mut len = target.len();
    if let Some(option) = option {
        tail.first_chunk_mut::<{ LinkLayer::LEN }>()?.copy_from_slice(option.as_bytes());
        len += LinkLayer::LEN;
    }
    icmp6(into, path, Icmpv6::new(kind, 0, rest), body.get(..len)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MACS, path4, path6, transport_sum};
    use super::*;
    use crate::build::frame;
    use crate::nd::Neighbour;
    use crate::{Eth6, FromBytes};

    #[test]
    fn asks_and_answers() {
        let (src, target) = (U128::new(0xfd00 << 112 | 1), U128::new(0xfd00 << 112 | 0xabcd));
        let ask = frame(|into| neighbour_solicitation(into, MACS.0, src, target)).unwrap();
        let (headers, body) = Eth6::ref_from_prefix(&ask).unwrap();
        let (asked, options) = Neighbour::parse(body).unwrap();
        assert_eq!((ask.len(), transport_sum(&ask), headers.ip.hop_limit), (86, 0xffff, 255));
        assert_eq!((asked.target, nd::link_layer(options, nd::SOURCE)), (target, Some(MACS.0)));
        assert_eq!(headers.ethernet.dst.to_string(), "33:33:ff:00:ab:cd");

        let probe = frame(|into| neighbour_solicitation(into, MACS.0, U128::ZERO, target)).unwrap();
        assert_eq!((probe.len(), transport_sum(&probe)), (78, 0xffff));

        let path = path6();
        let answer = frame(|into| neighbour_advertisement(into, &path, target, nd::SOLICITED | nd::OVERRIDE)).unwrap();
        let (_, body) = Eth6::ref_from_prefix(&answer).unwrap();
        let (said, options) = Neighbour::parse(body).unwrap();
        assert_eq!((answer.len(), transport_sum(&answer)), (86, 0xffff));
        assert_eq!((said.target, nd::link_layer(options, nd::TARGET)), (target, Some(MACS.0)));
        assert!(said.is_solicited() && said.is_override() && !said.is_router());
        assert_eq!(frame(|into| neighbour_advertisement(into, &path4(), target, 0)), None);

        let routers = frame(|into| router_solicitation(into, MACS.0, src)).unwrap();
        assert_eq!((routers.len(), transport_sum(&routers)), (70, 0xffff));
    }
}
