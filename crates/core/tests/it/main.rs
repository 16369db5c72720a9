//! The crate as its users see it, one file per subject.
#![allow(clippy::disallowed_methods)] // tests write files and read the environment

mod backlog;
mod capacity;
mod decoders;
mod expiry;
mod failing;
mod failing_disk;
mod faults;
mod hanging;
mod interleavings;
mod kills;
mod layers;
mod listings;
mod loader;
mod manifests;
mod mounts;
mod mutations;
mod on_disk;
mod outdated;
mod packing;
mod places;
mod pt;
mod ranks;
mod secrets;
mod sharing;
mod simulate;
mod single_flight;
mod sources;
mod transforms;
mod under_load;
mod workers;

use headwater_testkit::allocation::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
