//! The bytes of the ledger: rows of words, each with a checksum — normatively `docs/formats.md`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Sets that a folder has at most.
pub(super) const SETS: usize = 128;
/// Processes that write at a time, at most.
pub(super) const PROCESSES: usize = 512;

const MAGIC: u64 = u64::from_le_bytes(*b"HWLEDG2\0");
/// The last word of every row is its checksum.
const ROW_WORDS: usize = 8;
const PROCESS_WORDS: usize = 2;
const PROCESSES_AT: usize = (1 + SETS) * ROW_WORDS;
const WORDS: usize = PROCESSES_AT + PROCESSES * PROCESS_WORDS;

/// What the ledger says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Which start of the machine it was begun after; 0 where that cannot be told.
    pub(super) start: u64,
    /// When that was, by what the clock on the wall said when it was begun: seconds since 1970.
    pub(super) started: u64,
    /// The set whose files are being changed.
    pub(super) changing: Option<usize>,
}

/// A set as the ledger knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetRow {
    pub(super) slot: usize,
    pub(super) id: u128,
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// Seconds since 1970.
    pub(super) used: u64,
    /// Whether bytes and files are what there is; else somebody has to count them.
    pub(super) is_counted: bool,
    /// How often the row was written: what is counted while it is the same was counted right.
    pub(super) changes: u64,
}

impl SetRow {
    /// One of a set of which nothing is there yet.
    pub(super) fn empty(slot: usize, id: u128, used: u64) -> Self {
        Self { slot, id, bytes: 0, files: 0, used, is_counted: true, changes: 0 }
    }

    /// The same, of which nobody knows how much is there.
    pub(super) fn uncounted(self) -> Self {
        Self { is_counted: false, ..self }
    }
}

/// The ledger as it was read, and as it is written.
pub(super) struct Rows(Box<[u64]>);

/// A row, by the number of its first word.
#[derive(Clone, Copy)]
struct Row {
    at: usize,
    words: usize,
}

const HEAD: Row = Row { at: 0, words: ROW_WORDS };

fn row_of_set(slot: usize) -> Row {
    Row { at: (1 + slot) * ROW_WORDS, words: ROW_WORDS }
}

fn row_of_process(process: usize) -> Row {
    Row { at: PROCESSES_AT + process * PROCESS_WORDS, words: PROCESS_WORDS }
}

impl Rows {
    /// What a file has; zeros, which are no row, for what it lacks.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = vec![0; WORDS * 8];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        let words = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        Ok(Self(words.collect()))
    }

    fn words(&self, row: Row) -> &[u64] {
        &self.0[row.at..row.at + row.words]
    }

    fn is_sound(&self, row: Row) -> bool {
        let words = self.words(row);
        words[row.words - 1] == checksum(row, &words[..row.words - 1])
    }

    /// Writes the first words of a row, the others as zeros.
    fn write(&mut self, file: &File, row: Row, values: &[u64]) -> io::Result<()> {
        let words = &mut self.0[row.at..row.at + row.words];
        words.fill(0);
        words[..values.len()].copy_from_slice(values);
        words[row.words - 1] = checksum(row, &words[..row.words - 1]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // At once: whoever is killed leaves the one or the other.
        file.write_all_at(&bytes, row.at as u64 * 8)
    }

    /// `None`: it is none of ours, or damaged.
    pub(super) fn head(&self) -> Option<Head> {
        let &[magic, start, started, changing, ..] = self.words(HEAD) else { return None };
        let changing = changing as usize;
        let is_one = magic == MAGIC && self.is_sound(HEAD) && changing <= SETS;
        is_one.then_some(Head { start, started, changing: changing.checked_sub(1) })
    }

    pub(super) fn write_head(&mut self, file: &File, head: &Head) -> io::Result<()> {
        let changing = head.changing.map_or(0, |slot| slot as u64 + 1);
        self.write(file, HEAD, &[MAGIC, head.start, head.started, changing])
    }

    /// Whether what it says of a slot is what was written.
    pub(super) fn knows_set(&self, slot: usize) -> bool {
        self.is_sound(row_of_set(slot))
    }

    pub(super) fn set(&self, slot: usize) -> Option<SetRow> {
        let &[high, low, bytes, files, used, is_counted, changes, _] = self.words(row_of_set(slot)) else {
            return None;
        };
        let id = u128::from(high) << 64 | u128::from(low);
        (id != 0).then_some(SetRow { slot, id, bytes, files, used, is_counted: is_counted == 1, changes })
    }

    pub(super) fn write_set(&mut self, file: &File, row: &SetRow) -> io::Result<()> {
        let place = row_of_set(row.slot);
        let changes = self.words(place)[6].wrapping_add(1);
        let (high, low) = ((row.id >> 64) as u64, row.id as u64);
        self.write(file, place, &[high, low, row.bytes, row.files, row.used, u64::from(row.is_counted), changes])
    }

    /// What a process has taken; `None` where that is damaged.
    pub(super) fn taken(&self, process: usize) -> Option<u64> {
        let row = row_of_process(process);
        self.is_sound(row).then(|| self.words(row)[0])
    }

    pub(super) fn write_taken(&mut self, file: &File, process: usize, bytes: u64) -> io::Result<()> {
        self.write(file, row_of_process(process), &[bytes])
    }

    /// What all processes have taken.
    pub(super) fn taken_in_all(&self) -> u64 {
        self.0[PROCESSES_AT..].iter().step_by(PROCESS_WORDS).fold(0, |sum, taken| sum.saturating_add(*taken))
    }

    /// Cuts off what a file has beyond its rows.
    pub(super) fn trim(file: &File) -> io::Result<()> {
        file.set_len(WORDS as u64 * 8)
    }
}

/// Also of where it is, since rows of one kind look alike.
fn checksum(row: Row, words: &[u64]) -> u64 {
    let mut bytes = [0; ROW_WORDS * 8];
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes[..words.len() * 8], row.at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only ever added to.
    #[test]
    fn ledgers_stay_what_they_are() {
        let file = tempfile::tempfile().expect("a file");
        let mut rows = Rows::read(&file).expect("read");
        assert!(rows.head().is_none() && !rows.knows_set(0) && rows.taken(0).is_none(), "zeros are no rows");
        let head = Head { start: 7, started: 1_750_000_000, changing: Some(2) };
        let row = SetRow { bytes: 8192, files: 2, ..SetRow::empty(1, 5 << 64 | 6, 9) };
        rows.write_head(&file, &head).expect("written");
        rows.write_set(&file, &row).expect("written");
        rows.write_taken(&file, 511, 4096).expect("written");
        Rows::trim(&file).expect("trimmed");
        let rows = Rows::read(&file).expect("read");
        assert_eq!((rows.head(), rows.taken(511), rows.taken_in_all()), (Some(head), Some(4096), 4096));
        assert!(rows.knows_set(1) && !rows.knows_set(0));
        assert_eq!(rows.set(1), Some(SetRow { changes: 1, ..row }));
        let golden = [
            (0, vec![MAGIC, 7, 1_750_000_000, 3, 0, 0, 0, 10_745_111_587_345_399_529]),
            (16, vec![5, 6, 8192, 2, 9, 1, 1, 15_624_008_144_697_282_273]),
            (2054, vec![4096, 12_619_850_098_453_610_949]),
        ];
        for (at, words) in golden {
            assert_eq!(rows.0[at..at + words.len()], words, "row at word {at}");
        }
        assert_eq!(file.metadata().expect("told").len(), 2056 * 8);
    }

    #[test]
    fn a_bit_that_is_flipped_is_seen_in_every_row() {
        let file = tempfile::tempfile().expect("a file");
        let mut rows = Rows::read(&file).expect("read");
        rows.write_head(&file, &Head { start: 7, started: 9, changing: None }).expect("written");
        (0..SETS).for_each(|slot| rows.write_set(&file, &SetRow::empty(slot, 0, 0)).expect("written"));
        (0..PROCESSES).for_each(|process| rows.write_taken(&file, process, 0).expect("written"));
        let unsound = |rows: &Rows| {
            let sets = (0..SETS).filter(|&slot| !rows.knows_set(slot)).count();
            let processes = (0..PROCESSES).filter(|&process| rows.taken(process).is_none()).count();
            sets + processes + usize::from(rows.head().is_none())
        };
        assert_eq!(unsound(&rows), 0);
        for bit in 0..WORDS * 64 {
            rows.0[bit / 64] ^= 1 << (bit % 64);
            let (head, set) = (rows.head().is_none(), (bit / 64 / ROW_WORDS).checked_sub(1));
            let is_seen = match set {
                None => head,
                Some(slot) if slot < SETS => !rows.knows_set(slot),
                Some(_) => rows.taken((bit / 64 - PROCESSES_AT) / PROCESS_WORDS).is_none(),
            };
            assert!(is_seen, "bit {bit}");
            rows.0[bit / 64] ^= 1 << (bit % 64);
        }
    }
}
