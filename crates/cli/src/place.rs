//! The options of every command that takes a URI.

use std::sync::Arc;

use clap::Args;
use headwater::engine::{Engine, uninterrupted};
use headwater::source::{self, Probe, Source, SourceSpec};
use headwater::{Error, ErrorKind, Result};

/// How to reach a source.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source options")]
pub(crate) struct Place {
    /// URL of an S3-compatible server
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long)]
    region: Option<String>,
    /// Profile of ~/.aws to take credentials and region from (S3)
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Storage account (Azure)
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Send unsigned requests
    #[arg(long)]
    anonymous: bool,
    /// Any other option. Command lines are visible to everyone on the machine: leave credentials to the environment
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = name_and_value)]
    options: Vec<(String, String)>,
}

pub(crate) fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it like region=eu-west-1")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Place {
    /// A URI with these options.
    pub(crate) fn spec(&self, uri: &str) -> SourceSpec {
        let mut spec = SourceSpec::from(uri);
        self.options().into_iter().for_each(|(name, value)| spec.options.set(name, value));
        spec
    }

    /// The options that are given, by name.
    pub(crate) fn options(&self) -> Vec<(&str, &str)> {
        let named = [
            ("endpoint", &self.endpoint),
            ("region", &self.region),
            ("profile", &self.profile),
            ("account", &self.account),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let anonymous = self.anonymous.then_some(("anonymous", "true"));
        named.chain(anonymous).chain(self.options.iter().map(|(name, value)| (&**name, &**value))).collect()
    }

    /// Looks at a URI without asking the place.
    pub(crate) fn probe(&self, uri: &str) -> Result<Probe> {
        let spec = self.spec(uri);
        Engine::current()?.block_on("looking at the URI", async move { source::probe(&spec).await }, uninterrupted())?
    }

    /// Opens the source at a URI.
    pub(crate) fn open(&self, uri: &str) -> Result<Arc<dyn Source>> {
        let spec = self.spec(uri);
        Engine::current()?.block_on("opening the source", async move { source::open(&spec).await }, uninterrupted())?
    }

    /// Opens the source that holds an object, and gives the object's key in it.
    pub(crate) fn open_parent(&self, uri: &str) -> Result<(Arc<dyn Source>, String)> {
        let local = source::local_path(uri)?;
        let path = local.as_ref().map(|path| path.to_string_lossy().into_owned());
        let uri = path.as_deref().unwrap_or(uri);
        let (parent, key) = match uri.trim_end_matches('/').rsplit_once('/') {
            Some((parent, key)) if !parent.ends_with('/') || parent.ends_with(":///") => (parent, key),
            Some((_, key)) if uri.starts_with('/') => ("/", key),
            None => (".", uri),
            Some(_) => {
                return Err(
                    Error::new(ErrorKind::Invalid, "inspect", uri).because("give an object, not a whole source")
                );
            }
        };
        let parent = if parent.is_empty() { "/" } else { parent };
        Ok((self.open(parent)?, key.to_owned()))
    }
}
