//! Figures in forms that others read.

mod text;

pub use text::{Exposition, Target, write};
