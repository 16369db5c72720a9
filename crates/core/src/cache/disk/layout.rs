//! Names and bytes of the disk tier — normatively `docs/formats.md`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use crate::clock::Moment;
use crate::source::{Edition, Version};

/// The file that says that a folder is one of ours.
pub(super) const MARKER: &str = "HEADWATER-CACHE";
pub(super) const MARKER_TEXT: &str = "headwater cache 1\n";
pub(super) const LOCK: &str = "lock";
pub(super) const LEDGER: &str = "ledger";
pub(super) const SETS: &str = "sets";
pub(super) const ARRIVING: &str = "arriving";
/// The set of what was found damaged: it is counted like any other, and goes first.
pub(super) const QUARANTINE_ID: u128 = 1;
/// Of a set: what it is of.
pub(super) const ABOUT: &str = "about.json";
/// How the file of a record ends.
const SUFFIX: &str = ".hwc";

/// What a file takes on a disk: whole blocks.
pub(super) const BLOCK: u64 = 4096;
/// How a file begins; the last byte is the version of the format.
const MAGIC: [u8; 4] = *b"HWC\x03";
const CHECKSUM_AT: usize = 32;
const HEAD_BYTES: usize = STAMP_AT + STAMP_BYTES;
/// When the record was last known to be the right one. It is written anew in its place, and has a checksum of its own.
pub(super) const STAMP_AT: usize = CHECKSUM_AT + 8;
const STAMP_BYTES: usize = 32;
/// Where the record begins: records want that.
const ALIGNMENT: usize = 64;
/// Longer names and tags than these are not kept.
const LONGEST: usize = 16 << 10;

/// What a file of this many bytes takes.
pub(super) fn footprint(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

/// The name of a set.
pub(super) fn set_id(uri: &str, endpoint: Option<&str>) -> u128 {
    xxh3_128(format!("{uri}\n{}", endpoint.unwrap_or_default()).as_bytes())
}

/// The folder of a set.
pub(super) fn set_folder(root: &Path, id: u128) -> PathBuf {
    root.join(SETS).join(format!("{id:032x}"))
}

/// The sets that have a folder.
pub(super) fn sets(root: &Path) -> io::Result<Vec<u128>> {
    let folders = match fs::read_dir(root.join(SETS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        folders => folders?.flatten(),
    };
    // Other names are nobody's of ours, though they may be numbers.
    let id = |name: &str| u128::from_str_radix(name, 16).ok().filter(|&id| id != 0 && name == format!("{id:032x}"));
    Ok(folders.filter_map(|folder| id(folder.file_name().to_str()?)).collect())
}

pub(super) fn hash_of(key: &str) -> u128 {
    xxh3_128(key.as_bytes())
}

/// The folders that a set's files are spread over.
pub(super) fn shards(set: &Path) -> impl Iterator<Item = PathBuf> {
    (0..=u8::MAX).map(move |shard| set.join(format!("{shard:02x}")))
}

/// The file of an object in its set's folder.
pub(super) fn file_of(set: &Path, hash: u128) -> PathBuf {
    let name = format!("{hash:032x}{SUFFIX}");
    set.join(&name[..2]).join(&name[2..])
}

/// Whether a name in a shard is one of ours.
pub(super) fn is_file_name(name: &str) -> bool {
    name.strip_suffix(SUFFIX)
        .is_some_and(|hash| hash.len() == 30 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// How objects are read as values: raised when the same object is to give another value than before.
const READING: u32 = 0;

/// What stands before a record in its file. `None` where name or tag are longer than anybody's.
pub(super) fn head(key: &str, edition: &Edition, record: &[u8], known: Moment) -> Option<Vec<u8>> {
    let version = encode(&edition.version);
    if key.len() > LONGEST || version.len() > LONGEST {
        return None;
    }
    let mut head = Vec::with_capacity(HEAD_BYTES + key.len() + version.len() + ALIGNMENT);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&(key.len() as u32).to_le_bytes());
    head.extend_from_slice(&(version.len() as u32).to_le_bytes());
    head.extend_from_slice(&READING.to_le_bytes());
    head.extend_from_slice(&(record.len() as u64).to_le_bytes());
    head.extend_from_slice(&edition.size.to_le_bytes());
    head.extend_from_slice(&[0; STAMP_AT - CHECKSUM_AT]);
    head.extend_from_slice(&stamp(known));
    head.extend_from_slice(key.as_bytes());
    head.extend_from_slice(&version);
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    let checksum = checksum(&head, record);
    head[CHECKSUM_AT..STAMP_AT].copy_from_slice(&checksum.to_le_bytes());
    Some(head)
}

/// How a moment is written down.
pub(super) fn stamp(known: Moment) -> [u8; STAMP_BYTES] {
    let nanoseconds = |time: Duration| time.as_nanos() as u64;
    let wall = known.wall.duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
    let mut stamp = [0; STAMP_BYTES];
    for (bytes, word) in stamp.chunks_exact_mut(8).zip([wall, known.boot, nanoseconds(known.since_boot)]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let checksum = xxh3_64(&stamp[..24]);
    stamp[24..].copy_from_slice(&checksum.to_le_bytes());
    stamp
}

/// The moment that was written down; `None` where it is damaged, or just being written.
fn stamped(stamp: &[u8]) -> Option<Moment> {
    let [wall, boot, since_boot, checksum] = stamp.as_chunks().0 else { return None };
    let known = Moment {
        wall: UNIX_EPOCH + Duration::from_nanos(u64::from_le_bytes(*wall)),
        boot: u64::from_le_bytes(*boot),
        since_boot: Duration::from_nanos(u64::from_le_bytes(*since_boot)),
    };
    (xxh3_64(&stamp[..24]).to_le_bytes() == *checksum).then_some(known)
}

/// Whether a file was written by another version, whose files are neither read nor damaged.
pub(super) fn is_of_another_version(beginning: &[u8]) -> bool {
    beginning.get(..4).is_some_and(|magic| magic[..3] == MAGIC[..3] && magic[3] != MAGIC[3])
}

/// What a file says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) key: String,
    pub(super) edition: Edition,
    /// Whether its object would be read as the same value today.
    pub(super) is_read_so: bool,
    /// When it was last known to be the right one.
    pub(super) known: Option<Moment>,
    /// Where the record begins, and ends with the file.
    pub(super) record_at: usize,
}

/// Reads what stands before a record, from the beginning of a file that is `len` bytes long. `None` when it cannot be true.
pub(super) fn parse(beginning: &[u8], len: u64) -> Option<Head> {
    let number = |at: usize| Some(u32::from_le_bytes(beginning.get(at..at + 4)?.try_into().ok()?) as usize);
    if beginning.get(..4)? != MAGIC {
        return None;
    }
    let (key_len, version_len) = (number(4)?, number(8)?);
    if key_len > LONGEST || version_len > LONGEST {
        return None;
    }
    let long = |at: usize| Some(u64::from_le_bytes(beginning.get(at..at + 8)?.try_into().ok()?));
    let record_len = long(16)?;
    let record_at = (HEAD_BYTES + key_len + version_len).next_multiple_of(ALIGNMENT);
    if record_len.checked_add(record_at as u64)? != len {
        return None;
    }
    let key = beginning.get(HEAD_BYTES..HEAD_BYTES + key_len)?;
    let version = beginning.get(HEAD_BYTES + key_len..HEAD_BYTES + key_len + version_len)?;
    let is_read_so = number(12)? == READING as usize;
    let known = stamped(&beginning[STAMP_AT..HEAD_BYTES]);
    let edition = Edition { version: decode(version)?, size: long(24)? };
    Some(Head { key: String::from_utf8(key.to_vec()).ok()?, edition, is_read_so, known, record_at })
}

/// Whether what stands before a record may not have ended with this beginning of its file.
pub(super) fn may_be_longer(beginning: &[u8]) -> bool {
    let number = |at: usize| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|at| beginning[at])) as usize;
    beginning[..4] == MAGIC && HEAD_BYTES + number(4) + number(8) > beginning.len()
}

/// Whether a whole file is what was written.
pub(super) fn is_whole(file: &[u8], record_at: usize) -> bool {
    let Some((head, record)) = file.split_at_checked(record_at) else { return false };
    head.get(CHECKSUM_AT..STAMP_AT).is_some_and(|stored| stored == checksum(head, record).to_le_bytes())
}

/// Makes a file whole again that was written to.
#[cfg(test)]
pub(super) fn reseal(file: &mut [u8]) {
    let record_at = parse(file, file.len() as u64).map_or(HEAD_BYTES, |said| said.record_at);
    let checksum = checksum(&file[..record_at], &file[record_at..]);
    file[CHECKSUM_AT..STAMP_AT].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(head: &[u8], record: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&head[..CHECKSUM_AT]);
    hash.update(&head[HEAD_BYTES..]);
    hash.update(record);
    hash.digest()
}

fn encode(version: &Version) -> Vec<u8> {
    match version {
        Version::Unknown => vec![0],
        Version::Modified(nanoseconds) => [&[1], &nanoseconds.to_le_bytes()[..]].concat(),
        Version::ETag(tag) => [&[2], tag.as_bytes()].concat(),
    }
}

fn decode(bytes: &[u8]) -> Option<Version> {
    match bytes.split_first()? {
        (0, []) => Some(Version::Unknown),
        (1, rest) => Some(Version::Modified(u64::from_le_bytes(rest.try_into().ok()?))),
        (2, rest) => Some(Version::ETag(String::from_utf8(rest.to_vec()).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Moment = Moment { wall: UNIX_EPOCH, boot: 7, since_boot: Duration::from_secs(9) };

    /// Only ever added to.
    #[test]
    fn files_stay_what_they_are() {
        let golden: &[u8] =
            b"HWC\x03\x06\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x84\x03\0\0\0\0\0\0\xe4\x0fW\xf8\xc0[\x09.\
            \0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\x1aq\x18\x02\0\0\0\xdc\x84\x0e\xb7\xab\xd3^\x10a/b.pt\x02\"1\"";
        let edition = Edition { version: Version::ETag("\"1\"".into()), size: 900 };
        let mut file = head("a/b.pt", &edition, b"record", KNOWN).expect("a head");
        file.extend_from_slice(b"record");
        assert_eq!(file.len(), 134);
        assert!(file.starts_with(golden), "{}", file.escape_ascii());
        let first: &[u8] = b"HWC\x01\x06\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\xdcWx\xe7\xe7\x19R-a/b.pt\x02\"1\"";
        let second: &[u8] = b"HWC\x02\x06\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\x006!\xba\xa1\xf502\xdb\
            \0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\x1aq\x18\x02\0\0\0\xdc\x84\x0e\xb7\xab\xd3^\x10a/b.pt\x02\"1\"";
        assert!([first, second].into_iter().all(is_of_another_version) && !is_of_another_version(golden));
        assert_eq!(set_id("s3://bucket/run", Some("http://host:9000")), 0x45c2_4d16_4d41_4d94_f5cc_5620_df7e_1f73);
    }

    #[test]
    fn a_file_says_what_it_is_and_no_damaged_one_is_whole() {
        for version in [Version::Unknown, Version::Modified(7), Version::ETag("\"tag\"".into())] {
            let edition = Edition { version, size: 1 << 40 };
            let mut file = head("folder/x.pt", &edition, b"the record", KNOWN).expect("a head");
            file.extend_from_slice(b"the record");
            let said = parse(&file, file.len() as u64).expect("one of ours");
            assert_eq!(
                (&*said.key, &said.edition, said.known, &file[said.record_at..]),
                ("folder/x.pt", &edition, Some(KNOWN), &b"the record"[..])
            );
            assert!(is_whole(&file, said.record_at));
            for cut in 0..file.len() {
                assert_eq!(parse(&file[..cut], cut as u64), None, "cut at {cut}");
            }
            for bit in 0..file.len() * 8 {
                let mut flipped = file.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let said = parse(&flipped, flipped.len() as u64);
                // Where it says since when, nobody knows since when.
                let is_known = said.as_ref().is_some_and(|said| said.known.is_some());
                let is_whole = said.is_some_and(|said| is_whole(&flipped, said.record_at));
                let is_stamp = (STAMP_AT..HEAD_BYTES).contains(&(bit / 8));
                assert!(is_whole == is_stamp && !(is_known && is_whole), "bit {bit}");
            }
        }
        let of = |version| Edition { version, size: 0 };
        assert_eq!(head(&"x".repeat(LONGEST + 1), &of(Version::Unknown), b"", KNOWN), None);
        assert!(head(&"x".repeat(LONGEST), &of(Version::ETag("x".repeat(LONGEST - 1))), b"", KNOWN).is_some());
    }
}
