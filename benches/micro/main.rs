//! Single functions of the packet path, by criterion: `cargo bench -p benches`.
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tables::{
    routes4::Routes4,
    told::{LeafId, NextHopId},
};

criterion_group!(micro, checksums, hashes, lookups);
criterion_main!(micro);

fn checksums(criterion: &mut Criterion) {
    let bytes = vec![0x5a_u8; 1460];
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1460));
    group.bench_function("1460", |bench| bench.iter(|| wire::checksum::checksum(black_box(&bytes))));
}

fn hashes(criterion: &mut Criterion) {
    criterion.bench_function("hash128", |bench| bench.iter(|| engine::hash128(black_box(0x1234_5678), black_box(99))));
    let tags = std::array::from_fn(|i| u16::try_from(i).unwrap_or(0));
    criterion.bench_function("matches", |bench| bench.iter(|| engine::matches(black_box(&tags), black_box(17))));
}

fn lookups(criterion: &mut Criterion) {
    let routes: Routes4 = (0..1000u32).map(|n| (n << 14, 18, LeafId(n + 1), NextHopId(1))).collect();
    criterion.bench_function("routes4", |bench| bench.iter(|| routes.lookup(black_box(500 << 14 | 7))));
}
