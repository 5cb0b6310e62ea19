//! The kernel's side of a tap: addresses, routes and settings, in whatever namespace it is.
use crate::talk::{Tap, TapRoute};
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope},
    },
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
};

/// What marks routes of ours in the kernel's tables: no protocol of `rt_protos` has this number.
const OURS: RouteProtocol = RouteProtocol::Other(77);

/// Why the kernel's side could not be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum SideError {
    /// The system refused a step.
    #[error("cannot {step}: {source}")]
    System { step: &'static str, source: io::Error },
    /// The kernel refused a request.
    #[error("cannot {step}: {source}")]
    Request { step: String, source: rtnetlink::Error },
    /// The interface is not there.
    #[error("there is no interface {0}")]
    Missing(String),
}

/// Gives the interface of `tap` exactly its addresses and routes. `netns`: where it is; none: here.
pub(super) fn set_up(tap: &Tap, netns: Option<BorrowedFd<'_>>) -> Result<(), SideError> {
    let failed = |step| move |source| SideError::System { step, source };
    let there = || {
        if let Some(netns) = netns {
            let entered = move_into_link_name_space(netns, Some(LinkNameSpaceType::Network));
            entered.map_err(|errno| failed("enter the network namespace")(errno.into()))?;
        }
        quiet(tap);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.map_err(failed("start a runtime"))?.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
            let connection = tokio::spawn(connection);
            let result = set(tap, &handle).await;
            connection.abort();
            result
        })
    };
    // A thread is in one namespace: one of its own goes there, and ends.
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, there) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(source) => Err(failed("start a thread")(source)),
    })
}

/// The kernel neither looks for duplicates of addresses that we gave, nor takes routers' word on a tap.
fn quiet(tap: &Tap) {
    let mut settings = vec![("accept_ra", "0"), ("accept_dad", "0"), ("dad_transmits", "0"), ("autoconf", "0")];
    if tap.addresses.iter().any(|(address, _)| address.is_ipv6()) {
        settings.push(("disable_ipv6", "0"));
    }
    for (name, value) in settings {
        // A kernel without IPv6 has none of these.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/{name}", tap.name), value);
    }
}

async fn set(tap: &Tap, handle: &Handle) -> Result<(), SideError> {
    let index = index(handle, &tap.name).await?;
    set_addresses(tap, index, handle).await?;
    set_routes(tap, index, handle).await
}

async fn index(handle: &Handle, name: &str) -> Result<u32, SideError> {
    let mut found = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
    match found.try_next().await {
        Ok(Some(link)) => Ok(link.header.index),
        Ok(None) => Err(SideError::Missing(name.into())),
        Err(source) => Err(request(format!("find interface {name}"))(source)),
    }
}

async fn set_addresses(tap: &Tap, index: u32, handle: &Handle) -> Result<(), SideError> {
    let wanted: HashSet<_> = tap.addresses.iter().copied().collect();
    let mut there = Box::pin(handle.address().get().set_link_index_filter(index).execute());
    let mut extra = Vec::new();
    while let Some(message) = there.try_next().await.map_err(request("list addresses".into()))? {
        let address = address_of(&message);
        let of_the_link = matches!(address, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
        if address.is_some_and(|address| !of_the_link && !wanted.contains(&(address, message.header.prefix_len))) {
            extra.push(message);
        }
    }
    for message in extra {
        handle.address().del(message).execute().await.map_err(request("remove an address".into()))?;
    }
    for (address, length) in &tap.addresses {
        let mut add = handle.address().add(index, *address, *length).replace();
        if address.is_ipv6() {
            let message = add.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        add.execute().await.map_err(request(format!("add address {address}/{length}")))?;
    }
    Ok(())
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })
}

async fn set_routes(tap: &Tap, index: u32, handle: &Handle) -> Result<(), SideError> {
    let wanted: Vec<_> = tap.routes.iter().map(|wanted| route(wanted, index)).collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for old in ours(handle, family, index).await? {
            if !wanted.iter().any(|wanted| same_target(wanted, &old)) {
                handle.route().del(old).execute().await.map_err(request("remove a route".into()))?;
            }
        }
    }
    for (message, wanted) in wanted.into_iter().zip(&tap.routes) {
        let (to, length) = wanted.to;
        let added = handle.route().add(message).replace().execute().await;
        added.map_err(request(format!("add route {to}/{length}")))?;
    }
    Ok(())
}

async fn ours(handle: &Handle, family: AddressFamily, index: u32) -> Result<Vec<RouteMessage>, SideError> {
    let mut all = RouteMessage::default();
    all.header.address_family = family;
    let mut found = Box::pin(handle.route().get(all).execute());
    let mut ours = Vec::new();
    while let Some(message) = found.try_next().await.map_err(request("list routes".into()))? {
        let out = message.attributes.contains(&RouteAttribute::Oif(index));
        if out && message.header.protocol == OURS {
            ours.push(message);
        }
    }
    Ok(ours)
}

fn same_target(a: &RouteMessage, b: &RouteMessage) -> bool {
    let of = |message: &RouteMessage| {
        let to = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(to) => Some(to.clone()),
            _ => None,
        });
        (message.header.address_family, message.header.destination_prefix_length, to)
    };
    of(a) == of(b)
}

fn route(route: &TapRoute, index: u32) -> RouteMessage {
    let (to, length) = route.to;
    let mut message = match to {
        IpAddr::V4(to) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).protocol(OURS);
            if length != 0 {
                builder = builder.destination_prefix(to, length);
            }
            if let Some(IpAddr::V4(gateway)) = route.gateway {
                builder = builder.gateway(gateway).onlink();
            } else {
                builder = builder.scope(RouteScope::Link);
            }
            if let Some(IpAddr::V4(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
        IpAddr::V6(to) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).protocol(OURS);
            if length != 0 {
                builder = builder.destination_prefix(to, length);
            }
            if let Some(IpAddr::V6(gateway)) = route.gateway {
                builder = builder.gateway(gateway).onlink();
            }
            if let Some(IpAddr::V6(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
    };
    if let Some(mtu) = route.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    }
    message
}

fn request(step: String) -> impl FnOnce(rtnetlink::Error) -> SideError {
    move |source| SideError::Request { step, source }
}
