//! Every node and every arc, in order of travel. `graph.svg` is its picture.
use crate::{
    decap::vxlan::{VxlanDecap, VxlanDecapNext},
    egress::{Egress, EgressNext, Fragment, fragment::FragmentNext},
    encap::vxlan::{VxlanEncap, VxlanEncapNext},
    flow::{Front, FrontNext, Learn, LearnNext},
    ingress::{Fragments, FragmentsNext},
    punt::{Arp, IcmpError, Local, arp::ArpNext, error::IcmpErrorNext, local::LocalNext},
    route::{Route, RouteNext},
};
use engine::{Builder, Graph, NodeId};
use tables::{learned::Learned, told::Told};

const DROP: NodeId = Graph::<Told, Learned>::DROP;
const SEND: NodeId = Graph::<Told, Learned>::SEND;
const HOLD: NodeId = Graph::<Told, Learned>::HOLD;
const HAND_OFF: NodeId = Graph::<Told, Learned>::HAND_OFF;

/// The graph of one worker, in which at most `most` packets are at once; and where received packets enter it.
#[expect(clippy::too_many_lines, reason = "the whole order of travel on one page")]
pub fn build(most: usize) -> (Graph<Told, Learned>, NodeId) {
    let mut graph = Builder::default();
    let front = graph.add(Front);
    let decap = graph.add(VxlanDecap);
    let fragments = graph.add(Fragments);
    let learn = graph.add(Learn);
    let arp = graph.add(Arp);
    let local = graph.add(Local);
    let error = graph.add(IcmpError);
    let route = graph.add(Route);
    let encap = graph.add(VxlanEncap);
    let fragment = graph.add(Fragment);
    let egress = graph.add(Egress::default());

    graph.arcs(front, |arc| {
        use FrontNext::*;
        match arc {
            Forward => egress,
            Tunnel => encap,
            Unknown => learn,
            Local => local,
            Decap => decap,
            Arp => arp,
            Fragment => fragments,
            Expired | NoRoute | Unreachable => error,
            Blackhole | Denied | Malformed | BadChecksum | Martian | Multicast | NotForUs | Tagged | NotIp | NoPort => {
                DROP
            }
        }
    });
    graph.arcs(decap, |arc| {
        use VxlanDecapNext::*;
        match arc {
            Inner => front,
            NotVxlan | UnknownNetwork | UnknownRemote | WrongAddress | Group | NotEthernet | Congested => DROP,
        }
    });
    graph.arcs(fragments, |arc| {
        use FragmentsNext::*;
        match arc {
            Followed => learn,
            NoFirst | Tiny | Overlap | Spoofed | Malformed | NoPort => DROP,
        }
    });
    graph.arcs(learn, |arc| {
        use LearnNext::*;
        match arc {
            Forward => egress,
            Tunnel => encap,
            Local => local,
            HandOff => HAND_OFF,
            NoRoute | Unreachable => error,
            Blackhole | Denied | Martian | Spoofed | ReplyWithoutFlow | ErrorWithoutFlow => DROP,
            TooManyFirst | BudgetUsed | TableFull | Malformed | NoPort => DROP,
        }
    });
    graph.arcs(arp, |arc| {
        use ArpNext::*;
        match arc {
            Answered => SEND,
            Released => egress,
            Heard | NotForUs | NotAllowed | Malformed | Unasked => DROP,
        }
    });
    graph.arcs(local, |arc| {
        use LocalNext::*;
        match arc {
            Answered => SEND,
            Routed => route,
            Complain => error,
            Released => egress,
            Heard | NotForUs | NotAllowed | Unasked | Malformed | BadChecksum | BadSource => DROP,
            Fragment | RouterSolicitation | Ignored | TcpRefused | NoProtocol => DROP,
        }
    });
    graph.arcs(error, |arc| {
        use IcmpErrorNext::*;
        match arc {
            Back => SEND,
            Routed => route,
            Translated => learn,
            Done | Limited | NotWorthy | NoSource | NoRoom => DROP,
        }
    });
    graph.arcs(route, |arc| {
        use RouteNext::*;
        match arc {
            Forward => egress,
            Tunnel => encap,
            NoRoute | Malformed => DROP,
        }
    });
    graph.arcs(encap, |arc| {
        use VxlanEncapNext::*;
        match arc {
            Out => egress,
            TooBig => error,
            Fragment => fragment,
            NoTunnel | NoHeadroom | TooLong | NotIp => DROP,
        }
    });
    graph.arcs(fragment, |arc| {
        use FragmentNext::*;
        match arc {
            PieceToEgress => egress,
            PieceToTunnel => encap,
            Cut | NoRoom | CannotCut => DROP,
        }
    });
    graph.arcs(egress, |arc| {
        use EgressNext::*;
        match arc {
            Send | Solicit => SEND,
            Held => HOLD,
            Released => egress,
            Unreachable | TooBig => error,
            Fragment => fragment,
            Displaced | TableFull | NoRoom | NoNextHop | NoPort | Multicast | NotIp => DROP,
        }
    });
    (graph.finish(most), front)
}
