//! Values that were fetched before they are asked for.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::{MemoryShare, PrefetchConfig};
use crate::value::Value;

/// What nobody came for in this time gives way to others.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// Values by name, each for whoever asks first, within a bound of bytes.
#[derive(Debug)]
pub(super) struct Held {
    limit: u64,
    bytes: u64,
    values: HashMap<String, (Value, Instant)>,
    /// Names in the order they came; also of some that were taken since.
    arrived: VecDeque<(String, Instant)>,
}

impl Default for Held {
    fn default() -> Self {
        let limit = PrefetchConfig::default_memory(MemoryShare::current().bytes());
        Self { limit, bytes: 0, values: HashMap::new(), arrived: VecDeque::new() }
    }
}

impl Held {
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether there is no room, also once what is too old has given way.
    pub(super) fn is_full(&mut self) -> bool {
        self.make_room(1);
        self.bytes >= self.limit
    }

    /// Holds a value, if there is room.
    pub(super) fn put(&mut self, name: String, value: Value) -> bool {
        let bytes = value.tensor_bytes() as u64;
        self.make_room(bytes);
        if self.bytes + bytes > self.limit {
            return false;
        }
        let now = Instant::now();
        self.take(&name);
        self.bytes += bytes;
        self.arrived.push_back((name.clone(), now));
        self.values.insert(name, (value, now));
        true
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let (value, _) = self.values.remove(name)?;
        self.bytes -= value.tensor_bytes() as u64;
        // Names of what was taken are not kept for ever.
        while self.arrived.front().is_some_and(|(name, since)| !self.is_there(name, *since)) {
            self.arrived.pop_front();
        }
        Some(value)
    }

    fn is_there(&self, name: &str, since: Instant) -> bool {
        self.values.get(name).is_some_and(|(_, held)| *held == since)
    }

    /// Lets go of what is too old, as far as that is needed.
    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.limit
            && self.arrived.front().is_some_and(|(_, since)| since.elapsed() >= KEPT_FOR)
            && let Some((name, since)) = self.arrived.pop_front()
        {
            if self.is_there(&name, since) {
                self.take(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{DType, Tensor};

    fn value(bytes: usize) -> Value {
        Tensor::from_bytes(DType::U8, &[bytes], vec![0; bytes].into()).expect("tensor").into()
    }

    #[test]
    fn holds_no_more_than_its_limit_and_hands_out_once() {
        let mut held = Held { limit: 100, ..Held::default() };
        assert!(held.put("a".into(), value(60)));
        assert!(!held.put("b".into(), value(60)));
        assert!(held.put("c".into(), value(40)));
        assert!(held.is_full() && held.has("a") && !held.has("b"));
        assert_eq!(held.take("a").map(|value| value.tensor_bytes()), Some(60));
        assert!(held.take("a").is_none() && !held.is_full());
        assert!(held.put("b".into(), value(60)));
        assert!(held.take("b").is_some() && held.take("c").is_some());
        assert_eq!((held.bytes, held.arrived.len()), (0, 0));
    }
}
