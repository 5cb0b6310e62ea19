//! What survives a restart: attachments with their addresses, in one file that is replaced whole.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use proto::attach::Key;
use serde::{Deserialize, Serialize};

use super::lock::{Lock, LockError};
use crate::{ipam::Cursors, plan::Pod};

/// A container that is attached, or is being attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which.
    pub key: Key,
    /// The path of its network namespace.
    pub netns: String,
    /// Device and inode of that namespace, to see when another one took its path.
    pub netns_id: (u64, u64),
    /// The MAC address of its interface.
    pub mac: String,
    /// The MTU of its interface, in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What CNI_ARGS said, for people.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

/// The file, and what it says. Nobody else has it open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: State,
    _lock: Lock,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("journal {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a journal that this version knows. Going on without it would give addresses twice.
    #[error("journal {path} cannot be read: {text}; if no pod of this node runs any more, remove it")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// Its folder is another agent's, or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    version: u32,
    attachments: Vec<Attachment>,
    #[serde(default)]
    cursors: Cursors,
}

const VERSION: u32 = 1;

impl Attachment {
    /// As the plan sees it.
    pub fn pod(&self) -> Pod {
        Pod {
            container: self.key.container.clone(),
            ifname: self.key.ifname.clone(),
            netns: self.netns.clone(),
            mac: proto::parse_mac(&self.mac).unwrap_or_default(),
            mtu: self.mtu,
            addresses: self.addresses.clone(),
        }
    }

    /// Its namespace is gone, or another one is at its path. One that cannot be looked at is not gone.
    pub fn is_orphan(&self) -> bool {
        match super::netns_id(&self.netns) {
            Ok(now) => now != self.netns_id,
            // ESRCH: the process of a path in /proc has ended.
            Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH),
        }
    }

    fn is(&self, key: &Key) -> bool {
        // An interface of a container is one attachment, whatever network gave it.
        (&self.key.container, &self.key.ifname) == (&key.container, &key.ifname)
    }
}

impl Journal {
    /// Opens the journal in `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be read. What a crash left half written is no error: the last whole
    /// state counts.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join("attachments.json");
        let io = |source| JournalError::Io { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let lock = Lock::take(&folder.join("agent.lock"), folder)?;
        let state = match fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(|text| JournalError::Broken { path: path.clone(), text })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State { version: VERSION, ..State::default() },
            Err(error) => return Err(io(error)),
        };
        Ok(Journal { path, state, _lock: lock })
    }

    /// All attachments.
    pub fn attachments(&self) -> &[Attachment] {
        &self.state.attachments
    }

    /// The attachment of `key`'s container and interface.
    pub fn get(&self, key: &Key) -> Option<&Attachment> {
        self.state.attachments.iter().find(|one| one.is(key))
    }

    /// Addresses that attachments hold.
    pub fn taken(&self) -> BTreeSet<IpAddr> {
        self.state.attachments.iter().flat_map(|one| &one.addresses).copied().collect()
    }

    /// Where the search for addresses goes on.
    pub fn cursors(&self) -> &Cursors {
        &self.state.cursors
    }

    /// Adds an attachment, durably; or nothing changes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, attachment: Attachment, cursors: Cursors) -> Result<(), JournalError> {
        let mut next = self.state.clone();
        next.attachments.push(attachment);
        next.cursors = cursors;
        self.replace(next)
    }

    /// Removes the attachments that `goes` says, durably; or nothing changes. How many went.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove(&mut self, goes: impl Fn(&Attachment) -> bool) -> Result<usize, JournalError> {
        let mut next = self.state.clone();
        next.attachments.retain(|one| !goes(one));
        match self.state.attachments.len() - next.attachments.len() {
            0 => Ok(0),
            gone => self.replace(next).map(|()| gone),
        }
    }

    /// Removes the attachment of `key`; success when there is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove_key(&mut self, key: &Key) -> Result<usize, JournalError> {
        self.remove(|one| one.is(key))
    }

    fn replace(&mut self, next: State) -> Result<(), JournalError> {
        write(&self.path, &next).map_err(|source| {
            let _ = fs::remove_file(partial(&self.path)); // a disk that is full needs the room
            JournalError::Io { path: self.path.clone(), source }
        })?;
        self.state = next;
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if state.version == VERSION { Ok(state) } else { Err(format!("it has version {}, not {VERSION}", state.version)) }
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Replaces the file so that a power cut leaves either the old state or the new one.
fn write(path: &Path, state: &State) -> io::Result<()> {
    let partial = partial(path);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam;
    use proptest::prelude::*;

    fn attachment(container: &str, addresses: Vec<IpAddr>) -> Attachment {
        let key = Key { network: "n".into(), container: container.into(), ifname: "eth0".into() };
        let mac = "02:00:00:00:00:01".into();
        Attachment { key, netns: "/n".into(), netns_id: (0, 0), mac, mtu: 1450, addresses, args: BTreeMap::new() }
    }

    #[test]
    fn what_is_not_a_journal_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["{", r#"{"version":9,"attachments":[]}"#, ""] {
            fs::write(folder.path().join("attachments.json"), bad).unwrap();
            assert!(matches!(Journal::open(folder.path()), Err(JournalError::Broken { .. })), "{bad}");
        }
    }

    #[test]
    fn a_journal_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let first = Journal::open(folder.path()).unwrap();
        let second = Journal::open(folder.path()).unwrap_err().to_string();
        let (pid, place) = (std::process::id(), folder.path().display());
        assert_eq!(second, format!("another agent (pid {pid}) uses {place}"));
        drop(first);
        Journal::open(folder.path()).unwrap();
    }

    #[test]
    fn a_write_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.add(attachment("a", vec![]), Cursors::new()).unwrap();
        // Something is in the way of the file to be.
        fs::create_dir(folder.path().join("attachments.new")).unwrap();
        assert!(journal.add(attachment("b", vec![]), Cursors::new()).is_err());
        assert!(journal.remove(|_| true).is_err());
        assert_eq!(journal.attachments().len(), 1);
        fs::remove_dir(folder.path().join("attachments.new")).unwrap();
        // Something is in the way of the file itself.
        fs::remove_file(folder.path().join("attachments.json")).unwrap();
        fs::create_dir_all(folder.path().join("attachments.json/in the way")).unwrap();
        assert!(journal.remove(|_| true).is_err());
        assert!(!folder.path().join("attachments.new").exists());
    }

    #[test]
    fn a_namespace_that_another_one_replaced_is_gone() {
        let mut one = attachment("a", vec![]);
        assert!(one.is_orphan());
        one.netns = "/proc/self/ns/net".into();
        assert!(one.is_orphan());
        one.netns_id = crate::attach::netns_id(&one.netns).unwrap();
        assert!(!one.is_orphan());
        // Not there to be seen, which is not the same as gone.
        one.netns = "/dev/null/netns".into();
        assert!(!one.is_orphan());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Adds, removals, restarts and crashes in the middle of a write, in any order: the journal says what was done,
        /// and no two attachments hold one address.
        #[test]
        fn any_history_survives(steps in proptest::collection::vec((0u8..4, 0usize..8), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let ranges = ["10.1.1.0/29".parse().unwrap(), "fd00::/125".parse().unwrap()];
            let mut journal = Journal::open(folder.path()).unwrap();
            let mut model = BTreeMap::<String, Vec<IpAddr>>::new();
            for (step, which) in steps {
                let name = format!("c{which}");
                match step {
                    0 | 1 if !model.contains_key(&name) => {
                        let mut cursors = journal.cursors().clone();
                        if let Ok(addresses) = ipam::allocate(&ranges, &journal.taken(), &[], &mut cursors) {
                            journal.add(attachment(&name, addresses.clone()), cursors).unwrap();
                            model.insert(name, addresses);
                        } else {
                            prop_assert_eq!(model.len(), 5);
                        }
                    }
                    2 => {
                        let gone = journal.remove_key(&attachment(&name, vec![]).key).unwrap();
                        prop_assert_eq!(gone, usize::from(model.remove(&name).is_some()));
                    }
                    _ => {
                        fs::write(folder.path().join("attachments.new"), b"{ half").unwrap();
                        drop(journal);
                        journal = Journal::open(folder.path()).unwrap();
                    }
                }
                let held: BTreeMap<_, _> =
                    journal.attachments().iter().map(|one| (one.key.container.clone(), one.addresses.clone())).collect();
                prop_assert_eq!(&held, &model);
                prop_assert_eq!(journal.taken().len(), 2 * model.len());
            }
        }
    }
}
