//! The node agent: reads facts from a file, serves the CNI binary, programs the dataplane.
#![forbid(unsafe_code)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use control::{
    agent::Agent,
    attach::server,
    push::{self, Push},
    watch::{Source, standalone::Standalone},
};
use tokio::signal::unix::{SignalKind, signal};

/// How often attachments are compared with their namespaces.
const RECONCILE: Duration = Duration::from_secs(30);

/// The node agent of Millrace.
#[derive(Parser)]
#[command(name = "millrace-agent", version)]
struct Arguments {
    /// The file of facts about nodes; read again when it changes or on SIGHUP.
    #[arg(long, env = "MILLRACE_CONFIG", default_value = "/etc/millrace/node.yaml")]
    config: PathBuf,
    /// Check the file and end.
    #[arg(long)]
    check: bool,
    /// How much is logged: error, warn, info, debug or trace.
    #[arg(long, env = "MILLRACE_LOG", default_value = "info")]
    log: tracing::Level,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(arguments.log).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut source = Standalone::new(&arguments.config).context("cannot catch SIGHUP")?;
    let facts = source.next().await?;
    if arguments.check {
        control::plan::plan(&facts, &[]).with_context(|| arguments.config.display().to_string())?;
        println!("{}: node {} of {}: ok", arguments.config.display(), facts.node, facts.nodes.len());
        return Ok(());
    }
    let options = facts.options.clone();
    let channel = push::channel(&options.dataplane_socket)
        .with_context(|| format!("dataplaneSocket {}", options.dataplane_socket.display()))?;
    let (push, pushing) = Push::new(channel.clone());
    let agent = Arc::new(Agent::new(&options.state_dir, push, channel)?);
    // It listens before it replays tombstones: whoever finds nobody listening leaves one that is seen.
    let listener = server::listen(&options.agent_socket)
        .with_context(|| format!("agentSocket {}", options.agent_socket.display()))?;
    agent.reconcile()?;
    agent.learn(facts).with_context(|| arguments.config.display().to_string())?;
    tracing::info!(socket = %options.agent_socket.display(), "serving");
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        () = pushing => Ok(()),
        () = server::serve(listener, Arc::clone(&agent)) => Ok(()),
        () = watch(source, &agent) => Ok(()),
        () = reconcile(&agent) => Ok(()),
        _ = end.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn watch(mut source: Standalone, agent: &Agent) {
    loop {
        match source.next().await {
            Ok(facts) => match agent.learn(facts) {
                Ok(()) => tracing::info!("new facts"),
                Err(error) => tracing::error!("the new facts are left alone: {error}"),
            },
            Err(error) => tracing::error!("the old facts stay: {error}"),
        }
    }
}

async fn reconcile(agent: &Agent) {
    loop {
        tokio::time::sleep(RECONCILE).await;
        if let Err(error) = agent.reconcile() {
            tracing::error!("cannot reconcile: {error}");
        }
    }
}
