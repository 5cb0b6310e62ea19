//! A runtime that calls the binary, an agent that answers it, and a namespace to attach.
use std::{
    io::Write as _,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use proto::attach::{Attached, Reply, Request, read_frame, write_frame};
use serde_json::{Value, json};

/// All versions, oldest first.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A folder with everything that one test touches.
pub(crate) struct Fake {
    folder: tempfile::TempDir,
    heard: Arc<Mutex<Vec<Request>>>,
}

/// How a call ended.
pub(crate) struct Call {
    /// The exit code.
    pub(crate) exit: i32,
    /// What was printed, as JSON; null when nothing was.
    pub(crate) json: Value,
    /// What was said on stderr.
    pub(crate) stderr: String,
}

impl Fake {
    /// Without an agent.
    pub(crate) fn new() -> Self {
        Fake { folder: tempfile::tempdir().unwrap(), heard: Arc::default() }
    }

    /// With an agent that answers each request by `answer`; none: it says nothing and keeps the connection.
    pub(crate) fn with_agent(answer: impl Fn(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let fake = Fake::new();
        fake.start(answer);
        fake
    }

    /// Starts the agent now.
    pub(crate) fn start(&self, answer: impl Fn(&Request) -> Option<Reply> + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let heard = Arc::clone(&self.heard);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Ok(request) = read_frame::<Request>(&mut stream) else { continue };
                let reply = answer(&request);
                heard.lock().unwrap().push(request);
                match reply {
                    Some(reply) => drop(write_frame(&mut stream, &reply)),
                    None => silent.push(stream),
                }
            }
        });
    }

    /// What the agent was asked so far.
    pub(crate) fn heard(&self) -> Vec<Request> {
        self.heard.lock().unwrap().clone()
    }

    /// The folder of tombstones lies below.
    pub(crate) fn state(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Tombstones that lie there.
    pub(crate) fn tombstones(&self) -> Vec<Value> {
        let Ok(folder) = std::fs::read_dir(self.folder.path().join("tombstones")) else { return Vec::new() };
        let files =
            folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        files.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    }

    /// A path that nothing else uses.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The call log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("cni.log")).unwrap_or_default()
    }

    /// A configuration of `version` with `more` in it.
    pub(crate) fn config(&self, version: &str, more: Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": "millrace", "type": "millrace-cni",
            "agentSocket": self.socket(), "stateDir": self.folder.path(), "logFile": self.folder.path().join("cni.log"),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    /// Calls the binary as a runtime would.
    pub(crate) fn call(&self, environment: &[(&str, &str)], stdin: &[u8]) -> Call {
        let mut child = Self::start_call(environment);
        // It may end without reading: errors of the environment need no stdin.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        Self::end_call(child)
    }

    /// The same by a runtime that writes `stdin` and never closes it.
    pub(crate) fn call_without_end(&self, environment: &[(&str, &str)], stdin: &[u8]) -> Call {
        let mut child = Self::start_call(environment);
        let mut open = child.stdin.take().unwrap();
        open.write_all(stdin).unwrap();
        let call = Self::end_call(child);
        drop(open);
        call
    }

    fn start_call(environment: &[(&str, &str)]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_millrace-cni"))
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn end_call(child: Child) -> Call {
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let json = if stdout.is_empty() { Value::Null } else { serde_json::from_slice(&stdout).unwrap() };
        Call { exit: status.code().unwrap(), json, stderr: String::from_utf8(stderr).unwrap() }
    }

    /// Calls a verb for container `c1` and interface `eth0`.
    pub(crate) fn verb(&self, verb: &str, netns: &str, config: &Value) -> Call {
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        self.call(&environment, config.to_string().as_bytes())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }
}

/// The attachment that the fake agent gives.
pub(crate) fn attached() -> Reply {
    let json = json!({
        "mac": "02:00:00:00:00:01", "mtu": 1450,
        "addresses": [
            { "address": "10.1.1.2", "length": 32, "gateway": "169.254.1.1" },
            { "address": "fd00::2", "length": 128, "gateway": "fe80::1" },
        ],
        "routes": [{ "to": "0.0.0.0/0", "gateway": "169.254.1.1" }, { "to": "::/0", "gateway": "fe80::1" }],
    });
    Reply::Attached(serde_json::from_value::<Attached>(json).unwrap())
}

/// A network namespace, while this lives: that of a process of ours, so that nothing stays behind.
pub(crate) struct Namespace(Child);

impl Namespace {
    /// Makes one and runs `setup` (a shell script) inside; none when that is not allowed here.
    pub(crate) fn new(setup: &str) -> Option<Self> {
        let script = format!("set -e; {setup}\necho ready; exec sleep 600");
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take()?);
        let _ = std::io::BufRead::read_line(&mut stdout, &mut line);
        if line.trim() == "ready" {
            return Some(Namespace(child));
        }
        let _ = child.wait();
        assert!(!is_root(), "root cannot make a network namespace with: {setup}");
        println!("SKIP {}: needs root to make a network namespace", thread::current().name().unwrap_or("test"));
        None
    }

    /// Its path.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
