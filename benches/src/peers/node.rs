//! A node of ours: a namespace with an uplink, a dataplane, an agent; its pods, attached by the CNI binary.
use super::space::{Space, output, run, until};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How many ADDs run at once, as on a node that a workload comes to.
const AT_ONCE: usize = 4;
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/standalone");

pub(super) struct Node<'a> {
    space: &'a Space,
    name: &'static str,
    bin: PathBuf,
    keeper: Child,
    _agent: Child,
}

/// An attached pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    /// Its namespace in the run.
    pub(super) space: String,
    /// Its IPv4 address.
    pub(super) address: String,
}

impl<'a> Node<'a> {
    /// Starts node `a` or `b`. Their uplinks are the ends of one veth pair, made with the first.
    pub(super) fn start(space: &'a Space, name: &'static str) -> Result<Self> {
        let bin = std::env::current_exe()?.parent().context("the bench has a folder")?.to_owned();
        let dir = space.dir.join(name);
        let bpf = dir.join("bpf");
        ["run", "lib", "bpf"].iter().try_for_each(|part| fs::create_dir_all(dir.join(part)))?;
        run(&["mount", "-t", "bpf", "bpf", &bpf.to_string_lossy()])?;
        configure(&dir, name)?;
        if name == "a" {
            space.add(&["a", "b"])?;
            let [a, b] = ["a", "b"].map(|name| space.of(name));
            let pair = ["ip", "link", "add", "eth0", "netns", &a, "type", "veth", "peer", "name", "eth0", "netns", &b];
            run(&pair)?;
            for (name, address) in [("a", "192.0.2.1/24"), ("b", "192.0.2.2/24")] {
                space.run(name, &format!("ip address add {address} dev eth0"))?;
                space.run(name, "ip link set eth0 up")?;
            }
        }
        let start = |program: &str, config: &str| {
            let command = format!("{} --config {}", bin.join(program).display(), dir.join(config).display());
            space.start(name, &command, &format!("{name}-{program}.log"))
        };
        let keeper = start("millrace-dataplane", "dataplane.yaml")?;
        let agent = start("millrace-agent", "node.yaml")?;
        let node = Node { space, name, bin, keeper, _agent: agent };
        until(Duration::from_secs(20), &format!("node {name} is ready"), || node.cni("STATUS", "").is_ok())?;
        Ok(node)
    }

    /// Attaches pods.
    pub(super) fn pods(&self, names: &[&str]) -> Result<Vec<Pod>> {
        self.space.add(names)?;
        let share = names.len().div_ceil(AT_ONCE).max(1);
        let attach = |share: &[&str]| share.iter().map(|name| self.attach(name)).collect::<Result<Vec<_>>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = names.chunks(share).map(|share| scope.spawn(move || attach(share))).collect();
            let pods = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread died"))?);
            Ok(pods.collect::<Result<Vec<_>>>()?.concat())
        })
    }

    /// The dataplane's processes: the keeper, and those that it started.
    pub(super) fn dataplane(&self) -> Vec<u32> {
        let keeper = self.keeper.id();
        let threads = fs::read_dir(format!("/proc/{keeper}/task")).into_iter().flatten().flatten();
        let started = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let started: Vec<_> =
            started.flat_map(|pids| pids.split_whitespace().map(str::parse).collect::<Vec<_>>()).collect();
        started.into_iter().flatten().chain([keeper]).collect()
    }

    /// How many ports its dataplane has.
    pub(super) fn ports(&self) -> Result<usize> {
        let mut command = Command::new(self.bin.join("millrace"));
        let socket = self.space.dir.join(self.name).join("run/dataplane.sock");
        command.arg("--socket").arg(socket).args(["-o", "json", "ports"]);
        let ports: Value = serde_json::from_str(&output(command)?)?;
        ports.as_array().map(Vec::len).context("ports are a list")
    }

    fn attach(&self, pod: &str) -> Result<Pod> {
        let result: Value = serde_json::from_str(&self.cni("ADD", pod)?)?;
        let addresses = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
        let mut addresses = addresses.filter_map(|address| address.split('/').next()?.parse::<IpAddr>().ok());
        let address = addresses.find(IpAddr::is_ipv4).with_context(|| format!("pod {pod} has no IPv4 address"))?;
        Ok(Pod { space: pod.to_owned(), address: address.to_string() })
    }

    /// Calls the CNI binary as a runtime does.
    fn cni(&self, verb: &str, pod: &str) -> Result<String> {
        let network = fs::read(self.space.dir.join(self.name).join("network.json"))?;
        let mut command = Command::new(self.bin.join("millrace-cni"));
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", &self.bin);
        if !pod.is_empty() {
            command.envs([("CNI_CONTAINERID", pod), ("CNI_NETNS", &self.space.path(pod)), ("CNI_IFNAME", "eth0")]);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {}", self.bin.join("millrace-cni").display()))?;
        child.stdin.take().context("stdin is piped")?.write_all(&network)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "CNI {verb} {pod}: {said}");
        Ok(said)
    }
}

/// The samples of deploy/, with the places of this run.
fn configure(dir: &Path, name: &str) -> Result<()> {
    let at = |part: &str| dir.join(part).to_string_lossy().into_owned();
    let read = |sample: &str| {
        let path = Path::new(SAMPLES).join(sample);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = text.replace("/sys/fs/bpf/millrace", &at("bpf")).replace("/var/lib/millrace", &at("lib"));
        Ok::<_, anyhow::Error>(text.replace("/var/log/millrace", &at("run")).replace("/run/millrace", &at("run")))
    };
    fs::write(at("dataplane.yaml"), read("dataplane.yaml")?)?;
    fs::write(at("node.yaml"), read(&format!("node-{name}.yaml"))?)?;
    let list: Value = serde_json::from_str(&read("10-millrace.conflist")?)?;
    let mut network = list["plugins"][0].clone();
    (network["cniVersion"], network["name"]) = (list["cniVersion"].clone(), list["name"].clone());
    network["runtimeConfig"] = json!({});
    Ok(fs::write(at("network.json"), network.to_string())?)
}
