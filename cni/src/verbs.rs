//! The verbs, each with its time limit, which covers reading the configuration.
use std::time::{Duration, Instant};

use proto::attach::{Add, Attached, Check, Gc, Key, Reply, Request, code};
use serde_json::Value;

use crate::{
    agent::{self, Silence},
    check,
    config::Config,
    environment::{Command, Environment},
    fault::Fault,
    netns,
    result::Outcome,
    tombstone::Graveyard,
    version::Version,
};

// kubelet gives a sandbox 2 to 4 minutes, containerd 1 for cleaning up; a verb that is late is asked again.
const ADD_LIMIT: Duration = Duration::from_secs(30);
const DEL_LIMIT: Duration = Duration::from_secs(9);
const CHECK_LIMIT: Duration = Duration::from_secs(5);
const GC_LIMIT: Duration = Duration::from_secs(30);
// containerd asks at each CRI Status, about every 5 seconds.
const STATUS_LIMIT: Duration = Duration::from_millis(800);
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// How long a verb may take, from the start of the process.
pub(crate) fn limit(command: Command) -> Duration {
    match command {
        Command::Add => ADD_LIMIT,
        Command::Del => DEL_LIMIT,
        Command::Check => CHECK_LIMIT,
        Command::Gc => GC_LIMIT,
        Command::Status | Command::Version => STATUS_LIMIT,
    }
}

/// Runs a verb, which asks the agent no longer than `until`. What it prints on success, if anything.
pub(crate) fn run(environment: &Environment, config: &Config, until: Instant) -> Result<Option<Value>, Fault> {
    let verb = Verb { environment, config, until };
    match environment.command {
        Command::Add => verb.add().map(Some),
        Command::Del => verb.del().map(|()| None),
        Command::Check => verb.since(Version::V0_4_0).and_then(|()| verb.check()).map(|()| None),
        Command::Status => verb.since(Version::V1_1_0).and_then(|()| verb.status()).map(|()| None),
        Command::Gc => verb.since(Version::V1_1_0).and_then(|()| verb.gc()).map(|()| None),
        Command::Version => Ok(None),
    }
}

struct Verb<'a> {
    environment: &'a Environment,
    config: &'a Config,
    until: Instant,
}

impl Verb<'_> {
    fn add(&self) -> Result<Value, Fault> {
        let Environment { netns, ifname, .. } = self.environment;
        let view = netns::look(netns, ifname)?;
        let mut outcome = match &self.config.previous {
            Some(previous) if self.config.version >= Version::V0_3_0 => Outcome::previous(previous)?,
            _ => Outcome::default(),
        };
        let request = Request::Add(Add {
            key: self.key(),
            netns: netns.clone(),
            interface_exists: view.exists,
            args: self.environment.args.clone(),
            addresses: self.config.addresses.clone(),
            mac: self.config.mac.clone(),
        });
        match self.ask(request) {
            Ok(Reply::Attached(attached)) if sound(&attached) => {
                outcome.add(&attached, ifname, netns, self.config.dns.clone());
                Ok(outcome.json(self.config.version))
            }
            Ok(Reply::Refused(refused)) => Err(refused.into()),
            Ok(other) => Err(unexpected(&other)),
            Err(silence) => {
                // The agent may have heard: undo it when it is back, before anyone adds the same again.
                if !matches!(silence, Silence::Unreachable(_)) {
                    let _ = Graveyard::open(&self.config.state_dir, LOCK_LIMIT).and_then(|yard| yard.bury(&self.key()));
                }
                Err(silence.fault(&self.config.agent_socket))
            }
        }
    }

    fn del(&self) -> Result<(), Fault> {
        let silence = match self.ask(Request::Del(self.key())) {
            Ok(reply) => return done(reply),
            Err(silence) => silence,
        };
        let io = |error: std::io::Error| {
            let details = silence.fault(&self.config.agent_socket);
            Fault::io("cannot leave a tombstone for the agent", &error).details(format!("{error}; {details}"))
        };
        let yard = Graveyard::open(&self.config.state_dir, LOCK_LIMIT).map_err(&io)?;
        // An agent that has come up meanwhile replays no more: tell it.
        if matches!(silence, Silence::Unreachable(_))
            && let Ok(reply) = self.ask(Request::Del(self.key()))
        {
            return done(reply);
        }
        yard.bury(&self.key()).map_err(&io)
    }

    fn check(&self) -> Result<(), Fault> {
        let Environment { netns, ifname, .. } = self.environment;
        let Some(previous) = &self.config.previous else {
            return Err(Fault::new(code::INVALID_CONFIG, "CHECK needs prevResult"));
        };
        let outcome = Outcome::previous(previous)?;
        let addresses = check::promised(&outcome, ifname, netns)?;
        check::compare(&outcome, ifname, netns, &netns::look(netns, ifname)?)?;
        let request = Request::Check(Check { key: self.key(), addresses });
        self.ask(request).map_err(|silence| silence.fault(&self.config.agent_socket)).and_then(done)
    }

    fn status(&self) -> Result<(), Fault> {
        match self.ask(Request::Status) {
            Ok(reply) => done(reply),
            // Pods that run are the dataplane's, which does not need the agent.
            Err(silence) => Err(Fault { code: code::NOT_AVAILABLE, ..silence.fault(&self.config.agent_socket) }),
        }
    }

    fn gc(&self) -> Result<(), Fault> {
        // A runtime that names nothing has not said that nothing lives.
        let Some(valid) = self.config.valid.clone() else { return Ok(()) };
        let request = Request::Gc(Gc { network: self.config.network.clone(), valid });
        self.ask(request).map_err(|silence| silence.fault(&self.config.agent_socket)).and_then(done)
    }

    fn ask(&self, request: Request) -> Result<Reply, Silence> {
        agent::ask(&self.config.agent_socket, request, self.until)
    }

    fn key(&self) -> Key {
        let Environment { container, ifname, .. } = self.environment.clone();
        Key { network: self.config.network.clone(), container, ifname }
    }

    fn since(&self, version: Version) -> Result<(), Fault> {
        if self.config.version >= version {
            return Ok(());
        }
        let message = format!("{:?} needs cniVersion {} or later", self.environment.command, version.text());
        Err(Fault::new(code::INCOMPATIBLE_VERSION, message))
    }
}

fn done(reply: Reply) -> Result<(), Fault> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(refused) => Err(refused.into()),
        Reply::Attached(_) => Err(unexpected(&reply)),
    }
}

/// containerd takes a result without addresses for no network at all.
fn sound(attached: &Attached) -> bool {
    !attached.addresses.is_empty()
}

fn unexpected(reply: &Reply) -> Fault {
    Fault::new(code::DECODING, "the agent's answer does not fit the request").details(format!("{reply:?}"))
}
