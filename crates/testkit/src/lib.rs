//! What the tests of Headwater share.
//!
//! [`conformance`] holds one suite per seam, run by every implementation of it.

#![allow(clippy::missing_panics_doc)] // failing is what a suite is for

pub mod conformance;
