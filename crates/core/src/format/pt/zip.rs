//! The zip around a `.pt`: stored entries of an archive that lies in memory.
//!
//! Only what torch writes is read: uncompressed entries, with zip64 fields where they are large. The central directory is
//! the authority; local headers must agree with it, and no two entries may share a byte.

use std::ops::Range;

use super::corrupt;
use crate::error::{Error, ErrorKind, Result};

pub(super) const LOCAL_SIGNATURE: &[u8] = b"PK\x03\x04";
const CENTRAL_SIGNATURE: &[u8] = b"PK\x01\x02";
const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const END64_SIGNATURE: &[u8] = b"PK\x06\x06";
const LOCATOR64_SIGNATURE: &[u8] = b"PK\x06\x07";
const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR64_LEN: usize = 20;
/// A comment is at most this long.
const MAX_COMMENT: usize = 0xFFFF;
const ZIP64_EXTRA: u16 = 1;
const ENCRYPTED: u16 = 1;

/// An archive's entries, sorted by name.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry<'a>>,
    /// torch can be told to write no checksums; they are all zero then, which no damage brings about.
    has_checksums: bool,
}

/// One stored entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    name: &'a [u8],
    checksum: u32,
    header: usize,
    /// Where its content begins in the archive.
    pub(super) start: usize,
    /// Length of its content.
    pub(super) len: usize,
}

impl<'a> Archive<'a> {
    /// Reads and checks the directory.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self> {
        let (directory, count) = find_directory(bytes)?;
        let end = directory.start;
        let mut fields = Fields { bytes: &bytes[..directory.end], at: directory.start };
        let mut entries = Vec::with_capacity(count.min(directory.len() / CENTRAL_LEN));
        while fields.at < directory.end {
            entries.push(central_entry(&mut fields)?);
        }
        if entries.len() != count {
            return Err(corrupt("zip directory", format_args!("it has {} entries instead of {count}", entries.len())));
        }
        for entry in &mut entries {
            locate(bytes, entry, end)?;
        }
        refuse_overlaps(&mut entries)?;
        entries.sort_unstable_by_key(|entry| entry.name);
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(corrupt(pair[0].shown(), "the zip has two entries of that name"));
        }
        let has_checksums = entries.iter().any(|entry| entry.checksum != 0);
        Ok(Self { bytes, entries, has_checksums })
    }

    /// The folder, with its slash, of the only entry called `folder/name`.
    pub(super) fn folder_of(&self, name: &str) -> Result<&'a str> {
        let mut found = self.entries.iter().filter_map(|entry| {
            let folder = str::from_utf8(entry.name).ok()?.strip_suffix(name)?;
            (folder.len() > 1 && folder.find('/') == Some(folder.len() - 1)).then_some(folder)
        });
        match (found.next(), found.next()) {
            (Some(folder), None) => Ok(folder),
            (None, _) => Err(Error::new(ErrorKind::Unsupported, "read", "zip archive")
                .because(format_args!("it holds no `{name}`, so torch did not write it"))),
            _ => Err(corrupt(name, "the zip holds several")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry<'a>> {
        let found = self.entries.binary_search_by_key(&name.as_bytes(), |entry| entry.name);
        found.ok().map(|at| &self.entries[at])
    }

    pub(super) fn require(&self, name: &str) -> Result<&Entry<'a>> {
        self.get(name).ok_or_else(|| corrupt(name.escape_debug(), "the zip holds no such entry"))
    }

    /// An entry's content, after its checksum was found right.
    pub(super) fn read(&self, entry: &Entry<'a>) -> Result<&'a [u8]> {
        let content = &self.bytes[entry.start..entry.start + entry.len];
        if self.has_checksums && crc32fast::hash(content) != entry.checksum {
            return Err(corrupt(
                entry.shown(),
                format_args!("checksum mismatch in the {} bytes from offset {}", entry.len, entry.start),
            ));
        }
        Ok(content)
    }
}

impl Entry<'_> {
    fn shown(&self) -> String {
        String::from_utf8_lossy(self.name).escape_debug().collect()
    }
}

/// Where the central directory lies, and how many entries it says it has.
fn find_directory(bytes: &[u8]) -> Result<(Range<usize>, usize)> {
    let last = bytes.len().checked_sub(END_LEN).ok_or_else(|| corrupt("zip archive", "it is cut off"))?;
    let first = last.saturating_sub(MAX_COMMENT);
    let end = (first..=last)
        .rev()
        .find(|&at| bytes[at..].starts_with(END_SIGNATURE))
        .ok_or_else(|| corrupt("zip archive", "its end is missing: the file is cut off"))?;
    let mut fields = Fields { bytes, at: end + 4 };
    let (disk, directory_disk) = (fields.u16()?, fields.u16()?);
    let (_, count) = (fields.u16()?, fields.u16()?);
    let (size, offset) = (fields.u32()?, fields.u32()?);
    if disk != directory_disk {
        return Err(Error::new(ErrorKind::Unsupported, "read", "zip archive").because("it has several parts"));
    }
    let (size, offset, count, limit) = if count == 0xFFFF || size == u32::MAX || offset == u32::MAX {
        let (size, offset, count, at) = find_directory64(bytes, end)?;
        (size, offset, count, at)
    } else {
        (u64::from(size), u64::from(offset), u64::from(count), end)
    };
    let range =
        offset.checked_add(size).filter(|&stop| stop <= limit as u64).map(|stop| offset as usize..stop as usize);
    let range = range.ok_or_else(|| corrupt("zip directory", "it does not lie within the file"))?;
    Ok((range, usize::try_from(count).unwrap_or(usize::MAX)))
}

fn find_directory64(bytes: &[u8], end: usize) -> Result<(u64, u64, u64, usize)> {
    let locator = end.checked_sub(LOCATOR64_LEN).filter(|&at| bytes[at..].starts_with(LOCATOR64_SIGNATURE));
    let missing = || corrupt("zip archive", "its zip64 directory is missing");
    let mut fields = Fields { bytes, at: locator.ok_or_else(missing)? + 8 };
    let at =
        usize::try_from(fields.u64()?).ok().filter(|&at| at.checked_add(END64_LEN).is_some_and(|stop| stop <= end));
    let at = at.filter(|&at| bytes[at..].starts_with(END64_SIGNATURE)).ok_or_else(missing)?;
    let mut fields = Fields { bytes, at: at + 32 };
    let (count, size, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    Ok((size, offset, count, at))
}

fn central_entry<'a>(fields: &mut Fields<'a>) -> Result<Entry<'a>> {
    let begin = fields.at;
    if fields.take(4)? != CENTRAL_SIGNATURE {
        return Err(corrupt("zip directory", format_args!("no entry at offset {begin}")));
    }
    fields.at += 4; // versions
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.at += 4; // time and date
    let checksum = fields.u32()?;
    let (mut packed, mut len) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (name_len, extra_len, comment_len) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.at += 8; // disk and attributes
    let mut header = u64::from(fields.u32()?);
    let name = fields.take(usize::from(name_len))?;
    let extra = fields.take(usize::from(extra_len))?;
    fields.take(usize::from(comment_len))?;
    widen(extra, [&mut len, &mut packed, &mut header])?;
    let name_shown = || String::from_utf8_lossy(name).escape_debug().to_string();
    if method != 0 || flags & ENCRYPTED != 0 {
        return Err(Error::new(ErrorKind::Unsupported, "read", name_shown()).because(format_args!(
            "the entry is compressed or encrypted (method {method}); torch stores its entries"
        )));
    }
    if packed != len {
        return Err(corrupt(name_shown(), "a stored entry has two lengths"));
    }
    let fits = |number: u64| usize::try_from(number).map_err(|_| corrupt(name_shown(), "a length is absurd"));
    Ok(Entry { name, checksum, header: fits(header)?, start: 0, len: fits(len)? })
}

/// Takes 64-bit values for the fields that say they are elsewhere, in the order the format gives them.
fn widen(extra: &[u8], numbers: [&mut u64; 3]) -> Result<()> {
    let mut fields = Fields { bytes: extra, at: 0 };
    while fields.at + 4 <= extra.len() {
        let (id, len) = (fields.u16()?, usize::from(fields.u16()?));
        let mut body = Fields { bytes: fields.take(len)?, at: 0 };
        if id == ZIP64_EXTRA {
            for number in numbers.into_iter().filter(|number| **number == u64::from(u32::MAX)) {
                *number = body.u64()?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Finds an entry's content behind its local header, before the directory.
fn locate(bytes: &[u8], entry: &mut Entry<'_>, directory: usize) -> Result<()> {
    let outside = |entry: &Entry<'_>| corrupt(entry.shown(), "the entry does not lie within the file");
    let body = bytes.get(..directory).unwrap_or_default();
    let mut fields = Fields { bytes: body, at: entry.header };
    if fields.take(4).ok() != Some(LOCAL_SIGNATURE) {
        return Err(outside(entry));
    }
    fields.at = entry.header + LOCAL_LEN - 4;
    let (name_len, extra_len) = (fields.u16()?, fields.u16()?);
    if fields.take(usize::from(name_len))? != entry.name {
        return Err(corrupt(entry.shown(), "directory and local header disagree about its name"));
    }
    fields.take(usize::from(extra_len))?;
    entry.start = fields.at;
    fields.take(entry.len).map(drop).map_err(|_| outside(entry))
}

fn refuse_overlaps(entries: &mut [Entry<'_>]) -> Result<()> {
    entries.sort_unstable_by_key(|entry| entry.header);
    match entries.windows(2).find(|pair| pair[0].start + pair[0].len > pair[1].header) {
        None => Ok(()),
        Some(pair) => Err(corrupt(pair[1].shown(), "two entries of the zip overlap")),
    }
}

/// Little-endian fields in a row.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| corrupt("zip archive", format_args!("it is cut off at offset {}", self.at)))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
