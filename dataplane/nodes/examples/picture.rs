//! Draws the graph: `cargo run -p nodes --example picture > dataplane/nodes/graph.svg`.
use std::fmt::Write;

/// Node, arc, and the node or end that it leads to.
type Arc = (&'static str, &'static str, &'static str);
/// Where a node's arcs lead: each target with the arcs' names.
type Targets = Vec<(&'static str, Vec<&'static str>)>;

fn main() {
    print!("{}", picture(&nodes::graph::build(1).0.map()));
}

/// The graph as a picture (SVG 1.1): nodes in order of travel from top to bottom, every arc by name.
fn picture(map: &[Arc]) -> String {
    let mut nodes: Vec<&str> = map.iter().map(|(node, ..)| *node).collect();
    nodes.dedup();
    nodes.extend(["send", "hold", "hand-off", "drop"]);
    let rows: Vec<(&str, usize, Targets)> = nodes
        .iter()
        .scan(20, |top, node| {
            let (y, next) = (*top, targets(map, node));
            *top += (next.len() * LINE + 24).max(48);
            Some((*node, y, next))
        })
        .collect();
    let row = |name: &str| rows.iter().find(|(node, ..)| *node == name).map_or(0, |(_, y, _)| *y + 14);
    let height = row("drop") + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1560 {height}\" font-family=\"monospace\" font-size=\"12\">\n\
         <defs><marker id=\"tip\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" orient=\"auto\">\
         <path d=\"M0,1 L7,4 L0,7 z\" fill=\"#456\"/></marker></defs>\n"
    );
    for (node, y, next) in &rows {
        let fill = if next.is_empty() { "#eee" } else { "#dde8f4" };
        let _ = writeln!(
            svg,
            "<rect x=\"300\" y=\"{y}\" width=\"120\" height=\"28\" rx=\"5\" fill=\"{fill}\" stroke=\"#456\"/>"
        );
        let _ =
            writeln!(svg, "<text x=\"360\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{node}</text>", y + 18);
        for (line, (to, arcs)) in next.iter().enumerate() {
            let _ = writeln!(svg, "<text x=\"430\" y=\"{}\">{to}: {}</text>", y + 10 + line * LINE, arcs.join(", "));
            if *to != "drop" {
                let (from, at) = (y + 14, row(to));
                let bow = 285 - from.abs_diff(at) / 3;
                let _ = writeln!(
                    svg,
                    "<path d=\"M300,{from} C{bow},{from} {bow},{at} 299,{at}\" fill=\"none\" stroke=\"#456\" marker-end=\"url(#tip)\"/>"
                );
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// From line to line of the picture's text.
const LINE: usize = 14;

/// Where a node's arcs lead, each target once, in order of arcs, with the arcs' names.
fn targets(map: &[Arc], node: &str) -> Targets {
    let mut targets = Targets::new();
    for (_, arc, to) in map.iter().filter(|(from, ..)| *from == node) {
        match targets.iter_mut().find(|(known, _)| known == to) {
            Some((_, arcs)) => arcs.push(arc),
            None => targets.push((to, vec![arc])),
        }
    }
    targets
}
