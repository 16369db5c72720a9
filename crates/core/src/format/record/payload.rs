//! A record's payload while it is written: in parts, since several threads may write at once.

/// Parts that follow each other; their memory is used again.
#[derive(Debug, Default)]
pub(super) struct Payload {
    parts: Vec<Vec<u8>>,
    /// How many of them belong to the present one.
    used: usize,
}

impl Payload {
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.parts[..self.used].iter().map(Vec::len).sum()
    }

    pub(super) fn capacity(&self) -> usize {
        self.parts.iter().map(Vec::capacity).sum()
    }

    /// So many empty parts at its end, to be written to in any order.
    pub(super) fn more(&mut self, count: usize) -> &mut [Vec<u8>] {
        let from = self.used;
        self.used += count;
        self.parts.resize_with(self.used.max(self.parts.len()), Vec::new);
        let parts = &mut self.parts[from..self.used];
        parts.iter_mut().for_each(Vec::clear);
        parts
    }

    /// The part at its end.
    pub(super) fn last(&mut self) -> &mut Vec<u8> {
        if self.used == 0 {
            self.more(1);
        }
        &mut self.parts[self.used - 1]
    }

    /// Appends zeros up to a multiple of `alignment`; returns its length.
    pub(super) fn fill_up(&mut self, alignment: usize) -> usize {
        let len = self.len();
        let filled = len.next_multiple_of(alignment);
        let last = self.last();
        last.resize(last.len() + filled - len, 0);
        filled
    }

    /// Copies all of it to `out`, which is as long.
    pub(super) fn copy_to(&self, out: &mut [u8]) {
        let mut at = 0;
        for part in &self.parts[..self.used] {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }
}
