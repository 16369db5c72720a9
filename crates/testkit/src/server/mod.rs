//! The fault server: objects in memory, served over several protocols on one port, as slow and as badly as it is told to be.
//!
//! One map of objects is behind everything: what is put over one protocol is read over another. `s3`, `gcs`, `azure`,
//! `hub` and `plain` hold one protocol each and know nothing of each other; `protocol` lists them. `exchange` is what
//! happens between a request and its answer, faults included: so a fault works the same way over every protocol. `faults`
//! says which requests go wrong and how; the choice hangs on a seed and the number of the request, so that a run can be
//! repeated. Bodies begin after a time to the first byte and run at a stream's rate; all streams share a total rate (`pace`).
//! Without those, nothing but the protocol limits it: bodies are never copied.

mod answer;
mod azure;
mod body;
mod counters;
mod exchange;
mod faults;
mod gate;
mod gcs;
mod hub;
mod hub_tree;
mod object;
mod pace;
mod page;
mod plain;
mod protocol;
mod s3;
mod script;
mod store;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

pub use counters::Class;
pub use faults::{Fault, On, Rule};
pub use hub::{DATASET, TOKEN};
pub use pace::Speed;

use counters::Counters;
use faults::Faults;
use gate::Gate;
use pace::Line;
use store::Store;

/// The one bucket, container or dataset name.
pub const BUCKET: &str = "bucket";
/// Objects per page of a listing, where nothing else is said.
const PAGE_OBJECTS: usize = 1000;

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    gate: Gate,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What all requests share.
#[derive(Debug)]
struct State {
    store: Store,
    faults: Faults,
    counters: Counters,
    line: Line,
    page_objects: AtomicUsize,
    /// What credentials have to contain.
    expected: Mutex<Vec<String>>,
}

impl State {
    /// Objects of a page for which so many were asked.
    fn page(&self, asked: Option<&str>) -> usize {
        let most = self.page_objects.load(Ordering::Relaxed);
        asked.and_then(|text| text.parse().ok()).unwrap_or(most).min(most)
    }
}

impl Server {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn start(speed: Speed) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("testkit-server")
            .enable_all()
            .build()?;
        let state = Arc::new(State {
            store: Store::default(),
            faults: Faults::default(),
            counters: Counters::default(),
            line: Line::new(speed),
            page_objects: AtomicUsize::new(PAGE_OBJECTS),
            expected: Mutex::default(),
        });
        let gate = Gate::open(runtime.handle(), state.clone())?;
        Ok(Self { gate, state, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:port`: the endpoint of S3.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gate.address())
    }

    /// The endpoint of Google Cloud Storage's JSON interface.
    pub fn gcs(&self) -> String {
        self.endpoint()
    }

    /// The endpoint of Azure Blob Storage, with the account of the usual emulators.
    pub fn azure(&self) -> String {
        format!("{}/{}", self.endpoint(), azure::ACCOUNT)
    }

    /// The endpoint of the Hugging Face Hub, as in `HF_ENDPOINT`; the dataset is [`DATASET`].
    pub fn hub(&self) -> String {
        self.endpoint()
    }

    /// The folder of plain HTTP below which every object is.
    pub fn http(&self) -> String {
        format!("{}{}", self.endpoint(), plain::ROOT)
    }

    /// Stores an object.
    pub fn put(&self, key: &str, bytes: Bytes) {
        self.state.store.put(key, bytes);
    }

    /// Removes an object; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        self.state.store.remove(key)
    }

    /// Stores so many objects of 1,000 zeros under `key-0000001.pt` and on, in the memory of one: for long listings.
    pub fn put_synthetic(&self, objects: usize) {
        self.state.store.put_synthetic(objects);
    }

    /// Stores every file below a folder under its path from there; what has several names is in memory once.
    ///
    /// # Errors
    /// Those of reading.
    pub fn put_folder(&self, folder: &Path) -> io::Result<usize> {
        let mut stored = 0;
        let mut known: HashMap<(u64, u64), Bytes> = HashMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(key) = path.strip_prefix(folder) {
                    let meta = path.metadata()?;
                    let bytes = match known.entry((meta.dev(), meta.ino())) {
                        Entry::Occupied(known) => known.get().clone(),
                        Entry::Vacant(new) => new.insert(std::fs::read(&path)?.into()).clone(),
                    };
                    self.put(&key.to_string_lossy(), bytes);
                    stored += 1;
                }
            }
        }
        Ok(stored)
    }

    /// Puts at most so many objects on a page of any listing.
    pub fn set_page_objects(&self, objects: usize) {
        self.state.page_objects.store(objects.max(1), Ordering::Relaxed);
    }

    /// Replaces the rules by which requests go wrong; none ends all faults.
    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.state.faults.set(rules);
    }

    /// Adds one rule after those there are.
    pub fn add_fault(&self, rule: Rule) {
        self.state.faults.add(rule);
    }

    /// Refuses credentials without all of these words as expired: of keys and tokens, for signatures are not checked. None ends that.
    pub fn expect(&self, words: Vec<String>) {
        *self.state.expected.lock() = words;
    }

    /// Chooses which requests the shares of rules fall on.
    pub fn set_seed(&self, seed: u64) {
        self.state.faults.set_seed(seed);
    }

    /// Stops listening and resets every connection; clients find the port closed until [`Server::revive`].
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn kill(&self) -> io::Result<()> {
        self.gate.kill()
    }

    /// Listens on the same port again.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn revive(&self) -> io::Result<()> {
        self.gate.revive()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.counters.requests()
    }

    /// Requests of one class so far.
    pub fn requests_of(&self, class: Class) -> u64 {
        self.state.counters.of(class)
    }

    /// Requests that went wrong as rules said.
    pub fn faults_done(&self) -> u64 {
        self.state.faults.done()
    }

    /// Requests that sent credentials to a host they were not for.
    pub fn tokens_leaked(&self) -> u64 {
        self.state.counters.leaked()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.gate.accepted()
    }

    /// Connections that are open.
    pub fn connections_open(&self) -> u64 {
        self.gate.alive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
