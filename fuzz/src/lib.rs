//! Fuzzing of the readers of Headwater.

pub mod targets;
