//! Virtual address to endpoint, and back.
use crate::flow::Tuple;
use tables::told::{EndpointId, Told, Virtual, VrfId};

/// The endpoint that a new flow leads to, and what its packets become; `None` when its destination is not virtual.
pub(crate) fn translate(told: &Told, tuple: &Tuple) -> Option<(EndpointId, Tuple)> {
    if told.translations.is_empty() {
        return None;
    }
    let address = Virtual {
        vrf: VrfId(tuple.vrf),
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
    };
    let translation = told.translations.get(&address)?;
    let (destination, destination_port) = translation.destination;
    let (source, source_port) = translation.source.unwrap_or((tuple.source, tuple.source_port));
    Some((translation.endpoint, Tuple { source, destination, source_port, destination_port, ..*tuple }))
}
