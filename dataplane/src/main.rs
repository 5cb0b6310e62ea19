//! The binary: the keeper, and the worker process that it starts.
#![forbid(unsafe_code)]
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use dataplane::{config::Config, keep, start};
use std::{
    ffi::OsString,
    io::IsTerminal as _,
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
};

/// Millrace's dataplane. Without a command it is the keeper, which starts the worker process and keeps it running.
#[derive(Parser)]
#[command(name = "millrace-dataplane", version)]
struct Arguments {
    /// The configuration file; without one all is as by default.
    #[arg(long, global = true, env = "MILLRACE_DATAPLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The worker process; its standard input is the line to the keeper that starts it.
    #[command(hide = true)]
    Worker {
        /// How often the keeper has started one.
        #[arg(long, default_value_t = 1)]
        starts: u64,
        /// How the one before ended, for people.
        #[arg(long)]
        ended: Option<String>,
    },
    /// Removes what a dataplane that is stopped has left on the host: taps, steering, the last desired state.
    Uninstall,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_target(false).init();
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    match arguments.role {
        None => {
            let passed = arguments.config.map(|path| [OsString::from("--config"), path.into()]);
            let passed: Vec<_> = passed.into_iter().flatten().collect();
            Ok(runtime.block_on(keep::keep(&config, &passed))?)
        }
        Some(Role::Worker { starts, ended }) => {
            let line = std::io::stdin().as_fd().try_clone_to_owned().context("take the line to the keeper")?;
            let done = runtime.block_on(start::run(&config, (starts, ended), UnixStream::from(line)));
            runtime.shutdown_background(); // a stream that someone still reads must not hold the process
            Ok(done?)
        }
        Some(Role::Uninstall) => Ok(keep::uninstall(&config)?),
    }
}
