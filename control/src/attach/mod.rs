//! The CNI binary's other side: the journal of attachments, tombstones, and the socket.
pub mod journal;
pub mod server;
pub mod tombstones;

use std::{fs, os::unix::fs::MetadataExt as _};

/// Which network namespace is at `path`, as device and inode; none when there is none.
pub fn netns_id(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
