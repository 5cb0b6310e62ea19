//! One gate: every check that a commit passes.
//!
//! `cargo gate` runs all checks, `cargo gate floors sizes` runs those named. Each prints one line, and any failure
//! makes the exit code 1. `UPDATE=1 cargo gate unsafe` writes the counts of unsafe again, for a human to review.

mod commands;
mod failure;
mod floors;
mod picture;
mod sizes;
mod sources;
mod tokens;
mod unsafe_list;
mod workspace;

use std::process::ExitCode;

use failure::Failure;
use workspace::Workspace;

/// A check looks at the workspace and answers with a remark for its line, or with what is wrong.
type Check = fn(&Workspace) -> Result<String, Failure>;

/// In the order in which they run: what fails fast and needs no build comes first.
const CHECKS: [(&str, Check); 8] = [
    ("fmt", commands::fmt),
    ("floors", floors::check),
    ("unsafe", unsafe_list::check),
    ("sizes", sizes::check),
    ("deny", commands::deny),
    ("clippy", commands::clippy),
    ("rustdoc", commands::rustdoc),
    ("picture", picture::check),
];

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = named.iter().find(|name| CHECKS.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        eprintln!("no check is called {unknown}; there are: {}", known.join(" "));
        return ExitCode::from(2);
    }
    let workspace = match Workspace::read() {
        Ok(workspace) => workspace,
        Err(failure) => {
            println!("FAIL metadata: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let chosen = CHECKS.iter().filter(|(name, _)| named.is_empty() || named.iter().any(|wanted| wanted == name));
    let failed = chosen.filter(|(name, check)| !passes(name, *check, &workspace)).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn passes(name: &str, check: Check, workspace: &Workspace) -> bool {
    match check(workspace) {
        Ok(remark) if remark.is_empty() => println!("ok   {name}"),
        Ok(remark) => println!("ok   {name}: {remark}"),
        Err(failure) => {
            println!("FAIL {name}: {failure}");
            return false;
        }
    }
    true
}
