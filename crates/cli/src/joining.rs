//! The options of every command that takes a dataset.

use std::path::Path;

use clap::Args;
use headwater::config::{DatasetConfig, Replicas};
use headwater::manifest::OnMissing;
use headwater::{Error, ErrorKind, Result};

use crate::place::{Place, name_and_value};

/// How objects at a place become samples.
#[derive(Debug, Args)]
pub(crate) struct Joining {
    /// Pattern of a field's file names, with one * for the key
    #[arg(long = "pair", value_name = "FIELD=PATTERN", value_parser = name_and_value)]
    pairs: Vec<(String, String)>,
    /// Leave out samples that lack an object, instead of failing
    #[arg(long)]
    skip_missing: bool,
}

impl Joining {
    /// The dataset at a path or URI, or the one that a headwater.toml describes.
    pub(crate) fn config(&self, uri: &str, place: &Place) -> Result<DatasetConfig> {
        if Path::new(uri).extension().is_some_and(|suffix| suffix == "toml") {
            self.refuse("a headwater.toml says that itself")?;
            return DatasetConfig::from_toml_file(Path::new(uri));
        }
        let on_missing = if self.skip_missing { OnMissing::Skip } else { OnMissing::Error };
        let source = Some(Replicas::from(place.spec(uri)));
        Ok(DatasetConfig {
            source,
            pairs: self.pairs.iter().cloned().collect(),
            on_missing,
            ..DatasetConfig::default()
        })
    }

    /// Fails when one of the options is given where none has a meaning.
    pub(crate) fn refuse(&self, reason: &str) -> Result<()> {
        let given = [("--pair", !self.pairs.is_empty()), ("--skip-missing", self.skip_missing)];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Error::new(ErrorKind::Invalid, "use option", name).because(reason)),
            None => Ok(()),
        }
    }
}
