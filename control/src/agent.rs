//! The agent: holds facts and attachments, plans, pushes, and answers the CNI binary.
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::{
    Refusal,
    attach::{Add, Address, Attached, Check, Gc, Key, Refused, Reply, Request, Route, code},
    v1::{Reason, StatusReply, StatusRequest, dataplane_client::DataplaneClient},
};
use tonic::transport::Channel;

use crate::{
    attach::{
        journal::{Attachment, Journal, JournalError},
        netns_id, tombstones,
        tombstones::Tombstones,
    },
    ipam::{self, NoAddress},
    plan::{self, GATEWAY4, GATEWAY6, PlanError, mac_of, pod_id},
    push::{Progress, Push},
    watch::Facts,
};

/// How long an ADD waits for the dataplane: less than the CNI binary waits for the agent (30 s), so that it hears why.
const ADD_LIMIT: Duration = Duration::from_secs(27);
/// How long a DEL waits; it is done in any case.
const DEL_LIMIT: Duration = Duration::from_secs(5);
/// How long STATUS and CHECK wait for the dataplane: the CNI binary gives STATUS 0.8 s.
const STATUS_LIMIT: Duration = Duration::from_millis(400);

/// The agent's state, shared by everyone who asks.
#[derive(Debug)]
pub struct Agent {
    state_dir: PathBuf,
    inner: Mutex<Inner>,
    push: Push,
    dataplane: Channel,
    add_limit: Duration,
}

#[derive(Debug)]
struct Inner {
    facts: Option<Facts>,
    journal: Journal,
    /// The revision of what is wanted now.
    revision: u64,
    /// Why what is wanted is not what the facts say.
    trouble: Option<String>,
}

impl Agent {
    /// An agent that keeps its journal in `state_dir` and asks `dataplane`; it knows no facts yet.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn new(state_dir: &Path, push: Push, dataplane: Channel) -> Result<Self, JournalError> {
        let journal = Journal::open(state_dir)?;
        tracing::info!(attachments = journal.attachments().len(), "journal read");
        let inner = Mutex::new(Inner { facts: None, journal, revision: 0, trouble: None });
        Ok(Agent { state_dir: state_dir.to_owned(), inner, push, dataplane, add_limit: ADD_LIMIT })
    }

    /// Lets an ADD wait for `limit` instead of 27 seconds.
    #[must_use]
    pub fn with_add_limit(self, limit: Duration) -> Self {
        Agent { add_limit: limit, ..self }
    }

    /// Takes new facts, and pushes what follows from them. The old ones stay when the new ones contradict themselves.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn learn(&self, facts: Facts) -> Result<(), PlanError> {
        let mut inner = self.lock();
        let before = inner.facts.replace(facts);
        let planned = inner.plan(&self.push);
        if planned.is_err() && before.is_some() {
            inner.facts = before;
        }
        planned
    }

    /// How many containers are attached or being attached.
    pub fn attachments(&self) -> usize {
        self.lock().journal.attachments().len()
    }

    /// Detaches what tombstones name and what has lost its namespace.
    ///
    /// # Errors
    /// When journal or tombstones cannot be read or written.
    pub fn reconcile(&self) -> Result<(), JournalError> {
        self.bury()?;
        let mut inner = self.lock();
        let orphans: Vec<Key> =
            inner.journal.attachments().iter().filter(|one| one.is_orphan()).map(|one| one.key.clone()).collect();
        for key in &orphans {
            tracing::warn!(container = key.container, ifname = key.ifname, "its network namespace is gone: detached");
        }
        if inner.journal.remove(|one| orphans.contains(&one.key))? > 0 {
            inner.replan(&self.push);
        }
        Ok(())
    }

    /// Answers the CNI binary.
    pub async fn answer(&self, request: Request) -> Reply {
        let answered = match request {
            Request::Add(add) => self.add(add).await.map(Reply::Attached),
            Request::Del(key) => self.del(&key).await.map(|()| Reply::Done),
            Request::Check(check) => self.check(&check).await.map(|()| Reply::Done),
            Request::Status => self.status().await.map(|()| Reply::Done),
            Request::Gc(gc) => self.gc(&gc).await.map(|()| Reply::Done),
        };
        answered.unwrap_or_else(|refused| {
            tracing::warn!(code = refused.code, details = refused.details, "{}", refused.message);
            Reply::Refused(refused)
        })
    }

    async fn add(&self, add: Add) -> Result<Attached, Refused> {
        if tombstones::any(&self.state_dir) {
            self.bury().map_err(|error| journal(&error))?;
        }
        let key = add.key.clone();
        let (attachment, revision) = self.lock().attach(add, &self.push)?;
        match self.live(&attachment.pod().id(), revision).await {
            // Another call may have detached it meanwhile.
            Ok(()) if self.lock().journal.get(&key) != Some(&attachment) => {
                Err(refuse(code::TRY_AGAIN, format!("container {} was detached meanwhile", key.container), ""))
            }
            Ok(()) => {
                let addresses = &attachment.addresses;
                tracing::info!(container = key.container, ifname = key.ifname, ?addresses, "attached");
                Ok(attached(&attachment))
            }
            Err(refused) => {
                // Undone before the answer: what is asked again begins anew.
                self.lock().detach(&key, &self.push).map_err(|error| journal(&error))?;
                Err(refused)
            }
        }
    }

    async fn del(&self, key: &Key) -> Result<(), Refused> {
        let Some(revision) = self.lock().detach(key, &self.push).map_err(|error| journal(&error))? else {
            return Ok(());
        };
        tracing::info!(container = key.container, ifname = key.ifname, "detached");
        self.gone(revision).await;
        Ok(())
    }

    async fn gc(&self, gc: &Gc) -> Result<(), Refused> {
        let lives =
            |key: &Key| gc.valid.iter().any(|(container, ifname)| (container, ifname) == (&key.container, &key.ifname));
        let revision = {
            let mut inner = self.lock();
            let gone = inner.journal.remove(|one| one.key.network == gc.network && !lives(&one.key));
            match gone.map_err(|error| journal(&error))? {
                0 => return Ok(()),
                gone => tracing::info!(network = gc.network, gone, "collected"),
            }
            inner.replan(&self.push)
        };
        self.gone(revision).await;
        Ok(())
    }

    async fn check(&self, check: &Check) -> Result<(), Refused> {
        let differs = |message: String| refuse(code::DIFFERS, message, "");
        let attachment = self.lock().journal.get(&check.key).cloned();
        let Some(attachment) = attachment else {
            return Err(refuse(
                code::UNKNOWN_CONTAINER,
                format!("container {} is not attached", check.key.container),
                "",
            ));
        };
        if let Some(address) = check.addresses.iter().find(|address| !attachment.addresses.contains(address)) {
            return Err(differs(format!("address {address} is not reserved for container {}", check.key.container)));
        }
        let id = attachment.pod().id();
        let status =
            self.dataplane().await.map_err(|why| refuse(code::TRY_AGAIN, "the dataplane does not answer", why))?;
        match status.ports.iter().find(|port| port.id == id) {
            Some(port) if port.up => Ok(()),
            Some(_) => Err(differs(format!("port {id} of the dataplane is down"))),
            None => Err(differs(format!("the dataplane has no port {id}"))),
        }
    }

    async fn status(&self) -> Result<(), Refused> {
        {
            let inner = self.lock();
            let not = |message: &str, details: &str| Err(refuse(code::NOT_AVAILABLE, message, details));
            let own = inner.facts.as_ref().and_then(|facts| facts.nodes.iter().find(|node| node.name == facts.node));
            let Some(own) = own else {
                return not("the agent has no node configuration", inner.trouble.as_deref().unwrap_or("not read yet"));
            };
            if ipam::free(&own.pod_ranges, &inner.journal.taken()) == 0 {
                let details = format!("{} attachments, ranges {:?}", inner.journal.attachments().len(), own.pod_ranges);
                return not("no pod address is left on this node", &details);
            }
        }
        let impaired = |why| refuse(code::NOT_AVAILABLE_IMPAIRED, "the dataplane does not answer", why);
        let status = self.dataplane().await.map_err(impaired)?;
        let progress = self.push.progress().borrow().clone();
        if progress.live == 0 {
            let details = progress.trouble.as_deref().unwrap_or("connecting");
            return Err(refuse(
                code::NOT_AVAILABLE,
                "the dataplane has not taken this node's configuration yet",
                details,
            ));
        }
        match status.pools.iter().find(|pool| pool.class == "small" && pool.total > 0 && pool.free == 0) {
            Some(pool) => Err(refuse(
                code::NOT_AVAILABLE,
                "the dataplane has no packet memory left",
                format!("{} frames", pool.total),
            )),
            None => Ok(()),
        }
    }

    /// Waits until `revision` is live and the pod `id` in it.
    async fn live(&self, id: &str, revision: u64) -> Result<(), Refused> {
        let mut progress = self.push.progress();
        let decided = |progress: &Progress| {
            progress.live >= revision || progress.refused.get(id).is_some_and(|(refused, _)| *refused >= revision)
        };
        let decision = tokio::time::timeout(self.add_limit, progress.wait_for(decided)).await;
        match decision {
            Ok(Ok(progress)) => match progress.refused.get(id) {
                Some((_, refusal)) => Err(refused(refusal)),
                None => Ok(()),
            },
            Ok(Err(_)) => Err(refuse(code::TRY_AGAIN, "the agent is ending", "")),
            Err(_) => {
                let trouble = self.push.progress().borrow().trouble.clone();
                let details = trouble.unwrap_or_else(|| "the dataplane is slow".into());
                Err(refuse(code::TRY_AGAIN, "the dataplane did not take the pod in time", details))
            }
        }
    }

    async fn gone(&self, revision: u64) {
        let mut progress = self.push.progress();
        let _ = tokio::time::timeout(DEL_LIMIT, progress.wait_for(|progress| progress.live >= revision)).await;
    }

    async fn dataplane(&self) -> Result<StatusReply, String> {
        let mut client = DataplaneClient::new(self.dataplane.clone());
        match tokio::time::timeout(STATUS_LIMIT, client.status(StatusRequest {})).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer within {} s", STATUS_LIMIT.as_secs_f32())),
        }
    }

    /// Does what tombstones ask for.
    fn bury(&self) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { path: self.state_dir.join(proto::attach::TOMBSTONES), source };
        let tombstones = Tombstones::open(&self.state_dir).map_err(io)?;
        let mut inner = self.lock();
        for key in tombstones.keys() {
            tracing::info!(container = key.container, ifname = key.ifname, "detached by its tombstone");
            inner.detach(key, &self.push)?;
        }
        tombstones.remove().map_err(io)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked ended the process, but in tests.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The attachment that `add` asks for: the one that is there, or a new one, journalled; and the revision to wait
    /// for.
    fn attach(&mut self, add: Add, push: &Push) -> Result<(Attachment, u64), Refused> {
        let netns_id = netns_id(&add.netns).map_err(|error| {
            refuse(
                code::INVALID_NETNS,
                format!("the agent does not see the network namespace {}", add.netns),
                error.to_string(),
            )
        })?;
        let known = self.journal.get(&add.key).cloned();
        if let Some(known) = known {
            if known.netns_id == netns_id && known.key == add.key {
                return Ok((known, self.revision));
            }
            // The container began anew under its old id.
            self.detach(&add.key, push).map_err(|error| journal(&error))?;
        } else if add.interface_exists {
            let message = format!("interface {} is there already, and is not Millrace's", add.key.ifname);
            return Err(refuse(code::BAD_ENVIRONMENT, message, format!("in {}", add.netns)));
        }
        let Some(facts) = &self.facts else {
            let details = self.trouble.as_deref().unwrap_or("not read yet");
            return Err(refuse(code::TRY_AGAIN, "the agent has no node configuration", details));
        };
        let mtu = plan::pod_mtu(facts).map_err(|error| refuse(code::TRY_AGAIN, error.to_string(), ""))?;
        let ranges = facts.nodes.iter().find(|node| node.name == facts.node).map(|node| node.pod_ranges.as_slice());
        let mut cursors = self.journal.cursors().clone();
        let taken = self.journal.taken();
        let addresses =
            ipam::allocate(ranges.unwrap_or_default(), &taken, &add.addresses, &mut cursors).map_err(no_address)?;
        let mac = mac(&add)?;
        let attachment = Attachment { key: add.key, netns: add.netns, netns_id, mac, mtu, addresses, args: add.args };
        self.journal.add(attachment.clone(), cursors).map_err(|error| journal(&error))?;
        Ok((attachment, self.replan(push)))
    }

    /// Removes the attachment of `key`; the revision to wait for, or none when there was none.
    fn detach(&mut self, key: &Key, push: &Push) -> Result<Option<u64>, JournalError> {
        let gone = self.journal.remove_key(key)?;
        Ok((gone > 0).then(|| self.replan(push)))
    }

    /// Pushes what follows from facts and attachments; the revision to wait for.
    fn replan(&mut self, push: &Push) -> u64 {
        if self.facts.is_some()
            && let Err(error) = self.plan(push)
        {
            tracing::error!("no plan: {error}");
        }
        self.revision
    }

    fn plan(&mut self, push: &Push) -> Result<(), PlanError> {
        let Some(facts) = &self.facts else { return Ok(()) };
        let pods: Vec<_> = self.journal.attachments().iter().map(Attachment::pod).collect();
        let planned = plan::plan(facts, &pods);
        self.trouble = planned.as_ref().err().map(ToString::to_string);
        self.revision = push.want(planned?);
        Ok(())
    }
}

fn attached(attachment: &Attachment) -> Attached {
    let gateway = |v4: bool| if v4 { GATEWAY4 } else { GATEWAY6 };
    let address = |ip: &std::net::IpAddr| {
        let v4 = ip.is_ipv4();
        Address { address: *ip, length: if v4 { 32 } else { 128 }, gateway: gateway(v4) }
    };
    let default = |ip: &std::net::IpAddr| {
        let v4 = ip.is_ipv4();
        Route { to: if v4 { "0.0.0.0/0" } else { "::/0" }.to_owned(), gateway: Some(gateway(v4)) }
    };
    Attached {
        mac: attachment.mac.clone(),
        mtu: attachment.mtu,
        addresses: attachment.addresses.iter().map(address).collect(),
        routes: attachment.addresses.iter().map(default).collect(),
    }
}

/// The MAC address that is asked for, or one of the container's own.
fn mac(add: &Add) -> Result<String, Refused> {
    if add.mac.is_empty() {
        return Ok(proto::mac_text(&mac_of("pod", &pod_id(&add.key.container, &add.key.ifname))));
    }
    match proto::parse_mac(&add.mac).filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]) {
        Some(mac) => Ok(proto::mac_text(&mac)),
        None => Err(refuse(code::UNSUPPORTED_FIELD, format!("mac with value {:?} is not supported", add.mac), "")),
    }
}

fn no_address(error: NoAddress) -> Refused {
    let code = match error {
        NoAddress::Full { .. } | NoAddress::NoRange => code::NO_ADDRESS,
        NoAddress::Taken(_) | NoAddress::Foreign(_) => code::ADDRESS_TAKEN,
    };
    refuse(code, error.to_string(), "")
}

fn refused(refusal: &Refusal) -> Refused {
    let code = match refusal.reason {
        Reason::NoRoom => code::NO_MEMORY,
        Reason::System if refusal.field == proto::NETNS_PATH => code::INVALID_NETNS,
        _ => code::REFUSED,
    };
    refuse(code, "the dataplane refuses the pod", refusal.to_string())
}

fn journal(error: &JournalError) -> Refused {
    refuse(code::IO, "the agent cannot keep its journal", error.to_string())
}

fn refuse(code: u32, message: impl Into<String>, details: impl Into<String>) -> Refused {
    Refused { code, message: message.into(), details: details.into() }
}
