//! A line per call in a file, since runtimes keep neither stdout nor stderr for long.
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{config::Config, environment::Environment, fault::Fault};

/// The size at which the file becomes `.1` and a new one begins.
const SIZE_LIMIT: u64 = 1 << 20;

/// Notes a call and how it ended. A verb never fails because its line cannot be written.
pub(crate) fn write(config: &Config, environment: &Environment, fault: Option<&Fault>) {
    let path = &config.log_file;
    if path.as_os_str().is_empty() {
        return;
    }
    if let Some(folder) = path.parent() {
        let _ = fs::create_dir_all(folder);
    }
    if fs::metadata(path).is_ok_and(|file| file.len() > SIZE_LIMIT) {
        let _ = fs::rename(path, path.with_extension("log.1"));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = format!(
        "{}.{:03} {:?} network={} container={} ifname={} netns={}",
        since.as_secs(),
        since.subsec_millis(),
        environment.command,
        config.network,
        environment.container,
        environment.ifname,
        environment.netns
    );
    if !environment.trace.is_empty() {
        line.push_str(&format!(" trace={}", environment.trace));
    }
    match fault {
        None => line.push_str(" ok\n"),
        Some(fault) => line.push_str(&format!(" failed: {}\n", fault.to_string().replace('\n', " "))),
    }
    // One write on a file that only grows: lines of parallel calls do not mix. A pipe that nobody reads is left alone.
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).mode(0o640).custom_flags(nix::libc::O_NONBLOCK);
    if let Ok(mut file) = options.open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}
