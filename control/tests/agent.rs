//! The agent between a CNI binary and a dataplane, both played by the test.
mod fake;

use std::{path::Path, sync::Arc, time::Duration};

use control::{
    agent::Agent,
    attach::server,
    plan::pod_id,
    push::{self, Push},
    watch::{Facts, standalone},
};
use fake::{FakeDataplane, Serving};
use proto::attach::{
    Add, Attached, Check, Gc, Key, Refused, Reply, Request, TOMBSTONES, Tombstone, code, encode, frame_length,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::JoinSet,
};

const SAMPLE: &str = include_str!("../../deploy/standalone/node-a.yaml");
/// A namespace that always is one.
const NETNS: &str = "/proc/self/ns/net";

fn facts() -> Facts {
    let mut facts = standalone::parse(SAMPLE).unwrap();
    facts.uplink_mtu = Some(1500);
    // Five addresses for pods.
    facts.nodes[0].pod_ranges[0] = "10.1.1.0/29".parse().unwrap();
    facts
}

fn key(container: &str) -> Key {
    Key { network: "millrace".into(), container: container.into(), ifname: "eth0".into() }
}

fn add(container: &str) -> Add {
    Add {
        key: key(container),
        netns: NETNS.into(),
        interface_exists: false,
        args: [].into(),
        addresses: vec![],
        mac: String::new(),
    }
}

/// An agent and what it touches; it ends with this.
struct Node {
    folder: Arc<tempfile::TempDir>,
    dataplane: FakeDataplane,
    serving: Option<Serving>,
    agent: Arc<Agent>,
    tasks: JoinSet<()>,
}

impl Node {
    async fn start() -> Self {
        let (folder, dataplane) = (Arc::new(tempfile::tempdir().unwrap()), FakeDataplane::default());
        let serving = Some(dataplane.serve(&folder.path().join("dataplane.sock")));
        Node::with(folder, dataplane, serving)
    }

    fn with(folder: Arc<tempfile::TempDir>, dataplane: FakeDataplane, serving: Option<Serving>) -> Self {
        let channel = push::channel(&folder.path().join("dataplane.sock")).unwrap();
        let (push, pushing) = Push::new(channel.clone());
        let agent = Agent::new(&folder.path().join("state"), push, channel).unwrap();
        let agent = Arc::new(agent.with_add_limit(Duration::from_secs(4)));
        let mut tasks = JoinSet::new();
        tasks.spawn(pushing);
        let listener = server::listen(&folder.path().join("agent.sock")).unwrap();
        agent.reconcile().unwrap();
        let serve = server::serve(listener, Arc::clone(&agent));
        tasks.spawn(serve);
        agent.learn(facts()).unwrap();
        Node { folder, dataplane, serving, agent, tasks }
    }

    /// Ends the agent without a word, and starts another one in its place.
    async fn restart(mut self) -> Self {
        self.tasks.shutdown().await;
        drop(self.agent);
        Node::with(self.folder, self.dataplane, self.serving)
    }

    async fn ask(&self, request: Request) -> Reply {
        ask(&self.folder.path().join("agent.sock"), &request).await
    }

    async fn add(&self, container: &str) -> Attached {
        attached(self.ask(Request::Add(add(container))).await)
    }

    fn ports(&self) -> Vec<String> {
        let mut ids: Vec<_> =
            self.dataplane.told(|told| told.desired.ports.iter().map(|port| port.id.clone()).collect());
        ids.sort();
        ids
    }

    /// The dataplane knows nothing any more.
    fn forget(&self) {
        self.dataplane.told(|told| (told.desired, told.generation) = Default::default());
    }

    /// Waits until the dataplane has exactly these ports.
    async fn until_ports(&self, expected: &[&str]) {
        for _ in 0..600 {
            if self.ports() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("ports are {:?}, not {expected:?}", self.ports());
    }
}

async fn ask(socket: &Path, request: &Request) -> Reply {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(&encode(request).unwrap()).await.unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut json = vec![0; frame_length(length).unwrap()];
    stream.read_exact(&mut json).await.unwrap();
    proto::attach::decode(&json).unwrap()
}

fn attached(reply: Reply) -> Attached {
    let Reply::Attached(attached) = reply else { panic!("{reply:?}") };
    attached
}

fn refused(reply: Reply) -> Refused {
    let Reply::Refused(refused) = reply else { panic!("{reply:?}") };
    refused
}

#[tokio::test]
async fn an_add_is_live_before_it_is_answered() {
    let node = Node::start().await;
    let got = node.add("c1").await;
    assert_eq!(node.ports(), ["host", "pod/c1/eth0", "uplink"]);
    let addresses: Vec<_> =
        got.addresses.iter().map(|one| format!("{}/{} {}", one.address, one.length, one.gateway)).collect();
    assert_eq!(addresses, ["10.1.1.2/32 169.254.1.1", "fd00:1:1::2/128 fe80::1"]);
    assert_eq!((got.mtu, got.routes.len(), &got.mac[..3]), (1450, 2, "02:"));
    assert_eq!(node.add("c1").await, got, "asked again, it answers the same");
    assert_eq!(node.ask(Request::Del(key("c1"))).await, Reply::Done);
    assert_eq!(node.ports(), ["host", "uplink"]);
    assert_eq!(node.ask(Request::Del(key("c1"))).await, Reply::Done, "gone already is success");
}

#[tokio::test]
async fn changes_go_as_deltas() {
    let node = Node::start().await;
    node.add("c1").await;
    node.add("c2").await;
    assert!(node.dataplane.told(|told| told.wholes == 1 && told.deltas >= 1));
}

#[tokio::test]
async fn parallel_adds_get_addresses_of_their_own_until_there_are_none() {
    let node = Node::start().await;
    let socket = node.folder.path().join("agent.sock");
    let mut asking = JoinSet::new();
    for n in 0..8 {
        let socket = socket.clone();
        asking.spawn(async move { ask(&socket, &Request::Add(add(&format!("c{n}")))).await });
    }
    let (mut addresses, mut full) = (std::collections::BTreeSet::new(), 0);
    while let Some(reply) = asking.join_next().await {
        match reply.unwrap() {
            Reply::Attached(attached) => assert!(attached.addresses.iter().all(|one| addresses.insert(one.address))),
            other => {
                let refused = refused(other);
                assert_eq!(
                    (refused.code, refused.message.as_str()),
                    (code::NO_ADDRESS, "all 5 addresses of 10.1.1.0/29 are taken")
                );
                full += 1;
            }
        }
    }
    assert_eq!((addresses.len(), full), (10, 3));
    assert_eq!(refused(node.ask(Request::Status).await).code, code::NOT_AVAILABLE);
    node.ask(Request::Del(key("c0"))).await;
}

#[tokio::test]
async fn what_the_dataplane_refuses_is_undone_and_holds_up_nobody() {
    let node = Node::start().await;
    node.dataplane.told(|told| told.refuse_netns.insert("/dev/null".into()));
    let bad = Add { netns: "/dev/null".into(), ..add("bad") };
    let (bad, good) = tokio::join!(node.ask(Request::Add(bad.clone())), node.ask(Request::Add(add("good"))));
    let bad = refused(bad);
    assert_eq!(bad.code, code::INVALID_NETNS);
    assert!(bad.details.contains("port \"pod/bad/eth0\", field tap.netns_path: no such namespace"), "{}", bad.details);
    attached(good);
    node.until_ports(&["host", "pod/good/eth0", "uplink"]).await;
    // The same container in a namespace that is one.
    attached(node.ask(Request::Add(add("bad"))).await);
}

#[tokio::test]
async fn with_the_dataplane_down_an_add_is_refused_in_time_and_undone() {
    let mut node = Node::start().await;
    node.add("c1").await;
    node.serving = None;
    let refused = refused(node.ask(Request::Add(add("c2"))).await);
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (code::TRY_AGAIN, "the dataplane did not take the pod in time")
    );
    assert!(refused.details.contains("cannot be reached"), "{}", refused.details);
    assert_eq!(self::refused(node.ask(Request::Status).await).code, code::NOT_AVAILABLE_IMPAIRED);
    assert_eq!(node.ask(Request::Del(key("c1"))).await, Reply::Done);
    node.serving = Some(node.dataplane.serve(&node.folder.path().join("dataplane.sock")));
    node.until_ports(&["host", "uplink"]).await;
    assert_eq!(node.ask(Request::Status).await, Reply::Done);
}

#[tokio::test]
async fn an_add_that_a_del_overtakes_is_not_answered_as_attached() {
    let mut node = Node::start().await;
    node.add("c1").await;
    node.serving = None;
    let (added, deleted) = tokio::join!(node.ask(Request::Add(add("c2"))), async {
        while node.agent.attachments() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let deleted = node.agent.answer(Request::Del(key("c2")));
        let up = async { node.dataplane.serve(&node.folder.path().join("dataplane.sock")) };
        tokio::join!(deleted, up)
    });
    assert_eq!(refused(added).code, code::TRY_AGAIN);
    assert_eq!(deleted.0, Reply::Done);
    node.until_ports(&["host", "pod/c1/eth0", "uplink"]).await;
}

#[tokio::test]
async fn a_dataplane_that_forgot_everything_is_told_again() {
    let mut node = Node::start().await;
    node.add("c1").await;
    node.serving = None;
    node.forget();
    node.serving = Some(node.dataplane.serve(&node.folder.path().join("dataplane.sock")));
    node.until_ports(&["host", "pod/c1/eth0", "uplink"]).await;
}

#[tokio::test]
async fn an_unexpected_generation_makes_it_say_everything() {
    let node = Node::start().await;
    node.add("c1").await;
    node.forget();
    node.add("c2").await;
    assert_eq!(node.ports(), ["host", "pod/c1/eth0", "pod/c2/eth0", "uplink"]);
    assert_eq!(node.dataplane.told(|told| told.wholes), 2);
}

#[tokio::test]
async fn a_refusal_that_is_no_pods_is_told_and_passes() {
    let node = Node::start().await;
    node.dataplane.told(|told| told.refuse_all = true);
    let refused = refused(node.ask(Request::Add(add("c1"))).await);
    assert_eq!((refused.code, refused.details.as_str()), (code::TRY_AGAIN, "object: everything is refused"));
    node.dataplane.told(|told| told.refuse_all = false);
    node.add("c1").await;
}

#[tokio::test]
async fn a_new_agent_knows_what_the_old_one_attached() {
    let node = Node::start().await;
    let before = (node.add("c1").await, node.add("c2").await);
    let node = node.restart().await;
    assert_eq!((node.add("c1").await, node.add("c2").await), before);
    let third = node.add("c3").await;
    assert_eq!(third.addresses[0].address.to_string(), "10.1.1.4");
    assert_eq!(node.ports(), ["host", "pod/c1/eth0", "pod/c2/eth0", "pod/c3/eth0", "uplink"]);
}

#[tokio::test]
async fn tombstones_are_replayed_before_an_add_and_at_the_start() {
    let node = Node::start().await;
    node.add("c1").await;
    node.add("c2").await;
    let tombstone = |container: &str| {
        let tombstone = Tombstone { key: key(container) };
        let path = node.folder.path().join("state").join(TOMBSTONES).join(tombstone.file_name());
        std::fs::write(&path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
        path
    };
    let path = tombstone("c1");
    node.add("c3").await;
    assert!(!path.exists());
    node.until_ports(&["host", "pod/c2/eth0", "pod/c3/eth0", "uplink"]).await;
    let path = tombstone("c2");
    let node = node.restart().await;
    assert!(!path.exists());
    node.until_ports(&["host", "pod/c3/eth0", "uplink"]).await;
}

#[tokio::test]
async fn an_attachment_without_its_namespace_goes() {
    let node = Node::start().await;
    let netns = node.folder.path().join("netns");
    std::fs::write(&netns, "").unwrap();
    let path = netns.to_str().unwrap().to_owned();
    attached(node.ask(Request::Add(Add { netns: path, ..add("c1") })).await);
    node.agent.reconcile().unwrap();
    assert_eq!(node.ports(), ["host", "pod/c1/eth0", "uplink"]);
    std::fs::remove_file(&netns).unwrap();
    node.agent.reconcile().unwrap();
    node.until_ports(&["host", "uplink"]).await;
}

#[tokio::test]
async fn a_container_that_began_anew_is_attached_anew() {
    let node = Node::start().await;
    let first = node.add("c1").await;
    let netns = node.folder.path().join("netns");
    std::fs::write(&netns, "").unwrap();
    let again = Add { netns: netns.to_str().unwrap().into(), interface_exists: false, ..add("c1") };
    let second = attached(node.ask(Request::Add(again)).await);
    assert_ne!(first.addresses, second.addresses);
    assert_eq!(node.ports(), ["host", "pod/c1/eth0", "uplink"]);
}

#[tokio::test]
async fn what_was_asked_for_is_given_or_refused() {
    let node = Node::start().await;
    let ask = |container: &str, address: &str, mac: &str| {
        Request::Add(Add { addresses: vec![address.parse().unwrap()], mac: mac.into(), ..add(container) })
    };
    let got = attached(node.ask(ask("c1", "10.1.1.5", "02:00:00:00:00:77")).await);
    assert_eq!((got.addresses[0].address.to_string().as_str(), got.mac.as_str()), ("10.1.1.5", "02:00:00:00:00:77"));
    assert_eq!(refused(node.ask(ask("c2", "10.1.1.5", "")).await).code, code::ADDRESS_TAKEN);
    assert_eq!(refused(node.ask(ask("c2", "192.0.2.7", "")).await).code, code::ADDRESS_TAKEN);
    assert_eq!(refused(node.ask(ask("c2", "10.1.1.6", "01:00:00:00:00:77")).await).code, code::UNSUPPORTED_FIELD);
    let nowhere = Add { netns: "/nonexistent".into(), ..add("c2") };
    assert_eq!(refused(node.ask(Request::Add(nowhere)).await).code, code::INVALID_NETNS);
    let there = Add { interface_exists: true, ..add("c2") };
    assert_eq!(refused(node.ask(Request::Add(there)).await).code, code::BAD_ENVIRONMENT);
}

#[tokio::test]
async fn check_looks_at_journal_and_dataplane() {
    let node = Node::start().await;
    let addresses: Vec<_> = node.add("c1").await.addresses.iter().map(|one| one.address).collect();
    let check = |container: &str, addresses: &[std::net::IpAddr]| {
        Request::Check(Check { key: key(container), addresses: addresses.to_vec() })
    };
    assert_eq!(node.ask(check("c1", &addresses)).await, Reply::Done);
    assert_eq!(refused(node.ask(check("c2", &addresses)).await).code, code::UNKNOWN_CONTAINER);
    assert_eq!(refused(node.ask(check("c1", &["10.1.1.6".parse().unwrap()])).await).code, code::DIFFERS);
    let id = pod_id("c1", "eth0");
    node.dataplane.told(|told| told.desired.ports.retain(|port| port.id != id));
    assert_eq!(refused(node.ask(check("c1", &addresses)).await).message, "the dataplane has no port pod/c1/eth0");
}

#[tokio::test]
async fn gc_stays_within_its_network() {
    let node = Node::start().await;
    node.add("c1").await;
    node.add("c2").await;
    let other = Key { network: "other".into(), ..key("c3") };
    attached(node.ask(Request::Add(Add { key: other, ..add("c3") })).await);
    let gc =
        Gc { network: "millrace".into(), valid: vec![("c2".into(), "eth0".into()), ("gone".into(), "eth0".into())] };
    assert_eq!(node.ask(Request::Gc(gc)).await, Reply::Done);
    assert_eq!(node.ports(), ["host", "pod/c2/eth0", "pod/c3/eth0", "uplink"]);
}

#[tokio::test]
async fn new_facts_move_the_plan_and_contradictions_do_not() {
    let node = Node::start().await;
    node.add("c1").await;
    let mut more = facts();
    more.nodes.remove(1);
    node.agent.learn(more).unwrap();
    for _ in 0..600 {
        if node.dataplane.told(|told| told.desired.tunnels.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(node.dataplane.told(|told| told.desired.tunnels.is_empty()));
    assert!(node.agent.learn(Facts { node: "nobody".into(), ..facts() }).is_err());
    node.add("c2").await;
}

#[tokio::test]
async fn one_agent_per_socket_and_nonsense_gets_an_answer() {
    let node = Node::start().await;
    let socket = node.folder.path().join("agent.sock");
    let taken = server::listen(&socket).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert!(taken.to_string().contains(&format!("another agent (pid {})", std::process::id())), "{taken}");
    let file = node.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(server::listen(&file).is_err() && std::fs::read(&file).unwrap() == b"precious");
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(&[0, 0, 0, 2, b'{', b'{']).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(refused(proto::attach::decode(&answer[4..]).unwrap()).code, code::DECODING);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}
