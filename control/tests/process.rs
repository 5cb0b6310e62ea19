//! The agent as the process that it is.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use proto::attach::{Reply, Request, read_frame, write_frame};

const SAMPLE: &str = include_str!("../../deploy/standalone/node-a.yaml");

/// An agent that may have so many descriptors; killed when dropped.
struct Agent {
    process: Child,
    log: BufReader<ChildStderr>,
}

impl Agent {
    fn start(folder: &Path, descriptors: u32) -> Self {
        let (config, place) = (folder.join("node.yaml"), folder.display().to_string());
        let text = SAMPLE.replace("/run/millrace", &place).replace("/var/lib/millrace", &place);
        std::fs::write(&config, text.replace("interface: eth0", "interface: lo")).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {descriptors}; exec \"$0\" --config \"$1\""));
        command.arg(env!("CARGO_BIN_EXE_millrace-agent")).arg(&config);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        Agent { process, log }
    }

    /// Reads its log up to a line with `word`.
    fn until(&mut self, word: &str) {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() != 0 {
            if line.contains(word) {
                return;
            }
            line.clear();
        }
        panic!("the agent ended and never said {word:?}: {:?}", self.process.wait());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[test]
fn an_agent_that_ran_out_of_descriptors_serves_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 32);
    agent.until("serving");
    let connect = || UnixStream::connect(folder.path().join("agent.sock")).unwrap();
    let mut crowd: Vec<_> = (0..64).map(|_| connect()).collect();
    // The server waits for requests, so that these stay.
    crowd.iter_mut().for_each(|stream| stream.write_all(&[0]).unwrap());
    agent.until("cannot be accepted");
    drop(crowd);
    let mut stream = connect();
    write_frame(&mut stream, &Request::Status).unwrap();
    assert!(matches!(read_frame::<Reply>(&mut stream).unwrap(), Reply::Refused(_)), "there is no dataplane");
}
