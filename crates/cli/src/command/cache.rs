//! `headwater cache`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use headwater::cache::disk::care::{Care, Checked, Removed, SetInfo};
use headwater::config::{ByteSize, DatasetConfig, Span};
use headwater::{Error, ErrorKind, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{progress_bar, progress_count};
use crate::{Failure, exit};

/// Look after a disk cache: safe while training uses it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  headwater cache ls /nvme/headwater\n  headwater cache verify headwater.toml\n  \
                        headwater cache gc /nvme/headwater --unused-for 30d --to 500GB\n  \
                        headwater cache clear /nvme/headwater --of s3://bucket/run")]
pub(crate) struct Cache {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What there is, by source
    Ls(Folder),
    /// Read every record and compare its checksum; damaged ones are put aside and fetched again when they are used
    Verify(Folder),
    /// Remove what killed processes left behind, damaged records, and what nobody has used for long
    Gc(Gc),
    /// Remove records
    Clear(Clear),
    /// Which folder a headwater.toml names
    Path(Folder),
}

/// Which cache.
#[derive(Debug, Args)]
struct Folder {
    /// The folder, or a headwater.toml that names it under cache
    #[arg(value_name = "FOLDER", default_value = "headwater.toml")]
    place: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Gc {
    #[command(flatten)]
    folder: Folder,
    /// Sources that no process uses, and of which none has read or added anything for so long, go altogether
    #[arg(long, value_name = "TIME", default_value = "30d")]
    unused_for: Span,
    /// Then the least recently used records go until the rest takes no more than this
    #[arg(long, value_name = "SIZE")]
    to: Option<ByteSize>,
}

#[derive(Debug, Args)]
struct Clear {
    #[command(flatten)]
    folder: Folder,
    /// Only records of this source: its URI, or the name that ls shows
    #[arg(long, value_name = "SOURCE")]
    of: Option<String>,
}

impl Cache {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self.what {
            What::Ls(it) => it.ls(out),
            What::Verify(it) => it.verify(out),
            What::Gc(it) => it.run(out),
            What::Clear(it) => it.run(out),
            What::Path(it) => it.path(out),
        }
    }
}

impl Folder {
    fn root(&self) -> Result<PathBuf> {
        if self.place.extension().is_none_or(|suffix| suffix != "toml") {
            return Ok(self.place.clone());
        }
        let missing =
            |words: &str| Error::new(ErrorKind::Invalid, "find the cache", self.place.display()).because(words);
        if !self.place.exists() && self.place == Path::new("headwater.toml") {
            return Err(missing("there is no such file here: name the cache's folder, or a headwater.toml"));
        }
        let config = DatasetConfig::from_toml_file(&self.place)?;
        config.cache.disk.ok_or_else(|| missing("it names no folder: [cache] has no `disk`"))
    }

    fn open(&self) -> Result<Care> {
        Care::of(&self.root()?)
    }

    fn path(&self, out: &mut impl Write) -> Result<(), Failure> {
        let root = self.absolute()?;
        if self.json {
            return print(out, &json!({"path": root}));
        }
        Ok(writeln!(out, "{}", root.display())?)
    }

    fn absolute(&self) -> Result<PathBuf> {
        let root = self.root()?;
        std::path::absolute(&root).map_err(|cause| Error::io("use path", root.display(), cause))
    }

    fn ls(&self, out: &mut impl Write) -> Result<(), Failure> {
        let care = self.open()?;
        let (sets, bytes) = (care.sets()?, care.bytes()?);
        if self.json {
            let sets: Vec<_> = sets.iter().map(as_json).collect();
            return print(out, &json!({"path": self.absolute()?, "bytes": bytes, "sets": sets}));
        }
        for set in &sets {
            let used = if set.is_used { "in use".to_owned() } else { ago(set.used) };
            writeln!(out, "{:>8}  {:>9} records  {used:<16}  {}", ByteSize(set.bytes), set.records, name(set))?;
        }
        let records: u64 = sets.iter().map(|set| set.records).sum();
        let sources = if sets.len() == 1 { "source" } else { "sources" };
        Ok(writeln!(out, "{:>8}  {records:>9} records  of {} {sources}", ByteSize(bytes), sets.len())?)
    }

    fn verify(&self, out: &mut impl Write) -> Result<(), Failure> {
        let care = self.open()?;
        // Where it can only be read, nobody knows how many there are.
        let sets = care.sets().unwrap_or_default();
        let records = sets.iter().filter(|set| !set.is_quarantine).map(|set| set.records).sum();
        let bar = progress_bar("records checked", records);
        let checked = care.verify(|_| {
            bar.inc(1);
            Ok(())
        });
        bar.finish_and_clear();
        let checked = checked?;
        let unsound = checked.damaged + checked.unreadable;
        // Of this time and of earlier ones.
        let aside: u64 =
            care.sets().unwrap_or(sets).iter().filter(|set| set.is_quarantine).map(|set| set.records).sum();
        if self.json {
            let Checked { records, bytes, damaged, unreadable, put_aside } = checked;
            let found = json!({
                "records": records, "bytes": bytes, "damaged": damaged, "unreadable": unreadable, "put_aside": put_aside,
                "quarantine": aside,
            });
            print(out, &found)?;
        } else {
            let found = match unsound {
                0 => "none is damaged".to_owned(),
                _ => said(&checked),
            };
            writeln!(out, "{} records of {}: {found}", checked.records, ByteSize(checked.bytes))?;
            if aside > 0 {
                writeln!(out, "{aside} damaged ones are there that were put aside; gc removes them")?;
            }
        }
        if unsound > 0 { Err(Failure::Told(exit::BAD_DATA)) } else { Ok(()) }
    }

    fn tell(&self, out: &mut impl Write, removed: Removed) -> Result<(), Failure> {
        if self.json {
            return print(out, &json!({"removed": {"records": removed.records, "bytes": removed.bytes}}));
        }
        Ok(writeln!(out, "removed {} records, {}", removed.records, ByteSize(removed.bytes))?)
    }
}

impl Gc {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let care = self.folder.open()?;
        let bar = progress_count("bytes removed");
        let removed = care.gc(self.unused_for.0, self.to.map(|to| to.0), counting(&bar));
        bar.finish_and_clear();
        self.folder.tell(out, removed?)
    }
}

impl Clear {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let care = self.folder.open()?;
        let bar = progress_count("bytes removed");
        let removed = care.clear(self.of.as_deref(), counting(&bar));
        bar.finish_and_clear();
        self.folder.tell(out, removed?)
    }
}

/// What a check found that was not as it should be.
fn said(checked: &Checked) -> String {
    let &Checked { damaged, unreadable, put_aside, .. } = checked;
    let unsound = damaged + unreadable;
    let found = match (damaged, unreadable) {
        (damaged, 0) => format!("{damaged} were damaged"),
        (0, unreadable) => format!("{unreadable} could not be read"),
        _ => format!("{damaged} were damaged, {unreadable} could not be read"),
    };
    match put_aside {
        0 => format!("{found} and stay where they are"),
        all if all == unsound => format!("{found} and are put aside; they will be fetched again"),
        some => format!("{found}; {some} are put aside and will be fetched again"),
    }
}

fn counting(bar: &ProgressBar) -> impl FnMut(u64) -> Result<()> {
    |bytes| {
        bar.inc(bytes);
        Ok(())
    }
}

fn print(out: &mut impl Write, document: &Value) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    Ok(writeln!(out)?)
}

fn name(set: &SetInfo) -> String {
    let known = set.about.as_ref().map(|about| match &about.endpoint {
        Some(endpoint) => format!("{} at {endpoint}", about.uri),
        None => about.uri.clone(),
    });
    let unknown = if set.is_quarantine { "(damaged, put aside)" } else { "(unknown)" };
    format!("{}  {}", known.as_deref().unwrap_or(unknown), set.id)
}

fn as_json(set: &SetInfo) -> Value {
    let about = set.about.as_ref();
    let used = set.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "id": set.id, "uri": about.map(|about| &about.uri), "endpoint": about.and_then(|about| about.endpoint.as_ref()),
        "quarantine": set.is_quarantine, "bytes": set.bytes, "records": set.records, "used": used, "in_use": set.is_used,
    })
}

fn ago(then: SystemTime) -> String {
    let since = SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    match since {
        0..120 => format!("{since} s ago"),
        120..7_200 => format!("{} min ago", since / 60),
        7_200..172_800 => format!("{} h ago", since / 3_600),
        _ => format!("{} days ago", since / 86_400),
    }
}
