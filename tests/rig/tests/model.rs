//! The product's graph and the naive model must agree: random worlds, packets, and changes between turns.
mod model_world;

use model_world::{Both, Change, Raw, Step, World};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::collections::BTreeSet;

fn raw() -> impl Strategy<Value = Raw> {
    let kind =
        prop_oneof![6 => Just(0u8), 5 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4), 1 => Just(5), 2 => Just(6)];
    let len = prop_oneof![8 => 0u16..40, 1 => 500u16..1500, 1 => 1400u16..2600];
    (kind, any::<[u8; 8]>(), any::<bool>(), len).prop_map(|(kind, pick, six, len)| Raw { kind, pick, six, len })
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..10, any::<[u8; 5]>()).prop_map(|(kind, pick)| Change { kind, pick });
    prop_oneof![
        4 => prop::collection::vec(raw(), 1..20).prop_map(Step::Turn),
        1 => change.prop_map(Step::Change),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let routes = prop::collection::vec(any::<[u8; 5]>(), 0..12);
    let translations = prop::collection::vec(any::<[u8; 5]>(), 0..4);
    (2u8..5, 0u8..3, any::<[u8; 4]>(), routes, translations)
        .prop_map(|(pods, tunnels, pick, routes, translations)| World { pods, tunnels, pick, routes, translations })
}

#[test]
fn the_graph_and_the_model_agree() {
    let histories = (world(), prop::collection::vec(step(), 1..40));
    fuzz::property(&[3], 120, &histories, |(world, steps)| {
        let mut both = Both::new(&world);
        for step in &steps {
            both.step(step)?;
        }
        prop_assert!(both.rig.nothing_is_lost());
        Ok(())
    });
}

/// A property that is never exercised holds trivially: most packets of random histories must come through, and every
/// kind of thing must happen.
#[test]
fn much_is_sent_and_little_is_dropped() {
    let mut runner = TestRunner::deterministic();
    let (mut sent, mut received, mut moved) = (0, 0, BTreeSet::new());
    for _ in 0..20 {
        let (world, steps) = (world(), prop::collection::vec(step(), 40)).new_tree(&mut runner).unwrap().current();
        let mut both = Both::new(&world);
        steps.iter().for_each(|step| both.step(step).unwrap());
        (sent, received) = (sent + both.sent, received + both.received);
        moved.extend(both.arcs);
    }
    assert!(sent * 5 > received * 2, "{sent} of {received}");
    let must = "front.Forward front.Tunnel front.Expired front.NoPort front.NoRoute vxlan-decap.Inner \
        fragments.Followed fragments.NoFirst fragments.Tiny fragments.Overlap fragments.Spoofed \
        learn.Forward learn.Tunnel learn.NoRoute learn.Unreachable learn.Denied learn.Spoofed \
        learn.ReplyWithoutFlow learn.ErrorWithoutFlow arp.Answered local.Answered local.Complain \
        icmp-error.Back icmp-error.Routed vxlan-encap.Out vxlan-encap.TooBig vxlan-encap.Fragment \
        fragment.PieceToEgress fragment.PieceToTunnel egress.TooBig egress.Fragment";
    let missing: Vec<_> = must.split_whitespace().filter(|arc| !moved.contains(*arc)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
