//! The CNI binary: asks the agent to attach and detach containers, in the words of CNI 0.1.0 to 1.1.0.
//!
//! It holds no credentials and no state but tombstones: DELs that the agent was not there to see. To ship, it is
//! static:
//! `cargo rustc -p millrace-cni --release --bin millrace-cni -- -Ctarget-feature=+crt-static -Cstrip=symbols`.
#![forbid(unsafe_code)]

mod agent;
mod check;
mod config;
mod environment;
mod fault;
mod journal;
mod netns;
mod result;
mod tombstone;
mod verbs;
mod version;

use std::{
    io::{Read as _, Write as _},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Instant,
};

use config::Config;
use environment::{Command, Environment};
use fault::Fault;
use version::Version;

/// The most bytes of configuration that are read: a GC with 10,000 attachments fits.
const INPUT_LIMIT: u64 = 8 << 20;

fn main() -> ExitCode {
    let begin = Instant::now();
    let environment = match Environment::read(|name| std::env::var_os(name)) {
        Ok(Some(environment)) => environment,
        Ok(None) => {
            let versions: Vec<_> = Version::ALL.iter().map(|v| v.text()).collect();
            eprintln!("CNI millrace {}\nCNI versions supported: {}", env!("CARGO_PKG_VERSION"), versions.join(", "));
            return ExitCode::SUCCESS;
        }
        Err(fault) => return fail(Version::NEWEST, &fault),
    };
    let until = begin + verbs::limit(environment.command);
    let input = match input(until) {
        Ok(input) => input,
        Err(fault) => return fail(Version::NEWEST, &fault),
    };
    if environment.command == Command::Version {
        return print(&version::answer(&input));
    }
    let config = match Config::read(&input) {
        Ok(config) => config,
        Err(fault) => return fail(Version::NEWEST, &fault),
    };
    run(&environment, &config, until)
}

/// The configuration, if the runtime has written all of it in time.
fn input(until: Instant) -> Result<Vec<u8>, Fault> {
    let (whole, arrived) = mpsc::channel();
    // A thread, which may wait for the end of stdin as long as it likes: the process ends without it.
    thread::spawn(move || {
        let mut input = Vec::new();
        let _ = whole.send(std::io::stdin().take(INPUT_LIMIT).read_to_end(&mut input).map(|_| input));
    });
    let late = Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not end"));
    let input = arrived.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or(late);
    input.map_err(|error| Fault::io("cannot read the configuration from stdin", &error))
}

fn run(environment: &Environment, config: &Config, until: Instant) -> ExitCode {
    let answer = verbs::run(environment, config, until);
    journal::write(config, environment, answer.as_ref().err());
    match answer {
        Ok(Some(result)) => print(&result),
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => fail(config.version, &fault),
    }
}

fn print(what: &serde_json::Value) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{what}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(version: Version, fault: &Fault) -> ExitCode {
    eprintln!("millrace-cni: {fault}");
    let _ = print(&fault.json(version));
    ExitCode::FAILURE
}
