//! The last desired state on disk: the dataplane starts from it with no agent.
//!
//! A whole state is one file, replaced atomically; changes are appended to a second one, so that a change costs the
//! change. What a crash left unfinished at its end is not read. A host that crashed has no pods left: nothing waits for
//! the disk.
//!
//! A file system that turned read-only, or is full, is no reason to carry no packets: the dataplane starts from what
//! can be read, and refuses changes until they can be kept again.
use crate::{compile::State, keep::is_unwritable};
use prost::Message as _;
use proto::v1::{ApplyRequest, Delta, Desired, apply_request::Change};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// From this many bytes of changes on, they are folded into the whole state, unless that is larger.
const FOLD: u64 = 1 << 20;
/// Length, checksum, generation.
const HEADER: usize = 4 + 8 + 8;

/// Where states are kept.
pub struct Store {
    dir: PathBuf,
    changes: Option<File>, // none as long as it cannot be written
    unusable: bool,        // what is there is to be set aside before anything is written
    whole_len: u64,
    changes_len: u64,
    failure: Option<String>,
}

/// Why a state cannot be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {step} in {dir}: {source}")]
    System {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl Store {
    /// Opens the states kept in `dir`, and gives the last one. Where it cannot be written, [`Store::failure`] says so.
    ///
    /// # Errors
    /// A directory that cannot be made or read.
    pub fn open(dir: &Path) -> Result<(Self, State), StoreError> {
        let failed = |step| move |source| StoreError::System { dir: dir.into(), step, source };
        fs::create_dir_all(dir).map_err(failed("make the directory"))?;
        let read = |name| match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let whole = read(WHOLE).map_err(failed("read the state"))?;
        let journal = read(CHANGES).map_err(failed("read the changes"))?.unwrap_or_default();
        let mut store = Store {
            dir: dir.into(),
            changes: None,
            unusable: false,
            whole_len: whole.as_ref().map_or(0, |whole| whole.len() as u64),
            changes_len: 0,
            failure: None,
        };
        let (state, used) = replay(whole.as_deref(), &journal).unwrap_or_else(|why| {
            // A node with an empty state is told its own again by the agent; one that refuses to start is not.
            let dir = dir.display();
            tracing::error!("the state in {dir} cannot be used: {why}; it is set aside, and this starts empty");
            (store.unusable, store.whole_len) = (true, 0);
            (State::default(), 0)
        });
        if !store.unusable && used < journal.len() as u64 {
            let (dir, cut) = (dir.display(), journal.len() as u64 - used);
            tracing::warn!("the last change in {dir} is not whole: {cut} bytes are left out");
        }
        store.changes_len = used;
        match store.ready() {
            Err(StoreError::System { source, .. }) if is_unwritable(&source) => {
                tracing::error!("{}", store.failure().unwrap_or_default());
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok((store, state))
    }

    /// Why changes cannot be kept, or the last one was not; looked for again.
    pub fn failure(&mut self) -> Option<&str> {
        if self.changes.is_none() && self.ready().is_ok() {
            self.failure = None;
        }
        self.failure.as_deref()
    }

    /// Removes the states kept in `dir`.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn clear(dir: &Path) -> Result<(), StoreError> {
        for name in [WHOLE, CHANGES] {
            match fs::remove_file(dir.join(name)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::System { dir: dir.into(), step: "remove the state", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps `change`, after which the state is `next`.
    ///
    /// # Errors
    /// A directory that cannot be written: then the change must not become live.
    pub fn keep(&mut self, change: &Change, next: &State) -> Result<(), StoreError> {
        let kept = self.ready().and_then(|()| match change {
            Change::Delta(_) if self.changes_len < FOLD.max(self.whole_len) => {
                self.append(&record(next.generation(), change.clone()))
            }
            _ => self.fold(next),
        });
        self.remember(kept)
    }

    /// Makes the changes ready to be appended to.
    fn ready(&mut self) -> Result<(), StoreError> {
        if self.changes.is_some() {
            return Ok(());
        }
        let opened = self.open_changes();
        if opened.is_err() { self.remember(opened) } else { opened }
    }

    fn open_changes(&mut self) -> Result<(), StoreError> {
        if self.unusable {
            set_aside(&self.dir).map_err(|source| self.failed("set the state aside", source))?;
            self.unusable = false;
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o600);
        let changes = options.open(self.dir.join(CHANGES));
        let changes = changes.map_err(|source| self.failed("open the changes", source))?;
        let cut = changes.set_len(self.changes_len); // what a crash left unfinished
        cut.map_err(|source| self.failed("cut the changes", source))?;
        self.changes = Some(changes);
        Ok(())
    }

    fn remember(&mut self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        self.failure = result.as_ref().err().map(|error| format!("changes are refused, for none can be kept: {error}"));
        result
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StoreError> {
        let Some(mut changes) = self.changes.take() else {
            return Err(self.failed("append a change", io::ErrorKind::NotConnected.into()));
        };
        let written = changes.write_all(record);
        // A part that stays would hide what follows it: then the file is cut before it is used again.
        let is_clean = written.is_ok() || changes.set_len(self.changes_len).is_ok();
        self.changes = is_clean.then_some(changes);
        written.map_err(|source| self.failed("append a change", source))?;
        self.changes_len += record.len() as u64;
        Ok(())
    }

    fn fold(&mut self, state: &State) -> Result<(), StoreError> {
        let record = record(state.generation(), Change::Whole(state.desired()));
        let (new, path) = (self.dir.join("desired.new"), self.dir.join(WHOLE));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&record)?;
            file.sync_all()?; // else a power cut may leave the new name on an empty file
            fs::rename(&new, &path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&new); // a disk that is full needs the room
            self.failed("write the state", source)
        })?;
        (self.whole_len, self.changes_len) = (record.len() as u64, 0);
        self.changes = None; // older than the state from now on: to be cut
        self.ready()
    }

    fn failed(&self, step: &'static str, source: io::Error) -> StoreError {
        StoreError::System { dir: self.dir.clone(), step, source }
    }
}

/// Moves files that cannot be used out of the way, for a person to look at.
fn set_aside(dir: &Path) -> io::Result<()> {
    for name in [WHOLE, CHANGES] {
        match fs::rename(dir.join(name), dir.join(format!("{name}.unusable"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

const WHOLE: &str = "desired";
const CHANGES: &str = "changes";

fn record(generation: u64, change: Change) -> Vec<u8> {
    let body = ApplyRequest { change: Some(change), dry_run: false }.encode_to_vec();
    let mut record = Vec::with_capacity(HEADER + body.len());
    record.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    record.extend(checksum(generation, &body).to_be_bytes());
    record.extend(generation.to_be_bytes());
    record.extend(body);
    record
}

/// FNV-1a, 64 bit: against what a crash leaves, not against people.
fn checksum(generation: u64, body: &[u8]) -> u64 {
    let bytes = generation.to_be_bytes().into_iter().chain(body.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The first record of `bytes`: its length, generation and change; none when it is not whole.
fn first(bytes: &[u8]) -> Option<(usize, u64, Change)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (body, generation) = (rest.get(..length)?, u64::from_be_bytes(*generation));
    if checksum(generation, body) != u64::from_be_bytes(*sum) {
        return None;
    }
    Some((HEADER + length, generation, ApplyRequest::decode(body).ok()?.change?))
}

/// The state that the files hold, and how many bytes of the changes belong to it.
fn replay(whole: Option<&[u8]>, changes: &[u8]) -> Result<(State, u64), String> {
    let mut state = State::default();
    if let Some(whole) = whole {
        let (_, generation, change) = first(whole).ok_or_else(|| format!("{WHOLE} is torn"))?;
        state = state.apply(change).map_err(|refusal| refusal.to_string())?.0;
        state.resume(generation);
    }
    let mut used = 0;
    while let Some((length, generation, change)) = first(changes.get(used..).unwrap_or_default()) {
        used += length;
        if generation > state.generation() {
            let change = match change {
                Change::Delta(delta) => Change::Delta(Delta { expected_generation: state.generation(), ..delta }),
                Change::Whole(desired) => Change::Whole(Desired::clone(&desired)),
            };
            state = state.apply(change).map_err(|refusal| refusal.to_string())?.0;
            state.resume(generation);
        }
    }
    Ok((state, used as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::only_read;
    use proto::v1::{self, Kind, ObjectKey};
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    fn port(id: &str) -> Desired {
        let kind = Some(v1::port::Kind::Null(v1::Null {}));
        let port = v1::Port { id: id.into(), kind, role: v1::Role::Host.into(), ..v1::Port::default() };
        Desired { ports: vec![port], ..Desired::default() }
    }

    fn apply(store: &mut Store, state: &State, change: Change) -> State {
        let (next, _) = state.apply(change.clone()).unwrap();
        store.keep(&change, &next).unwrap();
        next
    }

    fn delta(state: &State, upserts: Desired, deletes: Vec<ObjectKey>) -> Change {
        Change::Delta(Delta { expected_generation: state.generation(), upserts: Some(upserts), deletes })
    }

    #[test]
    fn a_torn_state_is_set_aside_and_what_follows_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut state) = Store::open(dir.path()).unwrap();
        state = apply(&mut store, &state, Change::Whole(port("a")));
        apply(&mut store, &state, delta(&state, port("b"), vec![]));
        drop(store);
        fs::write(dir.path().join(WHOLE), b"").unwrap();
        let (mut store, state) = Store::open(dir.path()).unwrap();
        assert_eq!((state.generation(), state.desired().ports), (0, vec![]));
        assert!(dir.path().join("desired.unusable").exists() && dir.path().join("changes.unusable").exists());
        apply(&mut store, &state, Change::Whole(port("c")));
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().1.desired().ports, port("c").ports);
    }

    #[test]
    fn the_last_state_is_found_again_whatever_a_crash_left_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut state) = Store::open(dir.path()).unwrap();
        assert_eq!(state.generation(), 0);
        state = apply(&mut store, &state, Change::Whole(port("a")));
        state = apply(&mut store, &state, delta(&state, port("b"), vec![]));
        state = apply(&mut store, &state, delta(&state, port("c"), vec![ObjectKey::new(Kind::Port, "a")]));
        let again = || Store::open(dir.path()).unwrap().1;
        assert_eq!((again().desired(), again().generation()), (state.desired(), 3));
        let mut file = OpenOptions::new().append(true).open(dir.path().join(CHANGES)).unwrap();
        file.write_all(&record(4, delta(&state, port("d"), vec![]))[..30]).unwrap();
        let (mut store, found) = Store::open(dir.path()).unwrap();
        assert_eq!(found.desired(), state.desired());
        state = apply(&mut store, &found, delta(&found, port("e"), vec![]));
        assert_eq!((again().desired(), again().generation()), (state.desired(), 4));
        state = apply(&mut store, &state, Change::Whole(port("z")));
        assert_eq!((again().desired(), again().generation()), (state.desired(), 5));
    }

    #[test]
    fn what_can_only_be_read_is_begun_with_and_changed_when_it_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut state) = Store::open(dir.path()).unwrap();
        state = apply(&mut store, &state, Change::Whole(port("a")));
        state = apply(&mut store, &state, delta(&state, port("b"), vec![]));
        assert_eq!(store.failure(), None);
        drop(store);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(CHANGES)).unwrap();
        file.write_all(b"torn").unwrap();
        only_read(dir.path());
        let (mut store, found) = Store::open(dir.path()).unwrap();
        assert_eq!((found.desired(), found.generation()), (state.desired(), 2));
        assert!(store.failure().unwrap().contains("Permission denied"));
        for change in [delta(&found, port("c"), vec![]), Change::Whole(port("c"))] {
            let error = store.keep(&change, &found.apply(change.clone()).unwrap().0).unwrap_err();
            assert!(error.to_string().contains("open the changes"), "{error}");
        }
        for (path, mode) in [(dir.path().to_owned(), 0o700), (dir.path().join(CHANGES), 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(store.failure(), None, "it is looked for again");
        state = apply(&mut store, &found, delta(&found, port("c"), vec![]));
        assert_eq!(Store::open(dir.path()).unwrap().1.desired(), state.desired());
    }

    #[test]
    fn a_state_that_is_torn_and_can_only_be_read_is_set_aside_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, state) = Store::open(dir.path()).unwrap();
        apply(&mut store, &state, Change::Whole(port("a")));
        fs::write(dir.path().join(WHOLE), b"").unwrap();
        only_read(dir.path());
        let (mut store, state) = Store::open(dir.path()).unwrap();
        assert!(state.generation() == 0 && store.failure().unwrap().contains("set the state aside"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(dir.path().join(CHANGES), Permissions::from_mode(0o600)).unwrap();
        apply(&mut store, &state, Change::Whole(port("c")));
        assert!(dir.path().join("desired.unusable").exists());
        assert_eq!(Store::open(dir.path()).unwrap().1.desired().ports, port("c").ports);
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, state) = Store::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join(WHOLE).join("in the way")).unwrap();
        let (next, _) = state.apply(Change::Whole(port("a"))).unwrap();
        let error = store.keep(&Change::Whole(port("a")), &next).unwrap_err();
        assert!(error.to_string().contains("write the state"), "{error}");
        assert!(!dir.path().join("desired.new").exists());
    }

    #[test]
    fn many_changes_are_folded_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut state) = Store::open(dir.path()).unwrap();
        let long = "x".repeat(1000);
        for n in 0..1500 {
            state = apply(&mut store, &state, delta(&state, port(&format!("{long}{n}")), vec![]));
        }
        assert!(fs::metadata(dir.path().join(CHANGES)).unwrap().len() < FOLD, "they were folded");
        assert_eq!(Store::open(dir.path()).unwrap().1.desired(), state.desired());
    }
}
