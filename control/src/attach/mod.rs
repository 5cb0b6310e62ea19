//! The CNI binary's other side: the journal of attachments, tombstones, and the socket.
pub mod journal;
pub mod lock;
pub mod server;
pub mod tombstones;

use std::{fs, io, os::unix::fs::MetadataExt as _};

/// Which network namespace is at `path`, as device and inode.
///
/// # Errors
/// When nothing is there, or the agent may not see it.
pub fn netns_id(path: &str) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}
