//! Many strings in one allocation.

/// A list of strings: one after the other, and where each ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Strings {
    text: String,
    ends: Vec<u64>,
}

impl Strings {
    pub(super) fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len() as u64);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.text.capacity() + 8 * self.ends.capacity()
    }

    /// The parts to store.
    pub(super) fn parts(&self) -> (&[u8], &[u64]) {
        (self.text.as_bytes(), &self.ends)
    }

    /// From stored parts; `None` when they do not fit together.
    pub(super) fn from_parts(bytes: Vec<u8>, ends: Vec<u64>) -> Option<Self> {
        let ordered = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered || ends.last().copied().unwrap_or(0) != bytes.len() as u64 {
            return None;
        }
        let strings = Self { text: String::from_utf8(bytes).ok()?, ends };
        (0..strings.len()).all(|index| strings.get(index).is_some()).then_some(strings)
    }
}
