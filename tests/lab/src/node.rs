//! Our nodes.
use crate::{Lab, Space, run, succeeds, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Two hosts, `a` and `b`, joined by a veth pair: `eth0` on both, 192.0.2.1 and .2, 2001:db8::1 and ::2.
pub struct Underlay {
    /// The first host.
    pub a: Space,
    /// The second.
    pub b: Space,
    /// The link's MTU, in bytes.
    pub mtu: u32,
    /// Whether tunnels are IPv6.
    pub v6: bool,
}

impl Underlay {
    /// Makes both hosts and the link.
    pub fn new(lab: &Lab, mtu: u32, v6: bool) -> Self {
        let (a, b) = (lab.space("a"), lab.space("b"));
        let mtu_text = mtu.to_string();
        let link = ["link", "add", "eth0", "mtu", &mtu_text, "netns", a.name(), "type", "veth", "peer", "name", "eth0"];
        run(Command::new("ip").args(link).args(["mtu", &mtu_text, "netns", b.name()]));
        for (space, number) in [(&a, 1), (&b, 2)] {
            space.ip(&format!("address add 192.0.2.{number}/24 dev eth0"));
            space.ip(&format!("address add 2001:db8::{number}/64 dev eth0 nodad"));
            space.ip("link set eth0 up");
        }
        Underlay { a, b, mtu, v6 }
    }

    /// The address of host `a` (1) or `b` (2) that tunnels use.
    pub fn address(&self, number: u8) -> IpAddr {
        if self.v6 { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()]) } else { [192, 0, 2, number].into() }
    }

    /// The largest IP packet of pods, in bytes (RFC 7348: Ethernet 14, VXLAN 8, UDP 8, IPv4 20 or IPv6 40).
    pub fn pod_mtu(&self) -> u32 {
        self.mtu - if self.v6 { 70 } else { 50 }
    }
}

/// The MAC address of a node's end of tunnels, as the configuration gives it: node `a` is 1, `b` is 2.
pub(crate) fn tunnel_mac(number: u8) -> String {
    format!("02:00:00:00:77:{number:02x}")
}

/// Enough for tests, of which several run at once.
const SMALL: &str = "frames: {small: 8192, jumbo: 256, super: 128}\npages: {kind: plain}\nflows: 16384\n";

/// A host that runs Millrace: keeper, worker process and agent.
pub struct Node {
    name: String,
    space: Space,
    dir: PathBuf,
    logs: PathBuf,
    bin: PathBuf,
    keeper: Option<Child>,
    agent: Option<Child>,
}

impl Node {
    /// Writes the configuration of node `a` or `b`. Nothing runs yet.
    pub fn new(lab: &Lab, underlay: &Underlay, name: &str) -> Self {
        let space = if name == "a" { &underlay.a } else { &underlay.b }.clone();
        let dir = lab.dir().join(name);
        let bin = lab.bin("millrace");
        for part in ["run", "state", "bpf"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        // Here: one that a keeper mounts in its own namespace of mounts would go with it.
        run(Command::new("mount").args(["-t", "bpf", "lab"]).arg(dir.join("bpf")));
        std::fs::write(dir.join("agent.yaml"), agent_yaml(&dir, name, underlay.v6)).unwrap();
        let bin = bin.parent().unwrap_or(Path::new(".")).to_owned();
        Node { name: name.into(), space, dir, logs: lab.dir().into(), bin, keeper: None, agent: None }.sized(SMALL)
    }

    /// The same with other lines about memory in the dataplane's configuration; none: the product's own.
    #[must_use]
    pub fn sized(self, sizes: &str) -> Self {
        let dir = self.dir.display();
        let text = format!("{sizes}state_dir: {dir}/state\nrun_dir: {dir}/run\nbpf_dir: {dir}/bpf\n");
        std::fs::write(self.dir.join("dataplane.yaml"), text).unwrap();
        self
    }

    /// Starts keeper and agent, and waits until pods can be attached and the uplink is up.
    pub fn start(&mut self) {
        self.start_keeper();
        self.start_agent();
        let config = self.cni_config();
        until("CNI STATUS", || succeeds_with(&mut self.cni("STATUS"), &config));
        self.wait_for_ports();
        until("the kernel has settled its addresses", || !self.space.ip("-o address").contains("tentative"));
    }

    /// Starts the keeper, which starts the worker process.
    pub fn start_keeper(&mut self) {
        self.keeper = Some(self.spawn("millrace-dataplane", "dataplane"));
    }

    /// Starts the agent.
    pub fn start_agent(&mut self) {
        self.agent = Some(self.spawn("millrace-agent", "agent"));
    }

    /// Stops the agent in good order.
    pub fn stop_agent(&mut self) {
        stop(self.agent.take(), Signal::TERM);
    }

    /// Stops the keeper and with it the worker process: in good order, or with SIGKILL.
    pub fn stop_keeper(&mut self, signal: Signal) {
        stop(self.keeper.take(), signal);
    }

    /// Waits until every port that was asked for is up.
    pub fn wait_for_ports(&self) {
        until("every port is up", || {
            let ports = self.asks("ports");
            let ports = ports.as_ref().and_then(Value::as_array);
            ports.is_some_and(|ports| !ports.is_empty() && ports.iter().all(|port| port["up"] == true))
        });
    }

    /// Kills the worker process with SIGKILL and gives its number.
    pub fn kill_worker(&self) -> i64 {
        let pid = self.worker().expect("no worker process answers");
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        pid
    }

    /// The worker process that answers now.
    pub fn worker(&self) -> Option<i64> {
        self.asks("status")?["pid"].as_i64()
    }

    /// The dataplane's processes: the keeper and the worker process.
    ///
    /// # Panics
    /// When one of them does not run.
    pub fn dataplane(&self) -> [u32; 2] {
        let worker = self.worker().and_then(|pid| u32::try_from(pid).ok()).expect("no worker process answers");
        [self.keeper.as_ref().expect("the keeper does not run").id(), worker]
    }

    /// How many ports its dataplane has.
    pub fn ports(&self) -> usize {
        self.asks("ports").and_then(|ports| Some(ports.as_array()?.len())).expect("nobody tells the ports")
    }

    /// What `millrace -o json` says, if there is an answer.
    pub fn asks(&self, what: &str) -> Option<Value> {
        let socket = self.dir.join("run/dataplane.sock");
        let mut command = Command::new(self.bin.join("millrace"));
        let done = command.arg("--socket").arg(socket).args(["-o", "json", what]).output().ok()?;
        done.status.success().then(|| serde_json::from_slice(&done.stdout).ok())?
    }

    /// Removes what a stopped dataplane leaves on its host.
    pub fn uninstall(&self) {
        let config = self.dir.join("dataplane.yaml");
        run(self.space.command(self.bin.join("millrace-dataplane")).arg("--config").arg(config).arg("uninstall"));
    }

    /// The host.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The folder of its configuration, state and sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of our binaries.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// What the CNI binary reads, as JSON.
    pub fn cni_config(&self) -> Value {
        let dir = self.dir.display();
        serde_json::json!({
            "cniVersion": "1.1.0", "name": "lab", "type": "millrace-cni",
            "agentSocket": format!("{dir}/run/agent.sock"), "stateDir": format!("{dir}/state"),
            "logFile": self.logs.join(format!("{}-cni.log", self.name)),
        })
    }

    /// The CNI binary, to be called with a verb.
    pub(crate) fn cni(&self, verb: &str) -> Command {
        let mut command = self.space.command(self.bin.join("millrace-cni"));
        command.env("CNI_COMMAND", verb).env("CNI_PATH", &self.bin);
        command
    }

    fn spawn(&self, binary: &str, what: &str) -> Child {
        let log = self.logs.join(format!("{}-{what}.log", self.name));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.space.command(self.bin.join(binary));
        command.arg("--config").arg(self.dir.join(format!("{what}.yaml"))).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

fn stop(process: Option<Child>, signal: Signal) {
    let mut process = process.expect("it does not run");
    kill_process(Pid::from_child(&process), signal).unwrap();
    let status = process.wait().unwrap();
    assert!(signal == Signal::KILL || status.success(), "it ended with {status}");
}

/// Whether a command succeeds that reads `input`.
pub(crate) fn succeeds_with(command: &mut Command, input: &Value) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input.to_string()).unwrap();
    succeeds(command.stdin(file.reopen().unwrap()))
}

fn agent_yaml(dir: &Path, node: &str, v6: bool) -> String {
    let dir = dir.display();
    let underlay = if v6 { "ipv6" } else { "ipv4" };
    let nodes: String = [("a", 1u8), ("b", 2)]
        .into_iter()
        .map(|(name, number)| {
            format!(
                "  - {{name: {name}, mac: \"{}\", addresses: [192.0.2.{number}/24, \"2001:db8::{number}/64\"], \
                 podRanges: [10.1.{number}.0/24, \"fd00:1:{number}::/64\"]}}\n",
                tunnel_mac(number)
            )
        })
        .collect();
    format!(
        "node: {node}\nuplink: {{interface: eth0}}\nnodes:\n{nodes}options:\n  underlay: {underlay}\n  \
         dataplaneSocket: {dir}/run/dataplane.sock\n  agentSocket: {dir}/run/agent.sock\n  stateDir: {dir}/state\n"
    )
}
