//! Namespaces, dataplanes in them, and pods; gone when the test ends. What a killed test leaves, the next one removes.
#[path = "../../ports/tests/netns/sweep.rs"]
mod sweep;

use proto::v1::{
    self, ApplyReply, ApplyRequest, Desired, Event, Prefix, StatusReply, StatusRequest, WatchRequest,
    apply_request::Change, dataplane_client::DataplaneClient, event, port, route::NextHop, tunnel as kind,
};
use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How long anything may take that is not an answer of ours.
const PATIENCE: Duration = Duration::from_secs(30);
/// What names of ours begin with, before the test's pid.
const KIND: &str = "mrk";
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub(crate) struct Lab {
    prefix: String,
    spaces: Vec<String>,
    dir: TempDir,
    mounts: Vec<PathBuf>,
}

impl Lab {
    /// Makes the namespaces, or says why the test cannot run.
    pub(crate) fn new(test: &str, spaces: &[&str]) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = folder();
        let prefix = format!("{KIND}{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let spaces = spaces.iter().map(|space| (*space).to_owned()).collect();
        let lab = Lab { prefix, spaces, dir, mounts: Vec::new() };
        for space in &lab.spaces {
            let name = lab.space(space);
            let made = Command::new("ip").args(["netns", "add", &name]).output();
            if !made.is_ok_and(|made| made.status.success()) {
                eprintln!("SKIP {test}: needs root and iproute2, to make network namespaces");
                return None;
            }
            ip(&["-n", &name, "link", "set", "lo", "up"]);
        }
        Some(lab)
    }

    pub(crate) fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Joins two hosts: `u0` on both, 192.0.2.1 and .2.
    pub(crate) fn join(&self, one: &str, other: &str) {
        let (one, other) = (self.space(one), self.space(other));
        ip(&["link", "add", "u0", "netns", &one, "type", "veth", "peer", "name", "u0", "netns", &other]);
        for (space, address) in [(one, "192.0.2.1/24"), (other, "192.0.2.2/24")] {
            ip(&["-n", &space, "addr", "add", address, "dev", "u0"]);
            ip(&["-n", &space, "link", "set", "u0", "up"]);
        }
    }

    /// Starts a dataplane in a namespace.
    pub(crate) fn node(&self, name: &str, more: &str) -> Node {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("dataplane.yaml");
        let at = dir.display();
        let text = format!(
            "frames: {{small: 8192, jumbo: 64, super: 32}}\npages: {{kind: plain}}\nflows: 4096\n\
             state_dir: {at}/state\nrun_dir: {at}/run\nbpf_dir: {at}/bpf\n{more}"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(name), env!("CARGO_BIN_EXE_millrace-dataplane"), "--config"])
            .arg(&config);
        let keeper = Killed(command.stdin(Stdio::null()).spawn().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Node { keeper, runtime, config, socket: dir.join("run/dataplane.sock"), space: self.space(name) }
    }

    /// Pings from a namespace until there is an answer.
    pub(crate) fn ping(&self, from: &str, to: &str) {
        let space = self.space(from);
        let until = Instant::now() + PATIENCE;
        loop {
            let done = Command::new("ip")
                .args(["netns", "exec", &space, "ping", "-n", "-c", "1", "-W", "1", to])
                .output()
                .unwrap();
            if done.status.success() {
                return;
            }
            assert!(Instant::now() < until, "{from} does not reach {to}: {}", String::from_utf8_lossy(&done.stdout));
        }
    }

    /// What sysfs says of a pod's interface.
    pub(crate) fn read(&self, space: &str, what: &str) -> String {
        let path = format!("/sys/class/net/eth0/{what}");
        output(Command::new("ip").args(["netns", "exec", &self.space(space), "cat", &path])).trim().to_owned()
    }

    /// What `ip` shows in a namespace.
    pub(crate) fn shows(&self, space: &str, what: &str) -> String {
        output(Command::new("ip").args(["-n", &self.space(space)]).args(what.split(' ')))
    }

    /// Has `ip` do something in a namespace.
    pub(crate) fn set(&self, space: &str, what: &str) {
        self.shows(space, what);
    }

    /// Lets the state of a dataplane to be lie on a disk of 256 KiB; gives its folder.
    pub(crate) fn small_disk(&mut self, name: &str) -> PathBuf {
        let at = self.dir.path().join(name).join("state");
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "millrace", at.to_str().unwrap()]);
        self.mounts.push(at.clone());
        at
    }

    /// A file that `program` makes.
    pub(crate) fn file(&self, name: &str, program: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        output(Command::new(program).arg(&path));
        path
    }

    pub(crate) fn has(&self, space: &str, interface: &str) -> bool {
        Command::new("ip")
            .args(["-n", &self.space(space), "link", "show", interface])
            .output()
            .unwrap()
            .status
            .success()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let _was_never = Command::new("umount").arg("-l").arg(mount).output();
        }
        for space in &self.spaces {
            let _never_made = Command::new("ip").args(["netns", "del", &self.space(space)]).output();
        }
    }
}

/// A process that is killed rather than asked: a worker process ends with its keeper.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A dataplane: its keeper is ours, its worker process the keeper's.
pub(crate) struct Node {
    keeper: Killed,
    runtime: Runtime,
    config: PathBuf,
    socket: PathBuf,
    space: String,
}

impl Node {
    pub(crate) fn apply(&mut self, change: Change) -> Result<ApplyReply, Status> {
        let mut client = self.client();
        let request = ApplyRequest { change: Some(change), dry_run: false };
        self.runtime.block_on(async { client.apply(request).await.map(tonic::Response::into_inner) })
    }

    /// The same, if anybody answers at once.
    pub(crate) fn try_apply(&mut self, change: Change) -> Option<ApplyReply> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        let request = ApplyRequest { change: Some(change), dry_run: false };
        self.runtime.block_on(async {
            let mut client = DataplaneClient::new(endpoint.connect().await.ok()?);
            Some(client.apply(request).await.ok()?.into_inner())
        })
    }

    pub(crate) fn status(&mut self) -> StatusReply {
        let mut client = self.client();
        self.runtime.block_on(async { client.status(StatusRequest {}).await.unwrap().into_inner() })
    }

    /// The status of a worker process that is not `pid`, once there is one.
    pub(crate) fn status_of_another(&mut self, pid: u32) -> StatusReply {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut client = self.client();
            let status = self.runtime.block_on(async { client.status(StatusRequest {}).await });
            match status {
                Ok(status) if status.get_ref().pid != pid => return status.into_inner(),
                _ => assert!(Instant::now() < until, "no new worker process"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What happens to it from now on.
    pub(crate) fn watch(&mut self) -> Streaming<Event> {
        let mut client = self.client();
        self.runtime.block_on(async { client.watch(WatchRequest {}).await.unwrap().into_inner() })
    }

    /// Why a port's state becomes `up`, as a watcher hears it.
    pub(crate) fn hears(&mut self, watcher: &mut Streaming<Event>, port: &str, up: bool) -> String {
        self.runtime.block_on(async {
            loop {
                let event = tokio::time::timeout(PATIENCE, watcher.message()).await.expect("never heard");
                match event.unwrap().unwrap().kind {
                    Some(event::Kind::PortState(state)) if state.port == port && state.up == up => return state.reason,
                    _ => {}
                }
            }
        })
    }

    /// Waits until the status is as `is` says.
    pub(crate) fn wait(&mut self, what: &str, is: impl Fn(&StatusReply) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is(&status) {
                return;
            }
            assert!(Instant::now() < until, "never {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// So many connections to the API that say nothing.
    pub(crate) fn crowd(&self, many: usize) -> Vec<UnixStream> {
        (0..many).map(|_| UnixStream::connect(&self.socket).unwrap()).collect()
    }

    /// Where its state, its sockets and its configuration are.
    pub(crate) fn folder(&self) -> &Path {
        self.config.parent().unwrap()
    }

    /// Mounts something where its processes see it, and nobody else.
    pub(crate) fn mount(&self, arguments: &[&str]) {
        let keeper = self.keeper_pid().to_string();
        run("nsenter", &[&["-t", &keeper, "-m", "mount"], arguments].concat());
    }

    pub(crate) fn keeper_pid(&self) -> u32 {
        self.keeper.0.id()
    }

    pub(crate) fn stop(&mut self) -> ExitStatus {
        run("kill", &["-TERM", &self.keeper.0.id().to_string()]);
        self.keeper.0.wait().unwrap()
    }

    pub(crate) fn uninstall(&self) -> Output {
        self.another(&["uninstall"])
    }

    /// Runs the binary once more, with the same configuration, to its end.
    pub(crate) fn another(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space, env!("CARGO_BIN_EXE_millrace-dataplane"), "--config"]);
        command.arg(&self.config).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// A client, once the dataplane listens.
    fn client(&self) -> DataplaneClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(channel) = self.runtime.block_on(endpoint.connect()) {
                return DataplaneClient::new(channel);
            }
            assert!(Instant::now() < until, "nobody listens at {}", self.socket.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A folder of the test's own; those of tests that were killed go.
pub(crate) fn folder() -> TempDir {
    sweep::sweep(KIND, &std::env::temp_dir());
    tempfile::Builder::new().prefix(&format!("{KIND}{}-", std::process::id())).tempdir().unwrap()
}

/// What a dataplane with this configuration says, line by line; it needs no privileges before it opens a port.
pub(crate) fn log_of(config: &str) -> impl Iterator<Item = String> {
    let dir = folder();
    let (at, path) = (dir.path().display(), dir.path().join("dataplane.yaml"));
    std::fs::write(&path, format!("{config}\nstate_dir: {at}/state\nrun_dir: {at}/run\nflows: 1024\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-dataplane"));
    let command = command.arg("--config").arg(path).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    let mut keeper = Killed(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(keeper.0.stderr.take().unwrap()).lines();
    std::iter::from_fn(move || {
        let _ends_with_its_reader = (&keeper, &dir);
        lines.next().map(Result::unwrap)
    })
}

/// Waits until a process is no more.
pub(crate) fn wait_for_end(pid: u32) {
    let path = format!("/proc/{pid}/exe");
    wait_until("the process has ended", || std::fs::read_link(&path).is_err());
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn uplink(status: &StatusReply) -> &v1::PortStatus {
    status.ports.iter().find(|port| port.id == "uplink").unwrap()
}

/// A pod's objects.
pub(crate) struct Pod {
    pub(crate) port: v1::Port,
    addresses: [IpAddr; 2],
    mac: Vec<u8>,
}

impl Pod {
    pub(crate) fn new(lab: &Lab, name: &str, v4: &str, v6: &str) -> Self {
        let addresses: [IpAddr; 2] = [v4.parse().unwrap(), v6.parse().unwrap()];
        let gateways: [IpAddr; 2] = ["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        let mac = vec![2, 0, 0, 0, 0x0a, proto::ip_bytes(addresses[0])[3]];
        let route = |to: &str, gateway: Option<IpAddr>| {
            let gateway = gateway.map(proto::ip_bytes).unwrap_or_default();
            v1::TapRoute { to: Some(prefix(to)), gateway, ..v1::TapRoute::default() }
        };
        let tap = v1::Tap {
            netns_path: format!("/run/netns/{}", lab.space(name)),
            name: "eth0".into(),
            mac: mac.clone(),
            mtu: 1450,
            addresses: addresses.iter().copied().map(Prefix::host).collect(),
            routes: vec![
                route("169.254.1.1/32", None),
                route("0.0.0.0/0", Some(gateways[0])),
                route("::/0", Some(gateways[1])),
            ],
            queues: 0,
        };
        let port = v1::Port {
            id: name.into(),
            kind: Some(port::Kind::Tap(tap)),
            role: v1::Role::Pod.into(),
            mac: GATEWAY_MAC.to_vec(),
            allowed_addresses: addresses.iter().copied().map(Prefix::host).collect(),
            gateways: gateways.iter().copied().map(proto::ip_bytes).collect(),
            ..v1::Port::default()
        };
        Pod { port, addresses, mac }
    }
}

impl Pod {
    /// The same as the host's own tap, by which it reaches `ranges`.
    pub(crate) fn on_the_host(mut self, ranges: [&str; 2]) -> Self {
        let Some(port::Kind::Tap(tap)) = &mut self.port.kind else { unreachable!() };
        (tap.netns_path, tap.name) = (String::new(), "mr-host".into());
        for ((route, range), source) in tap.routes.iter_mut().skip(1).zip(ranges).zip(self.addresses) {
            (route.to, route.source) = (Some(prefix(range)), proto::ip_bytes(source));
        }
        self.port.role = v1::Role::Host.into();
        self.port.allowed_addresses.clear();
        self
    }
}

/// The pods of one host and the ways to them.
pub(crate) fn desired(pods: &[Pod]) -> Desired {
    let mut desired = Desired::default();
    for pod in pods {
        let id = &pod.port.id;
        desired.ports.push(pod.port.clone());
        for address in pod.addresses {
            let via = v1::route::Via { port: id.clone(), gateway: vec![] };
            desired.routes.push(route(&format!("{id}/{address}"), 0, Prefix::host(address), NextHop::Via(via)));
            desired.neighbours.push(v1::Neighbour {
                id: format!("{id}/{address}"),
                port: id.clone(),
                address: proto::ip_bytes(address),
                mac: pod.mac.clone(),
            });
        }
    }
    desired
}

pub(crate) fn peer_of(own: u8) -> u8 {
    3 - own
}

/// What host `own` of a joined pair needs besides: its uplink, and a tunnel to `peer`, whose pods are 10.peer.0.0/16
/// and fd0peer::/16.
pub(crate) fn between(desired: &mut Desired, own: u8, peer: u8) {
    let address = |host: u8| proto::ip_bytes(IpAddr::from([192, 0, 2, host]));
    desired.ports.push(v1::Port {
        id: "uplink".into(),
        kind: Some(port::Kind::AfXdp(v1::AfXdp { interface: "u0".into(), ..v1::AfXdp::default() })),
        role: v1::Role::Uplink.into(),
        vrf: 1,
        resolve: v1::Resolve::Kernel.into(),
        ..v1::Port::default()
    });
    let via = v1::route::Via { port: "uplink".into(), gateway: vec![] };
    let local = NextHop::Local(v1::route::Local {});
    desired.routes.push(route("local", 1, Prefix::host(IpAddr::from([192, 0, 2, own])), local));
    desired.routes.push(route("underlay", 1, Prefix::host(IpAddr::from([192, 0, 2, peer])), NextHop::Via(via)));
    desired.routes.push(route("v4", 0, prefix(&format!("10.{peer}.0.0/16")), NextHop::Tunnel("peer".into())));
    desired.routes.push(route("v6", 0, prefix(&format!("fd0{peer}::/16")), NextHop::Tunnel("peer".into())));
    let mac = |host: u8| vec![2, 0, 0, 0, 5, host];
    let vxlan = v1::Vxlan {
        vni: 7,
        udp_port: 0,
        local: address(own),
        remote: address(peer),
        local_mac: mac(own),
        remote_mac: mac(peer),
    };
    let tunnel =
        v1::Tunnel { id: "peer".into(), kind: Some(kind::Kind::Vxlan(vxlan)), vrf: 0, underlay_vrf: 1, mtu: 1450 };
    desired.tunnels.push(tunnel);
}

fn route(id: &str, vrf: u32, prefix: Prefix, next_hop: NextHop) -> v1::Route {
    v1::Route { id: id.into(), vrf, prefix: Some(prefix), next_hop: Some(next_hop) }
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), len.parse().unwrap())
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    output(Command::new(program).args(arguments));
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
