//! `headwater simulate`.
//!
//! Sizes come from a place or from two numbers; what is planned from options, else from the headwater.toml, else from what a loader
//! does by itself. Every policy is simulated with what is planned, one of them with other disks too; how it all looks is in
//! [`report`].

mod report;

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use headwater::cache::Policy;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::{Engine, uninterrupted};
use headwater::manifest::{Manifest, store};
use headwater::simulate::{Outcome, Plan, Sizes};
use headwater::source::{self, ReadRequest};
use headwater::{Error, ErrorKind, Result};

use super::{progress_bar, progress_count};
use crate::Failure;
use crate::joining::Joining;
use crate::place::Place;
use report::Report;

/// Every policy by its name, in the order in which they are shown.
const POLICIES: [(&str, Policy); 3] = [("auto", Policy::Auto), ("keep", Policy::Keep), ("lru", Policy::Lru)];

/// Say what memory and disk of a given size would save: reuse, bytes and requests per epoch
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  headwater simulate headwater.toml --nodes 2 --ranks-per-node 8 --disk 500GB\n  \
                  headwater simulate s3://bucket/run --disk 500GB --ratio 2.9\n  \
                  headwater simulate /shared/run.manifest --memory 32GB --policy keep\n  \
                  headwater simulate --samples 1000000 --sample-size 6.8MB --disk 2TB\n\n\
                  Nothing is read but the list of objects.")]
pub(crate) struct Simulate {
    /// Path or URI whose sub-folders are the fields, a headwater.toml, or a published manifest
    #[arg(value_name = "PLACE")]
    uri: Option<String>,
    /// Instead of a place: number of samples
    #[arg(long, value_name = "N")]
    samples: Option<u64>,
    /// Bytes of a sample, as stored
    #[arg(long, value_name = "SIZE")]
    sample_size: Option<ByteSize>,
    /// Objects of a sample, each of them one request
    #[arg(long, value_name = "N", default_value_t = 1, requires = "samples")]
    objects: usize,
    /// Memory tier of each rank. Default: as the headwater.toml says, else 4 GB shared by the ranks of a node
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Disk tier of each node, shared by its ranks. Default: as the headwater.toml says, else none
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteSize>,
    /// Number of machines
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// Training processes of each machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks_per_node: usize,
    /// Bytes of an object as stored to bytes of it as kept: 2.9 for bfloat16 values in float32
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    ratio: f64,
    /// Show this policy only: auto, keep or lru
    #[arg(long, value_parser = policy)]
    policy: Option<Policy>,
    /// Epochs to walk, two at least
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: usize,
    /// Samples per batch and rank. Default: as the headwater.toml says, else 1
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// What the random order is drawn from. Default: as the headwater.toml says, else 0
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Walk samples in the order of their keys, every epoch
    #[arg(long)]
    sequential: bool,
    #[command(flatten)]
    joining: Joining,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

fn policy(text: &str) -> Result<Policy, String> {
    let named = POLICIES.iter().find(|(name, _)| *name == text);
    named.map(|(_, policy)| *policy).ok_or_else(|| "there are auto, keep and lru".to_owned())
}

impl Simulate {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let config = self.config()?;
        let plan = self.plan(config.as_ref())?;
        let sizes = Arc::new(self.sizes(config.as_ref())?);
        let named = POLICIES.into_iter().filter(|(_, policy)| self.policy.is_none_or(|only| only == *policy));
        let (names, policies): (Vec<_>, Vec<_>) = named.unzip();
        let disks = plan.disks_to_compare(&sizes);
        let of_policies = policies.iter().map(|&policy| Plan { policy, ..plan.clone() });
        let of_disks = disks.iter().map(|&disk_bytes| Plan { disk_bytes, ..plan.clone() });
        let outcomes = simulated(of_policies.chain(of_disks).collect(), &sizes)?;
        let (of_policies, of_disks) = outcomes.split_at(names.len());
        let report = Report {
            sizes: &sizes,
            plan: &plan,
            policy_name: POLICIES.iter().find(|(_, policy)| *policy == plan.policy).map_or("", |(name, _)| name),
            policies: names.into_iter().zip(of_policies).collect(),
            disks: disks.into_iter().zip(of_disks).collect(),
        };
        if self.json { report.json(out) } else { report.text(out) }
    }

    /// What a place is configured as, unless it is a manifest.
    fn config(&self) -> Result<Option<DatasetConfig>> {
        let too_little = Error::new(ErrorKind::Invalid, "simulate", "a dataset")
            .because("give either a place, whose sizes are then listed, or both --samples and --sample-size");
        match (&self.uri, self.samples, self.sample_size) {
            (Some(uri), None, None) if !is_manifest(uri)? => self.joining.config(uri, &self.place).map(Some),
            (Some(_), None, None) | (None, Some(_), Some(_)) => {
                self.joining.refuse("only places that are listed need it").map(|()| None)
            }
            _ => Err(too_little),
        }
    }

    fn plan(&self, config: Option<&DatasetConfig>) -> Result<Plan> {
        let cache = config.map(|config| config.cache.clone()).unwrap_or_default();
        let loader = config.and_then(|config| config.loader.clone());
        let loader = loader.unwrap_or(LoaderConfig { shuffle: true, ..LoaderConfig::default() });
        let (memory, disk) = (self.memory.or(cache.memory), self.disk.or(cache.disk_capacity));
        if let (Some(folder), None) = (&cache.disk, disk) {
            return Err(Error::new(ErrorKind::Invalid, "simulate", folder.display())
                .because("nobody knows what is free there: give --disk, or disk_capacity in the headwater.toml"));
        }
        Ok(Plan {
            nodes: self.nodes,
            ranks_per_node: self.ranks_per_node,
            memory_bytes: memory
                .map_or(CacheConfig::default_memory(u64::MAX) / self.ranks_per_node.max(1) as u64, |memory| memory.0),
            disk_bytes: disk.map_or(0, |disk| disk.0),
            ratio: self.ratio,
            policy: self.policy.unwrap_or(cache.policy),
            batch_size: self.batch_size.unwrap_or(loader.batch_size),
            shuffle: loader.shuffle && !self.sequential,
            seed: self.seed.unwrap_or(loader.seed),
            epochs: self.epochs,
        })
    }

    fn sizes(&self, config: Option<&DatasetConfig>) -> Result<Sizes> {
        match (config, &self.uri) {
            (Some(config), _) => {
                let bar = progress_count("listing");
                let shown = || {
                    bar.tick();
                    Ok(())
                };
                // Nothing is kept for it, least of all on a disk that is yet to be bought.
                let config = DatasetConfig { cache: CacheConfig::default(), ..config.clone() };
                let dataset = Dataset::open(&config, &shown);
                bar.finish_and_clear();
                Sizes::of(dataset?.manifest())
            }
            (None, Some(uri)) => Sizes::of(&self.manifest(uri)?),
            (None, None) => {
                Sizes::equal(self.samples.unwrap_or(0), self.sample_size.map_or(0, |size| size.0), self.objects)
            }
        }
    }

    fn manifest(&self, uri: &str) -> Result<Manifest> {
        if let Some(path) = source::local_path(uri)? {
            return store::load(&path).map_err(|error| match error.kind() {
                ErrorKind::Corrupt => error.because("give a folder, a URI, a headwater.toml or a published manifest"),
                _ => error,
            });
        }
        let (source, key) = self.place.open_parent(uri)?;
        let engine = Engine::current()?;
        let reading = async move {
            let object = source.read(&ReadRequest::whole(&*key), engine.buffers()).await?;
            store::from_bytes(&object.bytes, &source.uri_of(&key))
        };
        engine.block_on("reading the manifest", reading, uninterrupted())?
    }
}

/// Whether a place is a manifest itself: a file, or what is called one elsewhere.
fn is_manifest(uri: &str) -> Result<bool> {
    let is_named = |suffix: &str| uri.ends_with(suffix);
    let is_file = || Ok(source::local_path(uri)?.is_some_and(|path| path.is_file()));
    Ok(is_named(".manifest") || !is_named(".toml") && is_file()?)
}

/// Runs plans side by side.
fn simulated(plans: Vec<Plan>, sizes: &Arc<Sizes>) -> Result<Vec<Outcome>> {
    let count = plans.len();
    let bar = progress_bar("simulating", count as u64);
    let (sizes, ended) = (sizes.clone(), bar.clone());
    let job = move |number: usize| {
        let outcome = plans[number].run(&sizes);
        ended.inc(1);
        outcome
    };
    let outcomes = Engine::current()?.run_all("simulating", count, job, uninterrupted());
    bar.finish_and_clear();
    outcomes
}
