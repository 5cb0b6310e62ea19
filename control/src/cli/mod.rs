//! The command line: looks at a dataplane, for people and for scripts.
mod arguments;
mod ask;
mod table;
pub mod view;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser as _;
use proto::v1::{CountersReply, CountersRequest, Flow, Step};

use arguments::{Arguments, Command, CountersArguments, Output};
use ask::{Dataplane, Failure};
use view::View;

/// Where the dataplane listens unless it was told otherwise.
pub const SOCKET: &str = "/run/millrace/dataplane.sock";

/// The program: reads the arguments, asks, prints. Exits with 0 when it worked, 1 when the dataplane refused, 2 when
/// the arguments are wrong, 3 when the dataplane cannot be reached.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(Failure::Refused(format!("cannot start the runtime: {error}"))),
    };
    match ended {
        // A reader that has seen enough (`| head`) is no failure.
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("millrace: {failure}");
            failure.exit().into()
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut dataplane = Dataplane::connect(&arguments.socket).await?;
    let view = View { json: arguments.output == Output::Json, colour: colour() };
    match &arguments.command {
        Command::Status => print(&view.status(&dataplane.status().await?)),
        Command::Ports => print(&view.ports(&dataplane.status().await?)),
        Command::Flows(which) => {
            let flows: Vec<Flow> = dataplane.flows(which.request()?).await?;
            print(&view.flows(&flows))
        }
        Command::Counters(which) => counters(&mut dataplane, view, which).await,
        Command::Trace(which) => {
            let mut steps = dataplane.trace(which.request()?).await?;
            let mut last: Option<Step> = None;
            while let Some(step) = ask::next(&mut steps).await? {
                print(&view.step(&step, last.as_ref()))?;
                last = Some(step);
            }
            if last.is_none() {
                eprintln!("no packet matched within {} s", which.seconds);
            }
            Ok(())
        }
    }
}

async fn counters(dataplane: &mut Dataplane, view: View, which: &CountersArguments) -> Result<(), Failure> {
    let Some(seconds) = which.watch.or(which.diff) else {
        let now = dataplane.counters(CountersRequest {}).await?;
        return print(&view.counters(&now, &CountersReply::default(), which.all));
    };
    let mut before = dataplane.counters(CountersRequest {}).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        let now = dataplane.counters(CountersRequest {}).await?;
        print(&view.counters(&now, &before, which.all))?;
        if which.watch.is_none() {
            return Ok(());
        }
        before = now;
    }
}

/// Colours are for a terminal whose user has not said no (no-color.org).
fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|_| Failure::Closed)
}
