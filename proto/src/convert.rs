//! Addresses between their bytes on the wire and Rust's types.
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::v1::{Kind, ObjectKey, Prefix};

/// The address of `bytes`: 4 are IPv4, 16 are IPv6, else none.
pub fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// The bytes of `address`, in network order: 4 or 16.
pub fn ip_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The MAC address of `bytes`, when they are six.
pub fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

/// A MAC address as people write it: `02:00:5e:10:00:01`. Any number of bytes is written.
pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().enumerate().fold(String::new(), |mut text, (i, byte)| {
        let _ = write!(text, "{}{byte:02x}", if i == 0 { "" } else { ":" });
        text
    })
}

/// Reads a MAC address as [`mac_text`] writes it.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() <= 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

impl Prefix {
    /// The prefix `address/length`.
    pub fn new(address: IpAddr, length: u8) -> Self {
        Prefix { address: ip_bytes(address), length: u32::from(length) }
    }

    /// The prefix that holds `address` alone.
    pub fn host(address: IpAddr) -> Self {
        Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    /// Address and length, when they fit together.
    pub fn get(&self) -> Option<(IpAddr, u8)> {
        let address = ip(&self.address)?;
        let length = u8::try_from(self.length).ok().filter(|l| *l <= if address.is_ipv4() { 32 } else { 128 })?;
        Some((address, length))
    }

    /// The prefix as people write it, `10.1.0.0/16`; what is no prefix is written `?`.
    pub fn text(&self) -> String {
        self.get().map_or_else(|| "?".to_owned(), |(address, length)| format!("{address}/{length}"))
    }
}

impl ObjectKey {
    /// Names the object of `kind` that the caller calls `id`.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        ObjectKey { kind: kind.into(), id: id.into() }
    }
}

impl Kind {
    /// The kind as people write it: `port`, `route`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Unspecified => "object",
            Kind::Settings => "settings",
            Kind::Port => "port",
            Kind::Route => "route",
            Kind::Neighbour => "neighbour",
            Kind::Tunnel => "tunnel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_bytes() {
        for text in ["10.1.2.3", "0.0.0.0", "fd00::1", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(&ip_bytes(address)), Some(address));
        }
        assert_eq!(ip(&[1, 2, 3]), None);
        assert_eq!(mac(&[1; 5]), None);
    }

    #[test]
    fn macs_survive_their_text() {
        let bytes = [2, 0, 0x5e, 0xff, 0, 9];
        assert_eq!(mac_text(&bytes), "02:00:5e:ff:00:09");
        assert_eq!(parse_mac("02:00:5e:ff:00:09"), Some(bytes));
        for bad in ["", "02:00:5e:ff:00", "02:00:5e:ff:00:09:01", "02:00:5e:ff:00:zz", "002:0:0:0:0:0"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_prefix_knows_when_it_is_none() {
        let prefix = Prefix::new("10.1.0.0".parse().unwrap(), 16);
        assert_eq!((prefix.text().as_str(), prefix.get().map(|p| p.1)), ("10.1.0.0/16", Some(16)));
        assert_eq!(Prefix { address: vec![10, 1, 0, 0], length: 33 }.get(), None);
        assert_eq!(Prefix { address: vec![10, 1], length: 8 }.text(), "?");
        assert_eq!(Prefix::host("fd00::1".parse().unwrap()).length, 128);
    }
}
