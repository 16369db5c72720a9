//! The objects, and the commits that the Hub sees them in.
//!
//! The map is shared by reference with whoever lists it or holds a commit of it, and copied by the next change only if someone
//! does: reading a long listing holds up nobody, and a commit is a snapshot that costs nothing until something changes.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::object::{Object, hex};

/// Commits that can still be read: the present one and those before it.
const COMMITS: usize = 16;
/// The size of a synthetic object.
const SYNTHETIC_BYTES: usize = 1000;

pub(super) type Map = BTreeMap<Arc<str>, Arc<Object>>;

/// The objects as they were at some time, under the name that git would give it.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) id: String,
    pub(super) objects: Arc<Map>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// No two servers have a commit in common: what clients keep of one must not be taken for what another serves at its port.
    own: RandomState,
    generation: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    objects: Arc<Map>,
    /// The latest first. It is the present one if its objects are.
    commits: VecDeque<Arc<Commit>>,
}

impl Store {
    pub(super) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.kept.lock().objects.get(key).cloned()
    }

    /// All objects as they are now.
    pub(super) fn objects(&self) -> Arc<Map> {
        self.kept.lock().objects.clone()
    }

    pub(super) fn put(&self, key: &str, bytes: Bytes) -> Arc<Object> {
        let object = Arc::new(Object::new(bytes, self.generation.fetch_add(1, Ordering::Relaxed) + 1));
        Arc::make_mut(&mut self.kept.lock().objects).insert(key.into(), object.clone());
        object
    }

    pub(super) fn put_synthetic(&self, objects: usize) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let object = Arc::new(Object::new(Bytes::from_static(&[0; SYNTHETIC_BYTES]), generation));
        let made = (1..=objects).map(|number| (format!("key-{number:07}.pt").into(), object.clone()));
        Arc::make_mut(&mut self.kept.lock().objects).extend(made);
    }

    pub(super) fn remove(&self, key: &str) -> bool {
        Arc::make_mut(&mut self.kept.lock().objects).remove(key).is_some()
    }

    /// Replaces an object by another of the same size.
    pub(super) fn swap(&self, key: &str) {
        if let Some(object) = self.get(key) {
            self.put(key, object.bytes.iter().map(|byte| !byte).collect());
        }
    }

    /// The commit of what is stored now.
    pub(super) fn head(&self) -> Arc<Commit> {
        let mut kept = self.kept.lock();
        let present = kept.commits.front().filter(|commit| Arc::ptr_eq(&commit.objects, &kept.objects));
        present.cloned().unwrap_or_else(|| {
            let commit = Arc::new(Commit { id: self.id_of(&kept.objects), objects: kept.objects.clone() });
            kept.commits.retain(|other| other.id != commit.id);
            kept.commits.push_front(commit.clone());
            kept.commits.truncate(COMMITS);
            commit
        })
    }

    /// The commit that a branch or an identifier names.
    pub(super) fn commit(&self, revision: &str) -> Option<Arc<Commit>> {
        let head = self.head();
        if revision == "main" {
            return Some(head);
        }
        self.kept.lock().commits.iter().find(|commit| commit.id == revision).cloned()
    }

    /// Tags stand for contents: hashing those would read everything.
    fn id_of(&self, objects: &Map) -> String {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(&self.own.hash_one(()).to_le_bytes());
        for (key, object) in objects {
            context.update(key.as_bytes());
            context.update(object.tag.as_bytes());
        }
        hex(context.finish().as_ref())
    }
}
