//! `headwater doctor`.
//!
//! Steps go from the machine outwards and back: what the URI means, whether its host answers, who we are to it, what it
//! lists, what it gives and how fast. Each needs what the one before found, so the first that fails is what is wrong, and
//! the rest is skipped. Steps are in [`reach`], [`contents`] and [`speed`], what to do about a failure in [`advice`], and how
//! it all looks in [`report`].

mod advice;
mod contents;
mod reach;
mod report;
mod speed;

use std::io::Write;
use std::time::Duration;

use clap::Args;

use crate::Failure;
use crate::place::Place;
use advice::Adviser;
use report::Report;

/// Longer than anybody waits for a measurement.
const MOST_SECONDS: f64 = 3600.0;

/// Say step by step what works of a source, and what to do where it does not
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headwater doctor s3://bucket/run --endpoint http://localhost:9000\n  headwater doctor hf://datasets/org/name --no-speed --json"
)]
pub(crate) struct Doctor {
    /// Path or URI of the source
    uri: String,
    /// Read for so long to measure speed
    #[arg(long, value_name = "N", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Do not measure speed
    #[arg(long)]
    no_speed: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| (0.1..=MOST_SECONDS).contains(number));
    number.map(Duration::from_secs_f64).ok_or_else(|| format!("write seconds from 0.1 to {MOST_SECONDS}"))
}

impl Doctor {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut report = Report::new(out, self.json, !self.no_speed);
        self.examine(&mut report)?;
        report.end(&self.place.spec(&self.uri).shown_uri())
    }

    /// Ends early where a step found nothing to go on with.
    fn examine(&self, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
        let scheme = self.uri.split_once("://").map_or("", |(scheme, _)| scheme);
        let Some(probe) = report.step("understood", || reach::understood(&self.place, &self.uri))? else {
            return Ok(());
        };
        let adviser = Adviser { scheme, server: probe.server() };
        if let Some(server) = probe.server() {
            let Some(addresses) = report.step("resolved", || reach::resolved(server, scheme))? else { return Ok(()) };
            if report.step("connected", || reach::connected(server, &addresses))?.is_none() {
                return Ok(());
            }
            let probe = probe.clone();
            if report.step("credentials", || reach::credentials(probe, &adviser))?.is_none() {
                return Ok(());
            }
        } else {
            report.leave_out(&["resolved", "connected", "credentials", "range"]);
        }
        let Some(listed) = report.step("listed", || contents::listed(&self.place, &self.uri, &adviser))? else {
            return Ok(());
        };
        let Some(read) = report.step("read", || contents::read(&listed, &adviser))? else { return Ok(()) };
        if probe.server().is_some() {
            report.step("range", || contents::range(&listed.source, &read, &adviser))?;
        }
        if !self.no_speed {
            report.step("speed", || speed::measured(&listed, self.seconds, &adviser))?;
        }
        report.step("decodes", || contents::decodes(&listed.source, &read))?;
        Ok(())
    }
}
