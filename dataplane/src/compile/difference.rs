//! What a request changes, object by object.
use super::{Entry, Ids, Object};
use proto::{
    Refusal,
    v1::{ObjectKey, Reason},
};
use std::{
    collections::{HashMap, HashSet, hash_map},
    sync::Arc,
};

/// What one Apply did, or would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What is new.
    pub added: Vec<ObjectKey>,
    /// What has other content than before.
    pub changed: Vec<ObjectKey>,
    /// What is gone.
    pub removed: Vec<ObjectKey>,
}

impl Outcome {
    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Objects in order of kind and id, whatever order they came in.
    pub(super) fn sort(&mut self) {
        for keys in [&mut self.added, &mut self.changed, &mut self.removed] {
            keys.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        }
    }
}

/// An object that a request creates or replaces.
pub(super) struct Put<T: Object> {
    pub(super) id: Arc<str>,
    pub(super) object: Arc<T>,
    pub(super) checked: Arc<T::Checked>,
    /// What it replaces.
    pub(super) old: Option<Entry<T>>,
}

/// What a request changes among the objects of one kind.
pub(super) struct Difference<T: Object> {
    pub(super) put: Vec<Put<T>>,
    pub(super) gone: Vec<(Arc<str>, Entry<T>)>,
}

/// Which objects go away.
pub(super) enum Deletes<'a> {
    /// All that the request does not name.
    Rest,
    /// These, unless the request names them.
    These(&'a [ObjectKey]),
}

impl<T: Object> Difference<T> {
    /// The difference that `upserts` and `deletes` make to what is `there`, each new object checked.
    pub(super) fn new(there: &Ids<T>, upserts: Vec<T>, deletes: &Deletes<'_>) -> Result<Self, Refusal> {
        let (mut named, mut put) = (HashMap::with_capacity(upserts.len()), Vec::with_capacity(upserts.len()));
        for object in upserts {
            match named.entry(Arc::<str>::from(object.id())) {
                hash_map::Entry::Occupied(twice) => {
                    let text = "the request has two of this id";
                    return Err(Refusal::new(T::KIND, &**twice.key(), "id", Reason::Conflict, text));
                }
                hash_map::Entry::Vacant(new) => {
                    let id = new.insert_entry(()).key().clone();
                    let old = there.get(&id).cloned();
                    if old.as_ref().is_none_or(|old| *old.object != object) {
                        let checked = Arc::new(object.check()?);
                        put.push(Put { id, object: Arc::new(object), checked, old });
                    }
                }
            }
        }
        let stays = |id: &str| named.contains_key(id);
        let gone = |id: &Arc<str>, entry: &Entry<T>| (id.clone(), entry.clone());
        let gone = match deletes {
            Deletes::Rest => there.iter().filter(|(id, _)| !stays(id)).map(|(id, entry)| gone(id, entry)).collect(),
            Deletes::These(keys) => {
                let mine = keys.iter().filter(|key| key.kind() == T::KIND && !stays(&key.id));
                let mut seen = HashSet::new();
                let once = mine.filter(|key| seen.insert(&key.id));
                once.filter_map(|key| there.get_key_value(key.id.as_str())).map(|(id, entry)| gone(id, entry)).collect()
            }
        };
        Ok(Difference { put, gone })
    }

    /// Adds what it does to `outcome`.
    pub(super) fn note(&self, outcome: &mut Outcome) {
        let key = |id: &Arc<str>| ObjectKey::new(T::KIND, &**id);
        for put in &self.put {
            if put.old.is_some() { &mut outcome.changed } else { &mut outcome.added }.push(key(&put.id));
        }
        outcome.removed.extend(self.gone.iter().map(|(id, _)| key(id)));
    }
}
