//! The kernel's news: neighbours and links of the host, as they change, and all of them every now and then.
//!
//! On a shared uplink the kernel resolves. For every next hop that needs a neighbour it is asked to (`NTF_USE`), again
//! and again: an entry that no packet of the host uses would grow old otherwise.
use crate::{compile::Link, live::Shared};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    time::Duration,
};
use wire::Mac;

/// How often everything is looked at again, should news have been lost.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the kernel is asked for neighbours that it has not found.
const ASK: Duration = Duration::from_secs(1);
/// Every so many rounds of asking, those that it has found are to be confirmed.
const CONFIRM: u32 = 15;

type News = (String, IpAddr, Option<Mac>);

/// Follows the kernel's news and tells `shared`; ends with the netlink socket.
///
/// # Errors
/// When there is no netlink socket to be had.
pub async fn follow(shared: Shared) -> io::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Neigh];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let mut watch = Watch { shared, handle, names: HashMap::new(), told: HashSet::new() };
    let wanted = watch.shared.lock().wanted();
    let (mut again, mut ask) = (tokio::time::interval(AGAIN), tokio::time::interval(ASK));
    let mut round = 0;
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some((message, _)) => watch.hear(message.payload),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            _ = again.tick() => watch.look().await,
            _ = ask.tick() => {
                round += 1;
                watch.ask(round % CONFIRM == 0).await;
                watch.shared.lock().tick();
            }
            () = wanted.notified() => watch.ask(false).await,
        }
    }
}

struct Watch {
    shared: Shared,
    handle: Handle,
    names: HashMap<u32, String>,
    told: HashSet<(String, IpAddr)>,
}

impl Watch {
    fn hear(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = payload else { return };
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link(&link, true),
            RouteNetlinkMessage::DelLink(link) => self.link(&link, false),
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.neighbours(&[neighbour], true),
            RouteNetlinkMessage::DelNeighbour(neighbour) => self.neighbours(&[neighbour], false),
            _ => {}
        }
    }

    /// Looks at all links and neighbours.
    async fn look(&mut self) {
        let links: Result<Vec<_>, _> = self.handle.link().get().execute().try_collect().await;
        match links {
            Ok(links) => links.iter().for_each(|link| self.link(link, true)),
            Err(error) => return tracing::warn!("cannot list links: {error}"),
        }
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let found: Result<Vec<_>, _> =
                self.handle.neighbours().get().set_address_family(family).execute().try_collect().await;
            match found {
                Ok(found) => all.extend(found),
                Err(error) => return tracing::warn!("cannot list neighbours: {error}"),
            }
        }
        let news: Vec<_> = all.iter().filter_map(|message| self.news(message, true)).collect();
        let there: HashSet<_> = news.iter().map(|(on, ip, _)| (on.clone(), *ip)).collect();
        let gone = self.told.difference(&there).map(|(on, ip)| (on.clone(), *ip, None));
        let news: Vec<_> = news.iter().cloned().chain(gone).collect();
        self.tell(&news);
    }

    fn link(&mut self, message: &LinkMessage, there: bool) {
        let find = |found: fn(&LinkAttribute) -> bool| message.attributes.iter().find(|attribute| found(attribute));
        let Some(LinkAttribute::IfName(name)) = find(|a| matches!(a, LinkAttribute::IfName(_))) else { return };
        let mac = match find(|a| matches!(a, LinkAttribute::Address(_))) {
            Some(LinkAttribute::Address(bytes)) => bytes.as_slice().try_into().map_or(Mac::ZERO, Mac),
            _ => Mac::ZERO,
        };
        let mtu = match find(|a| matches!(a, LinkAttribute::Mtu(_))) {
            Some(LinkAttribute::Mtu(mtu)) => u16::try_from(*mtu).unwrap_or(u16::MAX),
            _ => return,
        };
        if there {
            let old = self.names.insert(message.header.index, name.clone());
            if let Some(old) = old.filter(|old| old != name) {
                self.shared.lock().see(&old, None); // it has another name now
            }
        } else {
            self.names.remove(&message.header.index);
        }
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        self.shared.lock().see(name, there.then_some(Link { mac, mtu, up }));
    }

    fn neighbours(&mut self, messages: &[NeighbourMessage], there: bool) {
        let news: Vec<_> = messages.iter().filter_map(|message| self.news(message, there)).collect();
        self.tell(&news);
    }

    fn tell(&mut self, news: &[News]) {
        for (on, ip, mac) in news {
            match mac {
                Some(_) => self.told.insert((on.clone(), *ip)),
                None => self.told.remove(&(on.clone(), *ip)),
            };
        }
        if !news.is_empty() {
            self.shared.lock().hear(news);
        }
    }

    fn news(&self, message: &NeighbourMessage, there: bool) -> Option<News> {
        let on = self.names.get(&message.header.ifindex)?.clone();
        if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return None;
        }
        let ip = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        });
        let usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        Some((on, ip, mac.filter(|mac| there && usable && mac.is_station())))
    }

    /// Asks the kernel for the neighbours that next hops need: those it does not know, or all.
    async fn ask(&self, all: bool) {
        let wanted = self.shared.lock().state().wanted();
        for (interface, address, known) in wanted {
            let index = self.names.iter().find(|(_, name)| **name == *interface).map(|(index, _)| *index);
            let Some(index) = index.filter(|_| all || !known) else { continue };
            let ask = self.handle.neighbours().add(index, address).replace();
            let asked = ask.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await;
            if let Err(error) = asked {
                tracing::debug!("the kernel does not look for {address} on {interface}: {error}");
            }
        }
    }
}
