//! Clocks per packet, end to end figures, and the report: `make bench`, or `bench turn.pod` for those that begin so.
mod allocations;
mod apply;
mod peers;
mod report;
mod turn;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |id: &str| {
        wanted.is_empty() || wanted.iter().any(|wanted| id == wanted || id.starts_with(&format!("{wanted}.")))
    };
    let cores = core_affinity::get_core_ids().context("no core may be used")?;
    if let Some(last) = cores.last() {
        core_affinity::set_for_current(*last); // the first one takes most interrupts
    }
    let mut figures = Vec::new();
    let mut keep = |figure: report::Figure| {
        println!("{}", figure.line());
        figures.push(figure);
    };
    turn::measure(&wants, &mut keep)?;
    apply::measure(&wants, &mut keep)?;
    peers::measure(&wants, &mut keep)?;
    report::write(&figures)
}
