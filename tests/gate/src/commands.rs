//! The checks that other programs make: rustfmt, clippy, rustdoc, cargo-deny.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{failure::Failure, workspace::Workspace};

/// Crates whose code runs per packet; `dataplane/clippy.toml` says what is forbidden there.
const FAST: [&str; 5] = ["wire", "engine", "tables", "nodes", "ports"];
const FAST_LINTS: [&str; 3] = ["clippy::disallowed_types", "clippy::disallowed_methods", "clippy::disallowed_macros"];

pub(crate) fn fmt(workspace: &Workspace) -> Result<String, Failure> {
    quiet(&mut cargo(&workspace.root, &["fmt", "--all", "--", "--check"]))
}

/// Twice: everything with the workspace's lints, then the libraries of the fast path, without their tests, with what is
/// forbidden there. Tests may format and lock; the binary beside these libraries is setup and API.
pub(crate) fn clippy(workspace: &Workspace) -> Result<String, Failure> {
    let mut all = cargo(&workspace.root, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]);
    all.args(FAST_LINTS.map(|lint| format!("-A{lint}")));
    quiet(&mut all)?;
    let mut fast = cargo(&workspace.root, &["clippy", "--quiet", "--lib"]);
    fast.args(FAST.map(|name| format!("-p{name}"))).args(["--", "-Dwarnings"]);
    fast.args(FAST_LINTS.map(|lint| format!("-D{lint}")));
    quiet(&mut fast)
}

pub(crate) fn rustdoc(workspace: &Workspace) -> Result<String, Failure> {
    let arguments = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
    quiet(cargo(&workspace.root, &arguments).env("RUSTDOCFLAGS", "-Dwarnings"))
}

pub(crate) fn deny(workspace: &Workspace) -> Result<String, Failure> {
    let mut command = Command::new(cargo_deny());
    command.args(["--log-level=error", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    quiet(command.current_dir(&workspace.root))
}

/// A cargo command in a folder; the cargo that started the gate.
pub(crate) fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(folder);
    command
}

/// What a command prints on stdout.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let name = said(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Failure::Start { command: name.clone(), source })?;
    if output.status.success() { Ok(output.stdout) } else { Err(Failure::Command { command: name }) }
}

/// Runs a command whose output matters only when it fails.
fn quiet(command: &mut Command) -> Result<String, Failure> {
    let name = said(command);
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Failure::Start { command: name.clone(), source })?;
    if output.status.success() {
        return Ok(String::new());
    }
    let mut stderr = std::io::stderr().lock();
    // Nowhere to report that stderr is closed.
    _ = stderr.write_all(&output.stdout).and_then(|()| stderr.write_all(&output.stderr));
    Err(Failure::Command { command: name })
}

/// The command as a person would type it.
fn said(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(program, |line, argument| line + " " + &argument.to_string_lossy())
}

/// Where `make tools` installs it; else wherever PATH has it.
fn cargo_deny() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_default();
    let installed = cache.join("millrace/bin/cargo-deny");
    if installed.exists() { installed } else { "cargo-deny".into() }
}
