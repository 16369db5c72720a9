//! From one listing per field to the samples that have them all.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::strings::Strings;
use super::versions::Versions;
use super::{Field, KeyPattern, Listing, Manifest};
use crate::error::{Error, ErrorKind, Result};

/// How many missing objects are named.
const EXAMPLES: usize = 5;

/// What to do when a sample lacks a field's object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// Refuse to open the dataset and name the first few.
    #[default]
    Error,
    /// Leave the sample out, and count it.
    Skip,
}

/// One field of the join.
#[derive(Debug)]
pub struct FieldListing<'a> {
    /// Name of the field.
    pub name: Arc<str>,
    /// The source's URI, for messages.
    pub uri: &'a str,
    /// Folder of the field's objects below the source: empty, or ending in a slash.
    pub folder: String,
    /// Where the key is in their names.
    pub pattern: KeyPattern,
    /// What the source holds.
    pub listing: &'a Listing,
}

/// Objects that samples lack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// How many, over all fields.
    pub count: u64,
    /// The first few, as `field: key`.
    pub examples: Vec<String>,
}

/// The manifest, and what was left out on the way.
#[derive(Debug)]
pub struct Joined {
    /// The manifest.
    pub manifest: Manifest,
    /// Compressed objects that were passed over because the plain one exists too.
    pub shadowed: u64,
    /// Objects in the field's folder whose name does not match its pattern.
    pub unmatched: u64,
}

/// Joins the fields by key. `stem` takes format and compression suffixes off an object key.
///
/// # Errors
/// `NotFound` when a field has no object, no key is in all fields, or (with [`OnMissing::Error`]) one is not;
/// `Invalid` when two objects of a field claim one key.
pub fn join(fields: &[FieldListing<'_>], on_missing: OnMissing, stem: fn(&str) -> &str) -> Result<Joined> {
    let columns = fields.iter().map(|field| Column::new(field, stem)).collect::<Result<Vec<_>>>()?;
    let mut keys = Strings::default();
    let mut missing = Missing::default();
    let mut picked: Vec<Vec<u32>> = vec![Vec::new(); columns.len()];
    let mut cursors = vec![0_usize; columns.len()];
    let mut present = Vec::with_capacity(columns.len());
    while let Some(key) = columns.iter().zip(&cursors).filter_map(|(column, &at)| column.key(at)).min() {
        present.clear();
        present.extend(columns.iter().zip(&cursors).map(|(column, &at)| column.key(at) == Some(key)));
        if present.iter().all(|&present| present) {
            keys.push(key);
            for ((rows, column), &at) in picked.iter_mut().zip(&columns).zip(&cursors) {
                rows.push(column.rows[at]);
            }
        } else {
            missing.note(fields, present.iter().copied(), key);
        }
        for (at, &present) in cursors.iter_mut().zip(&present) {
            *at += usize::from(present);
        }
    }
    check(fields, &columns, &missing, keys.len(), on_missing)?;
    keys.shrink();
    let made = fields.iter().zip(&picked).map(|(field, rows)| make_field(field, rows, stem)).collect::<Result<_>>()?;
    Ok(Joined {
        manifest: Manifest::new(keys, made, missing),
        shadowed: columns.iter().map(|column| column.shadowed).sum(),
        unmatched: columns.iter().map(|column| column.unmatched).sum(),
    })
}

/// A field's rows in the order of their keys.
struct Column {
    keys: Strings,
    rows: Vec<u32>,
    shadowed: u64,
    unmatched: u64,
}

impl Column {
    fn new(field: &FieldListing<'_>, stem: fn(&str) -> &str) -> Result<Self> {
        let mut unmatched = 0;
        let mut found: Vec<(Cow<'_, str>, u32)> = Vec::new();
        for (row, object) in field.listing.keys().enumerate() {
            let Some(inner) = object.strip_prefix(&*field.folder) else { continue };
            match field.pattern.key_in(stem(inner)) {
                Some(key) => found.push((key, row as u32)),
                None => unmatched += 1,
            }
        }
        if found.is_empty() {
            return Err(nothing_found(field, unmatched));
        }
        found.sort_unstable();
        let mut column = Self { keys: Strings::default(), rows: Vec::new(), shadowed: 0, unmatched };
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            column.rows.push(plainest(field, group, stem)?);
            column.keys.push(&group[0].0);
            column.shadowed += group.len() as u64 - 1;
        }
        Ok(column)
    }

    fn key(&self, at: usize) -> Option<&str> {
        self.keys.get(at)
    }
}

/// The one object that stands for a key: `x.pt` rather than `x.pt.zst`.
fn plainest(field: &FieldListing<'_>, group: &[(Cow<'_, str>, u32)], stem: fn(&str) -> &str) -> Result<u32> {
    let object = |row: u32| field.listing.keys.get(row as usize).unwrap_or_default();
    let plain = group.iter().map(|&(_, row)| row).min_by_key(|&row| object(row).len()).unwrap_or_default();
    match group.iter().map(|&(_, row)| object(row)).find(|other| !other.starts_with(object(plain))) {
        None => Ok(plain),
        Some(other) => Err(Error::new(ErrorKind::Invalid, "join", field.uri).because(format_args!(
            "`{}` and `{other}` both claim key `{}` of field `{}`; move one of them away",
            object(plain),
            stem(object(plain)),
            field.name
        ))),
    }
}

impl Missing {
    fn note(&mut self, fields: &[FieldListing<'_>], present: impl Iterator<Item = bool>, key: &str) {
        for (field, _) in fields.iter().zip(present).filter(|(_, present)| !present) {
            self.count += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(format!("{}: {key}", field.name));
            }
        }
    }
}

fn make_field(field: &FieldListing<'_>, rows: &[u32], stem: fn(&str) -> &str) -> Result<Field> {
    let mut made = Field {
        name: field.name.clone(),
        folder: field.folder.clone(),
        pattern: field.pattern.clone(),
        suffixes: Vec::new(),
        suffix_of: Vec::with_capacity(rows.len()),
        sizes: Vec::with_capacity(rows.len()),
        versions: Versions::default(),
    };
    for row in rows.iter().map(|&row| row as usize) {
        let object = field.listing.keys.get(row).unwrap_or_default();
        let suffix = &object[stem(object).len()..];
        let number = made.suffixes.iter().position(|known| known == suffix).unwrap_or_else(|| {
            made.suffixes.push(suffix.to_owned());
            made.suffixes.len() - 1
        });
        made.suffix_of.push(u8::try_from(number).map_err(|_| too_many_suffixes(field))?);
        made.sizes.push(field.listing.sizes[row]);
        made.versions.push_encoded(field.listing.versions.encoded(row));
    }
    made.versions.shrink();
    Ok(made)
}

fn check(
    fields: &[FieldListing<'_>],
    columns: &[Column],
    missing: &Missing,
    samples: usize,
    on_missing: OnMissing,
) -> Result<()> {
    let names: Vec<_> = fields.iter().map(|field| &*field.name).collect();
    if samples == 0 {
        let mut reason = String::from("no key is in all of them");
        for (field, column) in fields.iter().zip(columns) {
            let _ = write!(reason, "; first key of `{}`: `{}`", field.name, column.key(0).unwrap_or_default());
        }
        reason.push_str("; if names differ, say where the key is, for example pairs = {latents: \"latent_*\"}");
        return Err(Error::new(ErrorKind::NotFound, "join fields", names.join("`, `")).because(reason));
    }
    if missing.count > 0 && on_missing == OnMissing::Error {
        let more = missing.count - missing.examples.len() as u64;
        let mut list = missing.examples.join(", ");
        if more > 0 {
            let _ = write!(list, " and {more} more");
        }
        return Err(Error::new(ErrorKind::NotFound, "join fields", names.join("`, `")).because(format_args!(
            "{} objects are missing ({list}); add them, or leave those samples out with on_missing = \"skip\"",
            missing.count
        )));
    }
    Ok(())
}

fn nothing_found(field: &FieldListing<'_>, unmatched: u64) -> Error {
    let what = if unmatched > 0 {
        format!("none of its {unmatched} objects matches pattern `{}`", field.pattern)
    } else {
        format!("it holds no object of a known format ({} others were passed over)", field.listing.ignored)
    };
    let place = format!("{}/{}", field.uri, field.folder);
    Error::new(ErrorKind::NotFound, "find samples in", place.trim_end_matches('/')).because(what)
}

fn too_many_suffixes(field: &FieldListing<'_>) -> Error {
    Error::new(ErrorKind::Unsupported, "join", field.uri).because("its objects have over 256 different suffixes")
}
