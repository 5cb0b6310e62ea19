//! What is on a wire: tcpdump writes it, tshark reads it.
use crate::{Lab, Space, run, until};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running capture.
pub struct Capture {
    process: Child,
    file: PathBuf,
}

impl Capture {
    /// Begins to capture what passes `interface`, and returns once it does.
    pub fn start(lab: &Lab, space: &Space, interface: &str) -> Self {
        let file = lab.dir().join(format!("{}-{interface}.pcap", space.name()));
        let log = file.with_extension("log");
        let mut command = space.command("tcpdump");
        // Not in immediate mode: its ring has room for few packets that may be as long as a super-frame.
        command.args(["-Z", "root", "-s", "0", "-B", "65536", "-i", interface, "-w"]);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let process = command.spawn().unwrap();
        until("tcpdump listens", || std::fs::read_to_string(&log).unwrap().contains("listening on"));
        Capture { process, file }
    }

    /// Ends it: all that passed before is in the file then.
    ///
    /// # Panics
    /// When packets were lost.
    pub fn end(&mut self) {
        std::thread::sleep(BLOCK);
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        self.process.wait().unwrap();
        let log = std::fs::read_to_string(self.file.with_extension("log")).unwrap();
        assert!(log.contains("\n0 packets dropped by kernel"), "the capture is not whole: {log}");
    }

    /// What tshark's display filter finds: for each packet its `fields`, of all layers, as lists.
    ///
    /// Checksums are checked, and nothing is put together.
    pub fn find(&self, filter: &str, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        let mut command = Command::new("tshark");
        command.args(["-n", "-Y", filter, "-T", "fields", "-E", "separator=;", "-E", "aggregator=,", "-r"]);
        command.arg(&self.file);
        for preference in PREFERENCES {
            command.args(["-o", preference]);
        }
        for field in fields {
            command.args(["-e", field]);
        }
        let list = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        run(&mut command).lines().map(|line| line.split(';').map(list).collect()).collect()
    }

    /// What tshark's display filter finds, for people.
    pub fn describe(&self, filter: &str) -> String {
        run(Command::new("tshark").args(["-n", "-Y", filter, "-r"]).arg(&self.file))
    }
}

/// Longer than the kernel keeps packets in a block that is not full (tcpdump asks for one second).
const BLOCK: Duration = Duration::from_millis(1500);
const PREFERENCES: [&str; 6] = [
    "ip.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
];
