//! What the tests of Headwater share.
//!
//! [`conformance`] holds one suite per seam, run by every implementation of it; [`allocation`] tells what memory a call takes;
//! [`server`] is a remote in memory, as slow and as bad as it is told to be.

#![allow(clippy::missing_panics_doc)] // failing is what a suite is for

pub mod allocation;
pub mod conformance;
pub mod server;
