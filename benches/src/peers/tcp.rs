//! One TCP stream of iperf3, in gigabits per CPU-second of the whole machine.
use super::{
    Pair,
    kernel::Tunnelled,
    machine::{Cores, Threads},
};
use crate::report::{Figure, median};
use anyhow::{Context, Result, ensure};
use lab::{Node, succeeds, until};
use serde_json::Value;
use std::{process::Stdio, time::Duration};

const PAIRS: usize = 5;
/// How long a run sends.
const SECONDS: u32 = 3;

/// What a run gave.
struct Run {
    /// Gigabits per CPU-second of the machine.
    per_cpu: f64,
    /// Gigabits per second.
    speed: f64,
    /// Shares of busy time: user, system, softirq.
    shares: [f64; 3],
    /// CPU-seconds per gigabit: of some processes, of iperf3's sender and receiver, of all there was.
    spent: [f64; 4],
}

/// `tcp.node`: two pods of ours against two of the kernel's.
pub(super) fn node(a: &Node, ours: &Pair<'_>, peer: &Pair<'_>) -> Result<Figure> {
    let pids = a.dataplane();
    let (our, their) = (|| run(ours, &pids), || run(peer, &pids));
    let _warm = (our()?, their()?);
    let idle = baseline()?;
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            mine.push(our()?);
            theirs.push(their()?);
        } else {
            theirs.push(their()?);
            mine.push(our()?);
        }
    }
    let what = format!("two pods on a node with {} ports, against veth pairs and routing", a.ports());
    Ok(figure("tcp.node", &what, idle, &mine, ("kernel", &theirs)))
}

/// `tcp.across` and `tcp.across_gso`: one run of ours for both runs of the peer.
pub(super) fn across(nodes: [&Node; 2], ours: &Pair<'_>, peer: &Tunnelled) -> Result<[Figure; 2]> {
    let pids = nodes.map(Node::dataplane).concat();
    let our = || run(ours, &pids);
    let their = |on| {
        peer.segmentation(on);
        run(&peer.pair(), &pids)
    };
    until("pods reach across nodes", || {
        succeeds(ours.from.command("ping").args(["-n", "-c", "1", "-W", "1", &ours.address]))
    });
    let _warm = (our()?, their(true)?);
    let idle = baseline()?;
    let (mut mine, mut off, mut on) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        off.push(their(false)?);
        mine.push(our()?);
        on.push(their(true)?);
    }
    let what = "pods on two nodes, one veth pair between them (ours: AF_XDP on it), against veth, routing and VXLAN";
    let figure = |id, how, theirs: &[Run]| figure(id, &format!("{what}, {how}"), idle, &mine, ("kernel vxlan", theirs));
    Ok([
        figure("tcp.across", "its underlay devices' tso and gso off", &off),
        figure("tcp.across_gso", "its underlay devices as they come", &on),
    ])
}

fn run(pair: &Pair<'_>, dataplane: &[u32]) -> Result<Run> {
    let mut server = pair.to.command("iperf3");
    let mut server = server.args(["-s", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    until("iperf3 listens", || !pair.to.run("ss -Hltn sport = :5201").is_empty());
    let (before, threads) = (Cores::now()?, Threads::of(dataplane));
    let said = pair.from.run(&format!("timeout 20 iperf3 -c {} -t {SECONDS} -J", pair.address));
    let (after, took) = (Cores::now()?, Threads::of(dataplane).since(&threads));
    server.wait()?;
    let report: Value = serde_json::from_str(&said).context("iperf3 speaks JSON")?;
    let end = &report["end"];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let gigabits = number(&end["sum_received"]["bytes"]) * 8.0 / 1e9;
    ensure!(gigabits > 0.1, "iperf3 to {} carried nothing: {}", pair.address, report["error"]);
    let busy = after.busy_since(&before);
    let seconds = number(&end["sum_sent"]["seconds"]);
    let used = |who: &str| number(&end["cpu_utilization_percent"][who]) / 100.0 * seconds;
    let spent = [took, used("host_total"), used("remote_total"), busy].map(|spent| spent / gigabits);
    let speed = number(&end["sum_received"]["bits_per_second"]) / 1e9;
    Ok(Run { per_cpu: gigabits / busy, speed, shares: after.shares_since(&before), spent })
}

/// How many cores are busy while nothing is measured.
fn baseline() -> Result<f64> {
    let before = Cores::now()?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(Cores::now()?.busy_since(&before) / 2.0)
}

fn figure(id: &str, what: &str, idle: f64, ours: &[Run], (peer, theirs): (&str, &[Run])) -> Figure {
    let of = |runs: &[Run], of: fn(&Run) -> f64| runs.iter().map(of).collect::<Vec<_>>();
    let middle = |runs, what| median(&of(runs, what));
    let shares = |runs| {
        [middle(runs, |run| run.shares[0]), middle(runs, |run| run.shares[1]), middle(runs, |run| run.shares[2])]
    };
    let percent = |shares: [f64; 3]| shares.map(|share| format!("{:.0}", share * 100.0)).join("/");
    let note = format!(
        "{what}; iperf3, one stream, {SECONDS} s a run, {PAIRS} pairs in turns; busy cores while nothing runs: {idle:.2} \
         (not subtracted); Gbit/s: ours {:.1}, peer {:.1}; user/system/softirq in percent of busy ticks: ours {}, peer {}",
        middle(ours, |run| run.speed),
        middle(theirs, |run| run.speed),
        percent(shares(ours)),
        percent(shares(theirs)),
    );
    let mut parts = Vec::new();
    for (whose, runs) in [("ours", ours), ("peer", theirs)] {
        let names = ["dataplane", "sender", "receiver", "all"];
        let spent = [
            middle(runs, |run| run.spent[0]),
            middle(runs, |run| run.spent[1]),
            middle(runs, |run| run.spent[2]),
            middle(runs, |run| run.spent[3]),
        ];
        let ms = names.into_iter().zip(spent).filter(|(_, spent)| *spent > 0.0005);
        parts.extend(ms.map(|(name, spent)| (format!("{whose}: {name} ms/Gbit"), spent * 1000.0)));
    }
    let samples = |runs| of(runs, |run| run.per_cpu);
    Figure::new(id, "Gbit/cpu-s", samples(ours), &note).against(peer, samples(theirs)).with_parts(parts)
}
