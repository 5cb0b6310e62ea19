//! A flow's key as the rules see it, whatever its address family.
use std::net::IpAddr;
use tables::flows::{Key4, Key6};

/// Who talks to whom: a flow key with addresses of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: IpAddr,
    /// To, of the same family.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The transport protocol (IANA number).
    pub protocol: u8,
    /// The VRF.
    pub vrf: u16,
}

impl Tuple {
    /// A tuple of two ends and of ports (source << 16 | destination), protocol and VRF.
    #[expect(clippy::cast_possible_truncation, reason = "takes the two ports out of their word")]
    pub(super) fn of(source: IpAddr, destination: IpAddr, (ports, protocol, vrf): (u32, u8, u16)) -> Self {
        let (source_port, destination_port) = ((ports >> 16) as u16, ports as u16);
        Tuple { source, destination, source_port, destination_port, protocol, vrf }
    }

    /// The other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// The same flow with other addresses and ports.
    pub(crate) fn moved(self, source: IpAddr, destination: IpAddr, ports: u32) -> Self {
        Tuple::of(source, destination, (ports, self.protocol, self.vrf))
    }

    pub(crate) fn ports(self) -> u32 {
        u32::from(self.source_port) << 16 | u32::from(self.destination_port)
    }
}

impl From<Key4> for Tuple {
    fn from(key: Key4) -> Self {
        let (source, destination, ports, protocol, vrf) = key.fields();
        Tuple::of(source.into(), destination.into(), (ports, protocol, vrf))
    }
}

impl From<Key6> for Tuple {
    fn from(key: Key6) -> Self {
        let (source, destination, ports, protocol, vrf) = key.fields();
        Tuple::of(source.into(), destination.into(), (ports, protocol, vrf))
    }
}
