//! What is printed, from what was answered. Pure.
use std::collections::BTreeMap;

use proto::{
    ip, mac_text,
    v1::{ArcCount, CountersReply, Endpoint, Flow, PortCounters, PortStatus, Role, StatusReply, Step},
};
use serde_json::{Value, json};

use super::table::{Columns, Tone};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// As JSON, not for people.
    pub json: bool,
    /// With colours.
    pub colour: bool,
}

impl View {
    /// What runs, with what, and how full it is.
    pub fn status(self, status: &StatusReply) -> String {
        if self.json {
            return pretty(&status_json(status));
        }
        let s = status;
        let mut parts = vec![format!(
            "millrace-dataplane {}  generation {}  pid {}  keeper {}  up {}  starts {}",
            s.version,
            s.generation,
            s.pid,
            s.keeper_pid,
            duration(s.uptime_seconds),
            s.starts
        )];
        parts.extend(s.notes.iter().map(|note| format!("note: {note}")));
        parts.push(self.workers(s));
        parts.push(self.port_table(&s.ports));
        parts.push(self.memory(s));
        parts.push(self.tables(s));
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    /// Where packets enter and leave.
    pub fn ports(self, status: &StatusReply) -> String {
        if self.json { pretty(&status.ports.iter().map(port_json).collect()) } else { self.port_table(&status.ports) }
    }

    /// The flows that are known.
    pub fn flows(self, flows: &[Flow]) -> String {
        if self.json {
            return pretty(&flows.iter().map(flow_json).collect());
        }
        let headings = [
            "PROTO",
            "SOURCE",
            "DESTINATION",
            "DIR",
            "STATE",
            "VERDICT",
            "TO",
            ">PACKETS",
            ">BYTES",
            ">IDLE",
            ">WORKER",
        ];
        let mut columns = Columns::new(&headings, self.colour);
        for flow in flows {
            let state = match (flow.state.as_str(), flow.answered) {
                ("", true) => "answered",
                ("", false) => "new",
                (state, _) => state,
            };
            let verdict = if flow.verdict == "forward" { Tone::Good } else { Tone::Bad };
            columns.row([
                plain(protocol(flow.protocol)),
                plain(end(&flow.source, flow.source_port, flow.rewritten_source.as_ref())),
                plain(end(&flow.destination, flow.destination_port, flow.rewritten_destination.as_ref())),
                plain(if flow.reply { "reply" } else { "first" }),
                plain(state),
                (flow.verdict.clone(), verdict),
                plain(if flow.tunnel.is_empty() { &flow.port } else { &flow.tunnel }),
                plain(flow.packets),
                plain(size(flow.bytes)),
                plain(format!("{:.1}s", flow.idle_seconds)),
                plain(flow.worker),
            ]);
        }
        format!("{}\n{} flow halves", columns.text(), flows.len())
    }

    /// How many packets left each node by each arc, since `before`.
    pub fn counters(self, now: &CountersReply, before: &CountersReply, all: bool) -> String {
        let old: BTreeMap<_, _> = before.arcs.iter().map(|arc| ((&arc.node, &arc.arc), arc.count)).collect();
        // A dataplane that was started anew counts from zero.
        let since = |now: u64, before: u64| if now >= before { now - before } else { now };
        let arcs = now.arcs.iter().map(|arc| {
            let before = old.get(&(&arc.node, &arc.arc)).copied().unwrap_or(0);
            ArcCount { count: since(arc.count, before), ..arc.clone() }
        });
        let arcs: Vec<_> = arcs.filter(|arc| all || arc.count > 0).collect();
        let ports: Vec<_> = now.ports.iter().map(|port| port_since(port, before)).collect();
        if self.json {
            let arcs: Vec<_> = arcs
                .iter()
                .map(|a| json!({ "node": a.node, "arc": a.arc, "count": a.count, "drop": a.drop }))
                .collect();
            return pretty(&json!({ "arcs": arcs, "ports": ports.iter().map(counters_json).collect::<Vec<_>>() }));
        }
        let mut columns = Columns::new(&["NODE", "ARC", ">PACKETS", ""], self.colour);
        for arc in &arcs {
            let tone = if arc.drop && arc.count > 0 { Tone::Bad } else { Tone::Plain };
            let mark = if arc.drop { "drop" } else { "" };
            columns.row([
                plain(&arc.node),
                (arc.arc.clone(), tone),
                (arc.count.to_string(), tone),
                (mark.to_owned(), tone),
            ]);
        }
        let mut passed = Columns::new(&["PORT", ">RX", ">BYTES", ">DROPS", ">TX", ">BYTES", ">DROPS"], self.colour);
        for port in &ports {
            passed.row(std::iter::once(plain(&port.port)).chain(traffic(port)));
        }
        format!("{}\n\n{}", columns.text(), passed.text())
    }

    /// A step of a packet; `before` is the step printed before it.
    pub fn step(self, step: &Step, before: Option<&Step>) -> String {
        if self.json {
            let bytes: String = step.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return json!({
                "packet": step.packet, "worker": step.worker, "node": step.node, "arc": step.arc, "time_ns": step.time_ns,
                "length": step.length, "bytes": bytes, "summary": step.summary,
            })
            .to_string();
        }
        let same = before.is_some_and(|before| before.packet == step.packet);
        let head = if same { String::new() } else { format!("packet {} on worker {}\n", step.packet, step.worker) };
        let changed = before
            .filter(|_| same)
            .is_none_or(|before| (&before.summary, before.length) != (&step.summary, step.length));
        let seen = if changed { format!("{} bytes  {}", step.length, step.summary) } else { String::new() };
        let (micros, way) = (step.time_ns / 1000, format!("{} -> {}", step.node, step.arc));
        format!("{head}  {:>9}.{:06}  {way:<28}  {seen}", micros / 1_000_000, micros % 1_000_000).trim_end().to_owned()
    }

    fn workers(self, status: &StatusReply) -> String {
        let mut columns =
            Columns::new(&["WORKER", ">CORE", "MODE", ">BUSY", ">TURNS", ">SLEEPS", ">GENERATION"], self.colour);
        for worker in &status.workers {
            let core = if worker.core < 0 { "-".to_owned() } else { worker.core.to_string() };
            let behind = if worker.generation == status.generation { Tone::Plain } else { Tone::Bad };
            columns.row([
                plain(worker.number),
                plain(core),
                plain(&worker.mode),
                plain(format!("{:.1}%", worker.busy * 100.0)),
                plain(worker.turns),
                plain(worker.sleeps),
                (worker.generation.to_string(), behind),
            ]);
        }
        columns.text()
    }

    fn port_table(self, ports: &[PortStatus]) -> String {
        let headings = [
            "PORT",
            "ROLE",
            "DRIVER",
            "INTERFACE",
            "STATE",
            ">QUEUES",
            ">MTU",
            ">RX",
            ">BYTES",
            ">DROPS",
            ">TX",
            ">BYTES",
            ">DROPS",
            "NOTES",
        ];
        let mut columns = Columns::new(&headings, self.colour);
        for port in ports {
            let state = if port.up { ("up".to_owned(), Tone::Good) } else { ("down".to_owned(), Tone::Bad) };
            let counters = port.counters.clone().unwrap_or_default();
            let what = [plain(&port.id), plain(role(port.role())), plain(&port.driver), plain(&port.interface), state];
            let row = what.into_iter().chain([plain(port.queues), plain(port.mtu)]).chain(traffic(&counters));
            columns.row(row.chain([(port.notes.join("; "), Tone::Faint)]));
        }
        columns.text()
    }

    fn memory(self, status: &StatusReply) -> String {
        let mut columns = Columns::new(&["MEMORY", ">SIZE", "PAGES", "PLACE", "NOTE"], self.colour);
        for region in &status.regions {
            let tone = if region.shortfall.is_empty() { Tone::Plain } else { Tone::Bad };
            let node = region.numa_node.map(|node| format!("node {node}"));
            let place: Vec<_> = node.into_iter().chain(region.locked.then(|| "locked".to_owned())).collect();
            columns.row([
                plain(&region.name),
                plain(size(region.bytes)),
                (region.got.clone(), tone),
                plain(place.join(", ")),
                (region.shortfall.clone(), tone),
            ]);
        }
        let total = status.regions.iter().map(|region| region.bytes).sum();
        columns.row([(String::from("total"), Tone::Faint), plain(size(total)), plain(""), plain(""), plain("")]);
        columns.text()
    }

    fn tables(self, status: &StatusReply) -> String {
        let mut columns = Columns::new(&["TABLE", ">USED", ">CAPACITY", ">FULL"], self.colour);
        let pools = status.pools.iter().map(|pool| {
            (
                format!("frames {} (worker {})", pool.class, pool.worker),
                pool.total.saturating_sub(pool.free),
                pool.total,
            )
        });
        let tables = status.tables.iter().map(|table| (table.name.clone(), table.used, table.capacity));
        for (name, used, capacity) in tables.chain(pools) {
            if capacity == 0 {
                columns.row([plain(name), plain(used), plain("-"), plain("-")]);
                continue;
            }
            let percent = u128::from(used) * 100 / u128::from(capacity);
            let tone = if percent >= 80 { Tone::Bad } else { Tone::Plain };
            columns.row([plain(name), plain(used), plain(capacity), (format!("{percent}%"), tone)]);
        }
        columns.text()
    }
}

fn plain(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

fn traffic(counters: &PortCounters) -> [(String, Tone); 6] {
    let drops = |count: u64| (count.to_string(), if count > 0 { Tone::Bad } else { Tone::Plain });
    let c = counters;
    let received = [plain(c.rx_packets), plain(size(c.rx_bytes)), drops(c.rx_drops)];
    let [a, b, d] = received;
    [a, b, d, plain(c.tx_packets), plain(size(c.tx_bytes)), drops(c.tx_drops)]
}

fn port_since(now: &PortCounters, before: &CountersReply) -> PortCounters {
    let Some(old) = before.ports.iter().find(|old| old.port == now.port && old.rx_packets <= now.rx_packets) else {
        return now.clone();
    };
    PortCounters {
        port: now.port.clone(),
        rx_packets: now.rx_packets.saturating_sub(old.rx_packets),
        rx_bytes: now.rx_bytes.saturating_sub(old.rx_bytes),
        rx_drops: now.rx_drops.saturating_sub(old.rx_drops),
        tx_packets: now.tx_packets.saturating_sub(old.tx_packets),
        tx_bytes: now.tx_bytes.saturating_sub(old.tx_bytes),
        tx_drops: now.tx_drops.saturating_sub(old.tx_drops),
    }
}

fn end(address: &[u8], port: u32, rewritten: Option<&Endpoint>) -> String {
    let one = |address: &[u8], port: u32| match ip(address) {
        Some(ip) if port == 0 => ip.to_string(),
        Some(ip) if ip.is_ipv6() => format!("[{ip}]:{port}"),
        Some(ip) => format!("{ip}:{port}"),
        None => "?".to_owned(),
    };
    let original = one(address, port);
    match rewritten {
        Some(new) => format!("{original} => {}", one(&new.address, new.l4_port)),
        None => original,
    }
}

fn protocol(number: u32) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "-",
        Role::Pod => "pod",
        Role::Uplink => "uplink",
        Role::Host => "host",
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// Bytes in the unit that leaves at most four digits, with one behind the point.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(shift) = (1..=6u32).rev().find(|n| bytes >> (10 * n) > 0) else { return bytes.to_string() };
    let tenths = (u128::from(bytes) * 10) >> (10 * shift);
    let unit = units[usize::try_from(shift).unwrap_or(1) - 1];
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn status_json(s: &StatusReply) -> Value {
    let workers = s.workers.iter().map(|w| {
        json!({ "number": w.number, "core": w.core, "mode": w.mode, "turns": w.turns, "sleeps": w.sleeps, "busy": w.busy,
                "generation": w.generation })
    });
    let regions = s.regions.iter().map(|r| {
        json!({ "name": r.name, "bytes": r.bytes, "asked": r.asked, "got": r.got, "shortfall": r.shortfall,
                "locked": r.locked, "numa_node": r.numa_node })
    });
    let pools =
        s.pools.iter().map(|p| json!({ "class": p.class, "worker": p.worker, "total": p.total, "free": p.free }));
    let tables = s.tables.iter().map(|t| json!({ "name": t.name, "used": t.used, "capacity": t.capacity }));
    json!({
        "version": s.version, "generation": s.generation, "pid": s.pid, "keeper_pid": s.keeper_pid,
        "uptime_seconds": s.uptime_seconds, "starts": s.starts, "notes": s.notes,
        "workers": workers.collect::<Vec<_>>(), "ports": s.ports.iter().map(port_json).collect::<Vec<_>>(),
        "regions": regions.collect::<Vec<_>>(), "pools": pools.collect::<Vec<_>>(), "tables": tables.collect::<Vec<_>>(),
    })
}

fn port_json(p: &PortStatus) -> Value {
    json!({
        "id": p.id, "role": role(p.role()), "driver": p.driver, "interface": p.interface, "up": p.up, "queues": p.queues,
        "mtu": p.mtu, "mac": mac_text(&p.mac), "notes": p.notes, "counters": p.counters.as_ref().map(counters_json),
    })
}

fn counters_json(c: &PortCounters) -> Value {
    json!({
        "port": c.port, "rx_packets": c.rx_packets, "rx_bytes": c.rx_bytes, "rx_drops": c.rx_drops,
        "tx_packets": c.tx_packets, "tx_bytes": c.tx_bytes, "tx_drops": c.tx_drops,
    })
}

fn flow_json(f: &Flow) -> Value {
    let rewritten =
        |end: &Option<Endpoint>| end.as_ref().map(|end| json!({ "address": ip(&end.address), "port": end.l4_port }));
    json!({
        "vrf": f.vrf, "protocol": f.protocol, "source": ip(&f.source), "source_port": f.source_port,
        "destination": ip(&f.destination), "destination_port": f.destination_port, "reply": f.reply, "answered": f.answered,
        "state": f.state, "verdict": f.verdict, "port": f.port, "tunnel": f.tunnel,
        "rewritten_source": rewritten(&f.rewritten_source), "rewritten_destination": rewritten(&f.rewritten_destination),
        "packets": f.packets, "bytes": f.bytes, "idle_seconds": f.idle_seconds, "worker": f.worker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        assert_eq!([0, 1023, 1024, 1536, 5 << 30].map(size), ["0", "1023", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(size(u64::MAX), "15.9 EiB");
        assert_eq!([5, 65, 3700, 90_000].map(duration), ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
