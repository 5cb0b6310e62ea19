//! What one object says, checked on its own: from its message to types that cannot be wrong.
use super::Object;
use engine::PortId;
use proto::{
    Refusal,
    v1::{self, Kind, Reason},
};
use std::{net::IpAddr, sync::Arc};
use tables::told::{Prefix, Resolution, Role, VrfId};
use wire::{Mac, Vni};

/// Virtual routing tables are numbered below this.
pub const MOST_VRFS: u32 = 1024;
/// The least MTU of IPv4 (RFC 791 section 3.2), in bytes.
const LEAST_MTU: u32 = 68;
const MOST_MTU: u32 = 65_535;
/// The longest id, in bytes.
const LONGEST_ID: usize = 1024;
/// The longest name of an interface (kernel: IFNAMSIZ with its final zero), in bytes.
const LONGEST_NAME: usize = 15;
/// UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;
/// Flows count time in steps that wrap after three days; time-outs stay well below.
const LONGEST_IDLE: u32 = 2 * 24 * 3600;

/// A device: namespace and name.
pub(super) type Device = (Arc<str>, Arc<str>);

/// A port.
#[derive(Debug)]
pub struct Port {
    pub(super) role: Role,
    pub(super) vrf: VrfId,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u16>,
    pub(super) allowed: Arc<[Prefix]>,
    pub(super) gateways: Arc<[IpAddr]>,
    pub(super) stateless: bool,
    pub(super) resolution: Resolution,
    /// The host's interface whose neighbours the kernel resolves.
    pub(super) kernel: bool,
    /// The interface of the host's namespace that it runs on.
    pub(super) interface: Option<Arc<str>>,
    /// What no two ports may share.
    pub(super) device: Option<Device>,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    pub(super) vrf: VrfId,
    pub(super) prefix: Prefix,
    pub(super) way: Way,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub(super) enum Way {
    Via { port: Arc<str>, gateway: Option<IpAddr> },
    Tunnel(Arc<str>),
    Local,
    Blackhole,
    Unreachable,
}

/// A neighbour.
#[derive(Debug)]
pub struct Neighbour {
    pub(super) port: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
}

/// A tunnel.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) vni: Vni,
    pub(super) udp_port: u16,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) inner: (Mac, Mac),
    pub(super) vrf: VrfId,
    pub(super) underlay: VrfId,
    pub(super) mtu: u16,
}

impl Object for v1::Port {
    const KIND: Kind = Kind::Port;
    type Checked = Port;

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<Port, Refusal> {
        let say = Say::of(self)?;
        let device = device(self, &say)?;
        let role = match self.role() {
            v1::Role::Pod => Role::Pod,
            v1::Role::Uplink => Role::Uplink,
            v1::Role::Host => Role::Host,
            v1::Role::Unspecified => return Err(say.missing("role")),
        };
        let kernel = self.resolve() == v1::Resolve::Kernel;
        if kernel && !matches!(self.kind, Some(v1::port::Kind::AfXdp(_))) {
            return Err(say.invalid("resolve", "KERNEL is for af_xdp ports, whose interface the kernel has"));
        }
        let mac = if self.mac.is_empty() { None } else { Some(say.mac("mac", &self.mac)?) };
        if mac.is_none() && matches!(self.kind, Some(v1::port::Kind::Tap(_))) {
            return Err(say.missing("mac"));
        }
        if role != Role::Pod && !self.allowed_addresses.is_empty() {
            let text = "sources are checked on pods' ports only: leave it empty or make the role ROLE_POD";
            return Err(say.refuse("allowed_addresses", Reason::Unsupported, text));
        }
        let allowed = self.allowed_addresses.iter().map(|prefix| say.network("allowed_addresses", Some(prefix)));
        Ok(Port {
            role,
            vrf: say.vrf("vrf", self.vrf)?,
            mac,
            mtu: if self.mtu == 0 { None } else { Some(say.mtu("mtu", self.mtu)?) },
            allowed: allowed.collect::<Result<_, _>>()?,
            gateways: self.gateways.iter().map(|ip| say.unicast("gateways", ip)).collect::<Result<_, _>>()?,
            stateless: self.stateless,
            resolution: if self.resolve() == v1::Resolve::Own { Resolution::Own } else { Resolution::Told },
            kernel,
            interface: device.as_ref().filter(|(netns, _)| netns.is_empty()).map(|(_, name)| name.clone()),
            device,
        })
    }
}

fn device(port: &v1::Port, say: &Say<'_>) -> Result<Option<Device>, Refusal> {
    let kind = port.kind.as_ref().ok_or_else(|| say.missing("kind"))?;
    Ok(match kind {
        v1::port::Kind::Tap(tap) => {
            check_tap(tap, say)?;
            Some((tap.netns_path.as_str().into(), tap.name.as_str().into()))
        }
        v1::port::Kind::AfXdp(af_xdp) => {
            say.interface("af_xdp.interface", &af_xdp.interface)?;
            Some(("".into(), af_xdp.interface.as_str().into()))
        }
        v1::port::Kind::AfPacket(_) => {
            return Err(say.refuse("af_packet", Reason::Unsupported, "this build has no packet sockets: use af_xdp"));
        }
        v1::port::Kind::Loopback(_) | v1::port::Kind::Null(_) => None,
    })
}

fn check_tap(tap: &v1::Tap, say: &Say<'_>) -> Result<(), Refusal> {
    say.interface("tap.name", &tap.name)?;
    if !tap.netns_path.is_empty() && !tap.netns_path.starts_with('/') {
        return Err(say.invalid(proto::NETNS_PATH, format!("{:?} is not an absolute path", tap.netns_path)));
    }
    if !tap.mac.is_empty() {
        say.mac("tap.mac", &tap.mac)?;
    }
    if tap.mtu == 0 {
        return Err(say.missing("tap.mtu"));
    }
    say.mtu("tap.mtu", tap.mtu)?;
    for address in &tap.addresses {
        let (ip, _) = say.prefix("tap.addresses", Some(address))?;
        say.unicast("tap.addresses", &proto::ip_bytes(ip))?;
    }
    for route in &tap.routes {
        let to = say.network("tap.routes.to", route.to.as_ref())?.address();
        for (field, bytes) in [("tap.routes.gateway", &route.gateway), ("tap.routes.source", &route.source)] {
            if !bytes.is_empty() && say.unicast(field, bytes)?.is_ipv4() != to.is_ipv4() {
                return Err(say.invalid(field, "is not of the destination's family"));
            }
        }
        if route.mtu != 0 {
            say.mtu("tap.routes.mtu", route.mtu)?;
        }
    }
    Ok(())
}

impl Object for v1::Route {
    const KIND: Kind = Kind::Route;
    type Checked = Route;

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<Route, Refusal> {
        let say = Say::of(self)?;
        let prefix = say.network("prefix", self.prefix.as_ref())?;
        let way = match self.next_hop.as_ref().ok_or_else(|| say.missing("next_hop"))? {
            v1::route::NextHop::Via(via) => {
                let port = say.name("via.port", &via.port)?;
                let gateway =
                    if via.gateway.is_empty() { None } else { Some(say.unicast("via.gateway", &via.gateway)?) };
                if gateway.is_some_and(|gateway| gateway.is_ipv4() != prefix.address().is_ipv4()) {
                    return Err(say.invalid("via.gateway", "is not of the prefix's family"));
                }
                Way::Via { port, gateway }
            }
            v1::route::NextHop::Tunnel(id) => Way::Tunnel(say.name("tunnel", id)?),
            v1::route::NextHop::Local(_) => Way::Local,
            v1::route::NextHop::Blackhole(_) => Way::Blackhole,
            v1::route::NextHop::Unreachable(_) => Way::Unreachable,
        };
        Ok(Route { vrf: say.vrf("vrf", self.vrf)?, prefix, way })
    }
}

impl Object for v1::Neighbour {
    const KIND: Kind = Kind::Neighbour;
    type Checked = Neighbour;

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<Neighbour, Refusal> {
        let say = Say::of(self)?;
        Ok(Neighbour {
            port: say.name("port", &self.port)?,
            address: say.unicast("address", &self.address)?,
            mac: say.mac("mac", &self.mac)?,
        })
    }
}

impl Object for v1::Tunnel {
    const KIND: Kind = Kind::Tunnel;
    type Checked = Tunnel;

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<Tunnel, Refusal> {
        let say = Say::of(self)?;
        let v1::tunnel::Kind::Vxlan(vxlan) = self.kind.as_ref().ok_or_else(|| say.missing("kind"))?;
        let vni = Vni::new(vxlan.vni)
            .ok_or_else(|| say.invalid("vxlan.vni", format!("{} has more than 24 bits", vxlan.vni)))?;
        let udp_port = u16::try_from(vxlan.udp_port)
            .map_err(|_| say.invalid("vxlan.udp_port", format!("{} is more than 65535", vxlan.udp_port)))?;
        let local = say.unicast("vxlan.local", &vxlan.local)?;
        let remote = say.unicast("vxlan.remote", &vxlan.remote)?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(say.invalid("vxlan.remote", "is not of the family of vxlan.local"));
        }
        if local == remote {
            return Err(say.invalid("vxlan.remote", "is our own end"));
        }
        if self.mtu == 0 {
            return Err(say.missing("mtu"));
        }
        Ok(Tunnel {
            vni,
            udp_port: if udp_port == 0 { VXLAN_PORT } else { udp_port },
            local,
            remote,
            inner: (say.mac("vxlan.local_mac", &vxlan.local_mac)?, say.mac("vxlan.remote_mac", &vxlan.remote_mac)?),
            vrf: say.vrf("vrf", self.vrf)?,
            underlay: say.vrf("underlay_vrf", self.underlay_vrf)?,
            mtu: say.mtu("mtu", self.mtu)?,
        })
    }
}

/// Limits as `settings` say, defaults elsewhere.
pub(super) fn limits(settings: &v1::Settings) -> Result<tables::told::Limits, Refusal> {
    let mut limits = tables::told::Limits::default();
    let say = Say { kind: Kind::Settings, id: "" };
    for (field, seconds, limit) in [
        ("udp_idle_seconds", settings.udp_idle_seconds, &mut limits.idle_replied),
        ("tcp_idle_seconds", settings.tcp_idle_seconds, &mut limits.idle_established),
    ] {
        if seconds > LONGEST_IDLE {
            return Err(say.invalid(field, format!("{seconds} is more than {LONGEST_IDLE}")));
        }
        if seconds != 0 {
            *limit = seconds;
        }
    }
    if settings.icmp_errors_per_second != 0 {
        limits.icmp_errors = settings.icmp_errors_per_second;
    }
    if settings.icmp_errors == Some(false) {
        limits.icmp_errors = 0;
    }
    Ok(limits)
}

/// Says no about one object.
struct Say<'a> {
    kind: Kind,
    id: &'a str,
}

impl<'a> Say<'a> {
    fn of<T: Object>(object: &'a T) -> Result<Self, Refusal> {
        let say = Say { kind: T::KIND, id: object.id() };
        match object.id().len() {
            0 => Err(say.missing("id")),
            1..=LONGEST_ID => Ok(say),
            long => Err(say.invalid("id", format!("has {long} bytes, more than {LONGEST_ID}"))),
        }
    }

    fn refuse(&self, field: &str, reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal::new(self.kind, self.id, field, reason, text)
    }

    fn missing(&self, field: &str) -> Refusal {
        self.refuse(field, Reason::Missing, "must be there")
    }

    fn invalid(&self, field: &str, text: impl Into<String>) -> Refusal {
        self.refuse(field, Reason::Invalid, text)
    }

    fn name(&self, field: &str, id: &str) -> Result<Arc<str>, Refusal> {
        if id.is_empty() { Err(self.missing(field)) } else { Ok(id.into()) }
    }

    fn vrf(&self, field: &str, vrf: u32) -> Result<VrfId, Refusal> {
        let number = u16::try_from(vrf).ok().filter(|_| vrf < MOST_VRFS);
        number.map(VrfId).ok_or_else(|| self.invalid(field, format!("{vrf} is not below {MOST_VRFS}")))
    }

    fn mtu(&self, field: &str, mtu: u32) -> Result<u16, Refusal> {
        let fits = u16::try_from(mtu).ok().filter(|_| (LEAST_MTU..=MOST_MTU).contains(&mtu));
        fits.ok_or_else(|| self.invalid(field, format!("{mtu} is not between {LEAST_MTU} and {MOST_MTU}")))
    }

    fn mac(&self, field: &str, bytes: &[u8]) -> Result<Mac, Refusal> {
        if bytes.is_empty() {
            return Err(self.missing(field));
        }
        let mac = proto::mac(bytes).map(Mac);
        let mac = mac.ok_or_else(|| self.invalid(field, format!("has {} bytes, not 6", bytes.len())))?;
        if mac.is_station() {
            return Ok(mac);
        }
        Err(self.invalid(field, format!("{} is a group or zero, not one station", proto::mac_text(bytes))))
    }

    fn unicast(&self, field: &str, bytes: &[u8]) -> Result<IpAddr, Refusal> {
        if bytes.is_empty() {
            return Err(self.missing(field));
        }
        let ip =
            proto::ip(bytes).ok_or_else(|| self.invalid(field, format!("has {} bytes, not 4 or 16", bytes.len())))?;
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || broadcast {
            return Err(self.invalid(field, format!("{ip} is not the address of one station")));
        }
        Ok(ip)
    }

    fn prefix(&self, field: &str, prefix: Option<&v1::Prefix>) -> Result<(IpAddr, u8), Refusal> {
        let prefix = prefix.ok_or_else(|| self.missing(field))?;
        prefix.get().ok_or_else(|| {
            let text =
                format!("{} bytes of address and {} bits of length are no prefix", prefix.address.len(), prefix.length);
            self.invalid(field, text)
        })
    }

    fn network(&self, field: &str, prefix: Option<&v1::Prefix>) -> Result<Prefix, Refusal> {
        let (address, len) = self.prefix(field, prefix)?;
        match Prefix::new(address, len).filter(|network| network.address() == address) {
            Some(network) => Ok(network),
            None => Err(self.invalid(field, format!("{address}/{len} has bits behind its length"))),
        }
    }

    fn interface(&self, field: &str, name: &str) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(self.missing(field));
        }
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        // The kernel's settings for all interfaces, and for those to come, have these names.
        let taken = matches!(name, "." | ".." | "all" | "default");
        if name.len() > LONGEST_NAME || name.contains(bad) || taken {
            return Err(self.invalid(field, format!("{name:?} cannot be the name of an interface")));
        }
        Ok(())
    }
}

/// The slot number that ports share with the engine.
pub(super) fn port_id(slot: u32) -> PortId {
    PortId(u16::try_from(slot).unwrap_or(0)) // `Numbers` gives none that is larger
}
