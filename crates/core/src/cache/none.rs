//! No cache.

use super::{Cache, UnitId};
use crate::value::Value;

/// Keeps nothing; every use reads its source.
#[derive(Debug)]
pub struct None;

impl Cache for None {
    fn get(&self, _: UnitId) -> Option<Value> {
        Option::None
    }

    fn offer(&self, _: UnitId, _: &Value) {}
}
