//! The flow table against a naive map, its budgets, its order of eviction, its timers.
use engine::Instant;
use hugepages::Settings;
use proptest::prelude::*;
use std::{collections::HashMap, time::Duration};
use tables::{
    flows::{Age, Half, Hot4, Key4, Tcp, kind},
    table::{Full, Newcomer, Table, WAYS},
    told::Limits,
};

fn table(capacity: usize) -> Table<Hot4> {
    Table::new(capacity, 0x1234_5678_9abc_def0, &Settings { prefault: false, ..Settings::new(0) }).unwrap()
}

fn key(n: u32) -> Key4 {
    Key4::new(0x0a00_0000 | n, 0x0a01_0001, n << 16 | 80, 17, 0)
}

fn at(seconds: u64) -> Age {
    Age::of(Instant::default().after(Duration::from_secs(1_000_000 + seconds)))
}

fn place(table: &mut Table<Hot4>, n: u32, budget: u16, seconds: u64, limits: &Limits) -> Result<u32, Full> {
    let key = key(n);
    let new = Newcomer { key, hash: table.hash(key), budget };
    table.place_for(&new, at(seconds), limits)
}

fn find(table: &Table<Hot4>, n: u32) -> Option<u32> {
    table.find(key(n), table.hash(key(n)))
}

proptest! {
    #[test]
    fn any_history_agrees_with_a_map(steps in prop::collection::vec((0u32..200, 0u16..4, any::<bool>()), 1..400)) {
        let (mut table, mut model) = (table(1024), HashMap::new());
        let limits = Limits::default();
        for (n, budget, keep) in steps {
            if keep {
                let slot = place(&mut table, n, budget, 0, &limits);
                prop_assert!(slot.is_ok(), "a table that is a fifth full has room");
                table.marry(slot.unwrap(), slot.unwrap());
                model.insert(n, budget);
            } else if let Some(slot) = find(&table, n) {
                table.end(slot);
                model.remove(&n);
            }
            prop_assert_eq!(table.budgets.total() as usize, model.len());
        }
        for n in 0..200 {
            let found = find(&table, n);
            prop_assert_eq!(found.is_some(), model.contains_key(&n), "half {}", n);
            if let Some(slot) = found {
                prop_assert_eq!(table.hot(slot).unwrap().key(), key(n));
                let candidate = table.candidate(table.hash(key(n)));
                prop_assert!(candidate.is_some(), "a tag matches");
            }
        }
        for budget in 0..4 {
            let expected = model.values().filter(|of| **of == budget).count();
            prop_assert_eq!(table.budgets.of(budget) as usize, expected);
        }
    }
}

#[test]
fn twins_end_together_and_a_slot_that_was_used_again_is_nobodys_twin() {
    let (mut table, limits) = (table(256), Limits::default());
    let (one, other) = (place(&mut table, 1, 0, 0, &limits).unwrap(), place(&mut table, 2, 0, 0, &limits).unwrap());
    table.marry(one, other);
    table.end(other);
    assert_eq!((find(&table, 1), find(&table, 2), table.budgets.total()), (None, None, 0));
    let one = place(&mut table, 1, 0, 0, &limits).unwrap();
    let other = place(&mut table, 2, 0, 0, &limits).unwrap();
    table.marry(one, other);
    // The other half's slot goes to a new flow.
    let again = place(&mut table, 2, 0, 0, &limits).unwrap();
    assert_eq!(again, other);
    table.end(one);
    assert_eq!(find(&table, 2), Some(again), "not ended with a flow that it is no part of");
}

#[test]
fn a_flooding_port_evicts_only_its_own() {
    let (mut table, limits) = (table(WAYS), Limits { guaranteed_halves: 8, ..Limits::default() });
    for n in 0..8 {
        place(&mut table, n, 1, 0, &limits).unwrap();
    }
    // The set has 32 ways; a flood from port 2 fills it and then turns on itself.
    let mut refused = 0;
    for n in 100..1000 {
        refused += u32::from(place(&mut table, n, 2, 1, &limits).is_err());
    }
    assert_eq!(refused, 0, "its own unreplied halves make room");
    assert_eq!((0..8).filter(|n| find(&table, *n).is_some()).count(), 8, "the quiet port keeps its flows");
    assert_eq!(table.budgets.of(1), 8);
    // A quiet port takes room back from the flood.
    for n in 2000..2008 {
        assert!(place(&mut table, n, 3, 2, &limits).is_ok());
    }
    assert_eq!((table.budgets.of(1), table.budgets.of(3)), (8, 8));
}

#[test]
fn nobody_is_evicted_for_a_port_that_is_over_its_budget_where_none_is_its_own() {
    let (mut table, limits) = (table(WAYS), Limits { guaranteed_halves: 100, ..Limits::default() });
    for n in 0..32 {
        place(&mut table, n, 1, 0, &limits).unwrap();
    }
    assert_eq!(place(&mut table, 99, 2, 0, &limits), Err(Full::Set), "all are guaranteed to another port");
}

#[test]
fn cached_drops_go_first_then_unreplied_then_idle_ones_untranslated_before_translated() {
    let (mut table, limits) = (table(WAYS), Limits { guaranteed_halves: 0, ..Limits::default() });
    for n in 0..22 {
        let slot = place(&mut table, n, 1, u64::from(n), &limits).unwrap();
        table.marry(slot, slot);
        let life = table.hot_mut(slot).unwrap().life_mut();
        life.kind = match n {
            5 => kind::DROP,
            6 => kind::FORWARD,
            7 => kind::REPLIED,
            _ => kind::REPLIED | kind::REWRITE,
        };
    }
    let mut went = Vec::new();
    for new in 100..104 {
        let slot = place(&mut table, new, 1, 30, &limits).unwrap();
        table.hot_mut(slot).unwrap().life_mut().kind = kind::REPLIED | kind::REWRITE;
        went.extend((0..22).find(|n| find(&table, *n).is_none() && !went.contains(n)));
    }
    assert_eq!(went, [5, 6, 7, 0]);
}

#[test]
fn halves_end_by_agreement_when_both_have_rested() {
    let (mut table, limits) = (table(256), Limits { idle_unreplied: 30, ..Limits::default() });
    let (one, other) = (place(&mut table, 1, 0, 0, &limits).unwrap(), place(&mut table, 2, 0, 0, &limits).unwrap());
    table.marry(one, other);
    table.tick(at(0), &limits);
    for seconds in (4..=60).step_by(4) {
        table.hot_mut(other).unwrap().life_mut().count(at(seconds)); // only one direction has packets
        table.tick(at(seconds), &limits);
    }
    assert_eq!(table.budgets.total(), 2, "the silent half lives with its twin");
    for seconds in (64..=140).step_by(4) {
        table.tick(at(seconds), &limits);
    }
    assert_eq!((table.budgets.total(), table.is_empty()), (0, true));
}

#[test]
fn an_established_connection_outlives_many_rounds_of_the_wheel() {
    let (mut table, limits) = (table(256), Limits::default());
    let slot = place(&mut table, 1, 0, 0, &limits).unwrap();
    table.marry(slot, slot);
    table.hot_mut(slot).unwrap().life_mut().tcp = Tcp::Established as u8;
    table.tick(at(0), &limits);
    for seconds in (0..8 * 3600 - 60).step_by(16) {
        while !table.tick(at(seconds), &limits) {}
    }
    assert_eq!(table.budgets.total(), 1);
    for seconds in (8 * 3600 - 60..8 * 3600 + 600).step_by(16) {
        while !table.tick(at(seconds), &limits) {}
    }
    assert_eq!(table.budgets.total(), 0);
}

#[test]
fn a_worker_that_slept_for_hours_ends_what_is_over_in_one_go() {
    let (mut table, limits) = (table(8192), Limits::default());
    for n in 0..4000 {
        let slot = place(&mut table, n, 0, 0, &limits).unwrap();
        table.marry(slot, slot);
    }
    table.tick(at(0), &limits);
    let mut calls = 1;
    while !table.tick(at(5 * 3600), &limits) {
        calls += 1;
    }
    assert_eq!(table.budgets.total(), 0);
    assert!(calls > 1, "and no call looks at all of them");
}

#[test]
fn tcp_states_follow_the_flags() {
    let after = |flags: &[u8]| flags.iter().fold(Tcp::Opening as u8, |state, flags| Tcp::after(state, *flags));
    let (syn, ack, fin, rst) = (2, 16, 1, 4);
    let state = |flags: &[u8]| Tcp::kept(after(flags));
    assert_eq!(state(&[syn]), Tcp::Opening);
    assert_eq!(state(&[syn, ack]), Tcp::Established);
    assert_eq!(state(&[syn, ack, fin | ack, ack]), Tcp::Closing);
    assert_eq!(state(&[syn, ack, rst]), Tcp::Closed);
    assert_eq!(state(&[syn, ack, rst, ack]), Tcp::Closed, "nothing but a SYN opens it again");
    assert_eq!(state(&[syn, ack, rst, syn]), Tcp::Opening);
    assert_eq!(state(&[syn, ack, fin | ack, syn]), Tcp::Opening);
}

#[test]
fn keys_give_their_fields_back() {
    let key = Key4::new(0x0102_0304, 0x0506_0708, 0x1234_5678, 6, 9);
    assert_eq!(key.fields(), ([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), 0x1234_5678, 6, 9));
    let key = tables::flows::Key6::new(1 << 64 | 2, 3 << 64 | 4, 0x1234_5678, 17, 8);
    let address = |bits: u128| std::net::Ipv6Addr::from_bits(bits);
    assert_eq!(key.fields(), (address(1 << 64 | 2), address(3 << 64 | 4), 0x1234_5678, 17, 8));
}
