//! The crate as its users see it, one file per subject.
#![allow(clippy::disallowed_methods)] // tests write files and read the environment

mod interleavings;
mod layers;
mod loader;
mod pt;
mod sources;
