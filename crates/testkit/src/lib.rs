//! What the tests of Headwater share.
//!
//! [`conformance`] holds one suite per seam, run by every implementation of it; [`allocation`] tells what memory a call takes;
//! [`server`] is a remote in memory, as slow and as bad as it is told to be.

#![allow(clippy::missing_panics_doc)] // failing is what a suite is for

pub mod allocation;
pub mod conformance;
pub mod server;

/// Whether SHA-256 is cheap on this processor: only then are objects checked whose place names no other checksum.
pub fn has_sha_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}
