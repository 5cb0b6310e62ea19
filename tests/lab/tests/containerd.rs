//! A real client: containerd starts containers whose network is ours.
use lab::{Lab, Node, Underlay, ping, run, succeeds, until};
use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const TOOLS: [&str; 9] =
    ["containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox", "tar", "sha256sum", "nsenter", "unshare"];
const IMAGE: &str = "docker.io/library/lab:1";

#[test]
fn containers_of_containerd_reach_each_other_and_leave_nothing() {
    let Some(lab) = Lab::new("containers_of_containerd_reach_each_other_and_leave_nothing", &TOOLS) else { return };
    let underlay = Underlay::new(&lab, 1500, false);
    let mut node = Node::new(&lab, &underlay, "a");
    node.start();
    let containerd = Containerd::start(&lab, &node);
    let before = footprint(&node);
    let (one, other) = (containerd.run_container("c1"), containerd.run_container("c2"));
    for v6 in [false, true] {
        let (at_one, at_other) = (one.address(v6), other.address(v6));
        assert_ne!(at_one, at_other);
        one.pings(at_other);
        other.pings(at_one);
        ping(node.space(), at_one, 56);
        one.fetches(at_other, lab.prefix());
        other.fetches(at_one, lab.prefix());
    }
    assert_ne!(footprint(&node), before, "whatever they have does not show");
    one.end();
    other.end();
    assert_eq!(footprint(&node), before, "what is left");
    assert_eq!(containerd.list("containers"), "");
    assert_eq!(containerd.list("tasks"), "");
    let kept = run(containerd.inside("find").args(["/var/lib/cni", "-type", "f", "-path", "*/results/*"]));
    assert_eq!(kept, "", "what CNI keeps of attachments");
    let forgotten = containerd.run_detached("c3");
    ping(node.space(), forgotten, 56);
    containerd.remove_detached("c3");
    until("the agent frees what had no DEL", || footprint(&node) == before);
}

/// What attachments leave traces in: the host's network, our ports and journal, cgroups, mounts and namespaces.
fn footprint(node: &Node) -> String {
    let space = node.space();
    let mut found: Vec<String> = ["-o link", "-o address", "route show table all", "-6 route show table all", "rule"]
        .map(|what| space.ip(what))
        .into();
    // Any rule of iptables, by either of its backends.
    let tables = ["ip_tables_names", "ip6_tables_names"].map(|name| format!("/proc/net/{name}"));
    found.push(String::from_utf8_lossy(&space.command("cat").args(tables).output().unwrap().stdout).into());
    if let Ok(rules) = space.command("nft").args(["list", "ruleset"]).output() {
        found.push(String::from_utf8_lossy(&rules.stdout).into());
    }
    let ports = node.asks("ports").unwrap();
    found.extend(ports.as_array().unwrap().iter().map(|port| port["id"].to_string()));
    // Where the next address is looked for is kept beside the attachments, and is none.
    let journal = fs::read_to_string(node.dir().join("state/attachments.json")).unwrap_or_default();
    let journal: serde_json::Value = serde_json::from_str(&journal).unwrap_or_default();
    found.extend(journal["attachments"].as_array().into_iter().flatten().map(ToString::to_string));
    found.push(
        run(Command::new("ip").args(["netns", "list"])).lines().filter(|line| line.contains(space.name())).collect(),
    );
    found.join("\n")
}

/// A containerd of the test's own on a node. It sees folders of its own as /etc/cni/net.d, /opt/cni/bin, /run and
/// /var/lib, since `ctr run --cni` takes no others; the host's stay as they are.
struct Containerd<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    process: Child,
}

impl<'a> Containerd<'a> {
    fn start(lab: &'a Lab, node: &Node) -> Self {
        let dir = lab.dir().join("containerd");
        let (networks, plugins) = (dir.join("etc/cni/net.d"), dir.join("opt/cni/bin"));
        for folder in [&networks, &plugins, &dir.join("own")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::copy(node.bin().join("millrace-cni"), plugins.join("millrace-cni")).unwrap();
        fs::write(networks.join("10-lab.conflist"), network_list(node)).unwrap();
        fs::write(dir.join("config.toml"), config_toml(&dir.join("own"))).unwrap();
        let image = image(&dir, lab.prefix());
        let log = File::create(lab.dir().join("containerd.log")).unwrap();
        // `ip netns exec` would hide the cgroups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", node.space().path())).args(["unshare", "--mount", "sh", "-c", BEGIN, "begin"]);
        command.arg(&dir).stdin(Stdio::null());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let containerd = Containerd { lab, dir, process };
        // `ctr` waits long for a socket that is not there yet.
        until("containerd listens", || {
            succeeds(containerd.inside("test").arg("-S").arg(containerd.dir.join("own/sock")))
        });
        until("containerd answers", || succeeds(containerd.ctr().arg("version")));
        run(containerd.ctr().args(["image", "import", "--snapshotter", "native"]).arg(image));
        containerd
    }

    /// A command in its namespaces of mounts and network.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.id().to_string(), "--mount", "--net", program]);
        command
    }

    fn ctr(&self) -> Command {
        let mut command = self.inside("ctr");
        command.arg("--address").arg(self.dir.join("own/sock")).args(["--namespace", self.lab.prefix()]);
        command
    }

    fn list(&self, what: &str) -> String {
        run(self.ctr().args([what, "list", "-q"]))
    }

    /// As `ctr` does it in the foreground: CNI ADD once the container runs, DEL when it has ended.
    fn run_container(&self, name: &str) -> Container<'_> {
        let log = File::create(self.lab.dir().join(format!("{name}.log"))).unwrap();
        let mut command = self.run_command(name, "--rm");
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let container = Container { containerd: self, name: name.into(), process: Some(process) };
        until("the container has its addresses", || container.addresses().len() == 2);
        container
    }

    /// In the background `ctr` does ADD only; gives an address.
    fn run_detached(&self, name: &str) -> IpAddr {
        // It would keep a pipe open.
        assert!(
            self.run_command(name, "--detach").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        );
        Container { containerd: self, name: name.into(), process: None }.address(false)
    }

    /// Removes one that runs in the background; nobody does DEL.
    fn remove_detached(&self, name: &str) {
        run(self.ctr().args(["tasks", "delete", "--force", name]));
        run(self.ctr().args(["containers", "delete", name]));
    }

    fn run_command(&self, name: &str, how: &str) -> Command {
        let mut command = self.ctr();
        command.args(["run", how, "--cni", "--snapshotter", "native", IMAGE, name]);
        let site = format!("/{}", self.lab.prefix());
        command.args(["/bin/busybox", "httpd", "-f", "-v", "-p", "80", "-h", &site]);
        command
    }
}

/// One that serves a page.
struct Container<'a> {
    containerd: &'a Containerd<'a>,
    name: String,
    process: Option<Child>,
}

impl Container<'_> {
    /// A command of busybox in the container.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.containerd.ctr();
        // Each needs a name of its own.
        let exec = format!("{}-{}", self.name, arguments.join("").replace(|c: char| !c.is_ascii_alphanumeric(), ""));
        command.args(["tasks", "exec", "--exec-id", &exec, &self.name, "/bin/busybox"]).args(arguments);
        command
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let shown = self.command(&["ip", "-o", "address", "show", "dev", "eth0", "scope", "global"]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout);
        let words = shown.split_whitespace().filter_map(|word| word.split('/').next()?.parse().ok());
        words.filter(|address: &IpAddr| !address.is_unspecified()).collect()
    }

    fn address(&self, v6: bool) -> IpAddr {
        self.addresses().into_iter().find(|address| address.is_ipv6() == v6).unwrap()
    }

    fn pings(&self, to: IpAddr) {
        let to = to.to_string();
        until(&format!("{} pings {to}", self.name), || {
            succeeds(&mut self.command(&["ping", "-c", "1", "-W", "1", &to]))
        });
    }

    fn fetches(&self, from: IpAddr, page: &str) {
        let url = format!("http://{}/page", std::net::SocketAddr::new(from, 80));
        assert_eq!(run(&mut self.command(&["wget", "-q", "-O", "-", &url])), page);
    }

    /// Kills it and waits until `ctr` has cleaned up.
    fn end(mut self) {
        run(self.containerd.ctr().args(["tasks", "kill", "--signal", "SIGKILL", &self.name]));
        self.process.as_mut().unwrap().wait().unwrap();
    }
}

/// What it needs of its own lies over the host's, in a namespace of mounts.
const BEGIN: &str = r#"
set -e
dir=$1
mount -t tmpfs lab /run
mount -t tmpfs lab /var/lib
mount -t tmpfs lab "$dir/own"
mount -t overlay -o "lowerdir=$dir/etc:/etc" lab /etc
mount -t overlay -o "lowerdir=$dir/opt:/opt" lab /opt
exec containerd --config "$dir/config.toml"
"#;

/// containerd 1.6 knows CNI up to 1.0.0.
fn network_list(node: &Node) -> String {
    let mut plugin = node.cni_config();
    let plugin_keys = plugin.as_object_mut().unwrap();
    plugin_keys.remove("cniVersion");
    plugin_keys.remove("name");
    serde_json::json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [plugin]}).to_string()
}

fn config_toml(own: &Path) -> String {
    let own = own.display();
    format!(
        "version = 2\nroot = \"{own}/root\"\nstate = \"{own}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{own}/sock\"\n"
    )
}

/// An archive with one image of one layer: busybox, and a page that says `page`.
fn image(dir: &Path, page: &str) -> PathBuf {
    let (root, parts, archive) = (dir.join("image-root"), dir.join("image"), dir.join("image.tar"));
    let site = root.join(page);
    for folder in [&root.join("bin"), &site, &parts] {
        fs::create_dir_all(folder).unwrap();
    }
    let paths = std::env::var_os("PATH").unwrap();
    let busybox = std::env::split_paths(&paths).map(|path| path.join("busybox")).find(|path| path.exists()).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::write(site.join("page"), page).unwrap();
    let layer = parts.join("layer.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&layer).arg("."));
    let sum = run(Command::new("sha256sum").arg(&layer));
    let diff = format!("sha256:{}", sum.split(' ').next().unwrap());
    let config = serde_json::json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    fs::write(parts.join("config.json"), config.to_string()).unwrap();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
    run(Command::new("tar").arg("-C").arg(&parts).arg("-cf").arg(&archive).arg("."));
    archive
}
