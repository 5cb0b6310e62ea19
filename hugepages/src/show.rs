//! The host's pages, for people and for scripts.

use std::fmt::Write;

use hugepages::{Pool, Pools, Size};
use serde_json::{Value, json};

/// Aligned columns, a line for each pool and for each NUMA node where there are several.
pub(crate) fn table(host: &Pools) -> String {
    let mut text = String::new();
    let mut line = |cells: [&str; 6]| {
        let [size, node, total, free, reserved, surplus] = cells;
        let _ = writeln!(text, "{size:<8} {node:<5} {total:>8} {free:>8} {reserved:>8} {surplus:>8}");
    };
    line(["SIZE", "NODE", "TOTAL", "FREE", "RESERVED", "SURPLUS"]);
    for pool in &host.sizes {
        let [total, free, reserved, surplus] =
            [pool.total, pool.free, pool.reserved, pool.surplus].map(|count| count.to_string());
        line([&Size(pool.page).to_string(), "all", &total, &free, &reserved, &surplus]);
        // The kernel counts promised pages for the whole host only.
        for part in pool.nodes.iter().filter(|_| pool.nodes.len() > 1) {
            let [node, total, free, surplus] =
                [part.node as usize, part.total, part.free, part.surplus].map(|count| count.to_string());
            line(["", &node, &total, &free, "-", &surplus]);
        }
    }
    let _ = writeln!(text, "\ntransparent pages: anonymous {}, shared {}", host.anonymous, host.shared);
    if host.sizes.is_empty() {
        text.push_str("this host has no hugetlb pools\n");
    } else if host.sizes.iter().all(|pool| pool.total == 0) {
        text.push_str("no huge pages are reserved: millrace-hugepages reserve --size 2M --count 512 reserves 1 GiB\n");
    }
    text
}

/// One object: `pools` (sizes in bytes, counts in pages), `numa_nodes`, `transparent`.
pub(crate) fn json(host: &Pools) -> Value {
    json!({
        "pools": host.sizes.iter().map(pool).collect::<Vec<_>>(),
        "numa_nodes": host.nodes,
        "transparent": { "anonymous": host.anonymous.to_string(), "shared": host.shared.to_string() },
    })
}

fn pool(pool: &Pool) -> Value {
    let node = |part: &hugepages::NodePool| json!({ "node": part.node, "total": part.total, "free": part.free, "surplus": part.surplus });
    json!({
        "page_bytes": pool.page,
        "total": pool.total,
        "free": pool.free,
        "reserved": pool.reserved,
        "surplus": pool.surplus,
        "nodes": pool.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}
