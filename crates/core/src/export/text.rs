//! The text that Prometheus scrapes: `OpenMetrics` 1.0, or its own format 0.0.4 for who does not know that.
//!
//! One family after the other, in the order of the tables, each with what all targets have of it, as both formats want it.

use std::fmt::{self, Display, Write};

use crate::metrics::{
    FAMILIES, METRICS, MetricInfo, MetricKind, Number, Snapshot, SourceSnapshot, Spread, TIMINGS, Timing,
};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus's own, 0.0.4.
    Prometheus,
}

impl Exposition {
    /// What is written for somebody who sends this `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Figures, and the labels that tell them from others.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name and value of each.
    pub labels: Vec<(&'static str, String)>,
    /// The figures.
    pub snapshot: Snapshot,
}

/// The text of all targets.
pub fn write(targets: &[Target], exposition: Exposition) -> String {
    let mut text = Text { out: String::new(), exposition };
    // Writing to a string cannot fail.
    let _ = text.write_all(targets);
    text.out
}

struct Text {
    out: String,
    exposition: Exposition,
}

/// Labels of one sample.
type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Text {
    fn write_all(&mut self, targets: &[Target]) -> fmt::Result {
        for (at, info) in METRICS.iter().enumerate() {
            if METRICS[..at].iter().all(|other| other.family != info.family) {
                let family: Vec<_> = METRICS.iter().filter(|other| other.family == info.family).collect();
                self.write_family(&family, targets)?;
            }
        }
        for (info, timing) in TIMINGS.iter().zip(Timing::ALL) {
            self.write_head(info.name, "histogram", info.help)?;
            for target in targets {
                if !info.is_of_sources {
                    self.write_spread(info.name, &labels_of(target), target.snapshot.spread(timing))?;
                    continue;
                }
                for source in target.snapshot.sources() {
                    let labels = with(labels_of(target), "source", source.name());
                    self.write_spread(info.name, &labels, source.spread(timing))?;
                }
            }
        }
        if self.exposition == Exposition::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        Ok(())
    }

    fn write_family(&mut self, rows: &[&'static MetricInfo], targets: &[Target]) -> fmt::Result {
        let [first, ..] = rows else { return Ok(()) };
        let kind = match first.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let help = FAMILIES.iter().find(|(family, _)| *family == first.family).map_or(first.help, |(_, help)| help);
        self.write_head(first.family, kind, help)?;
        for target in targets {
            for row in rows {
                let labels: Labels<'_> = labels_of(target).into_iter().chain(row.label).collect();
                if row.is_of_sources {
                    for source in target.snapshot.sources() {
                        self.write_of_source(row, &with(labels.clone(), "source", source.name()), source)?;
                    }
                } else {
                    let number =
                        target.snapshot.iter().find(|(info, _)| info.name == row.name).map(|(_, number)| number);
                    self.write_sample(row.family, &labels, number.unwrap_or(Number::Whole(0)))?;
                }
            }
        }
        Ok(())
    }

    fn write_of_source(&mut self, row: &MetricInfo, labels: &Labels<'_>, source: &SourceSnapshot) -> fmt::Result {
        if row.is_by_kind() {
            return source.errors().iter().try_for_each(|(kind, count)| {
                self.write_sample(row.family, &with(labels.clone(), "kind", kind.name()), Number::Whole(*count))
            });
        }
        let number = source.iter().find(|(info, _)| info.name == row.name).map(|(_, number)| number);
        self.write_sample(row.family, labels, number.unwrap_or(Number::Whole(0)))
    }

    fn write_head(&mut self, family: &str, kind: &str, help: &str) -> fmt::Result {
        // `OpenMetrics` names a counter without its suffix here.
        let name = match self.exposition {
            Exposition::OpenMetrics => family.strip_suffix("_total").unwrap_or(family),
            Exposition::Prometheus => family,
        };
        writeln!(self.out, "# HELP headwater_{name} {}\n# TYPE headwater_{name} {kind}", Escaped(help, false))
    }

    fn write_sample(&mut self, name: &str, labels: &Labels<'_>, number: Number) -> fmt::Result {
        write!(self.out, "headwater_{name}")?;
        self.write_labels(labels)?;
        match number {
            Number::Whole(count) => writeln!(self.out, " {count}"),
            Number::Seconds(seconds) => writeln!(self.out, " {seconds}"),
        }
    }

    fn write_spread(&mut self, name: &str, labels: &Labels<'_>, spread: &Spread) -> fmt::Result {
        let count = spread.count();
        let bounds = spread.cumulated().map(|(bound, below)| ((bound as f64 / 1e9).to_string(), below));
        for (bound, below) in bounds.chain([("+Inf".to_owned(), count)]) {
            let labels = with(labels.clone(), "le", &bound);
            self.write_sample(&format!("{name}_bucket"), &labels, Number::Whole(below))?;
        }
        self.write_sample(&format!("{name}_sum"), labels, Number::Seconds(spread.sum() as f64 / 1e9))?;
        self.write_sample(&format!("{name}_count"), labels, Number::Whole(count))
    }

    fn write_labels(&mut self, labels: &Labels<'_>) -> fmt::Result {
        for (at, (name, value)) in labels.iter().enumerate() {
            write!(self.out, "{}{name}=\"{}\"", if at == 0 { '{' } else { ',' }, Escaped(value, true))?;
        }
        if labels.is_empty() { Ok(()) } else { self.out.write_char('}') }
    }
}

fn labels_of(target: &Target) -> Labels<'_> {
    target.labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn with<'a>(mut labels: Labels<'a>, name: &'a str, value: &'a str) -> Labels<'a> {
    labels.push((name, value));
    labels
}

/// A text with what ends a line or, of a label, its value.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if self.1 => f.write_str("\\\""),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::metrics::{Metric, Metrics};

    fn targets() -> Vec<Target> {
        let metrics = Metrics::default();
        metrics.record(&[(Metric::StallSource, 1_500_000_000), (Metric::CacheHits, 3), (Metric::DiskHits, 4)]);
        metrics.time(Timing::Wait, 5_000_000, 2);
        let source = metrics.of_source("s3://bucket/a \"b\"\\c");
        source.record(&[(Metric::SourceRequests, 7)]);
        source.failed(ErrorKind::Timeout);
        source.time(Timing::Request, 30_000_000);
        vec![Target { labels: vec![("rank", "1".to_owned())], snapshot: metrics.snapshot() }]
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
    }

    #[test]
    fn families_have_labels_and_sources_are_told_apart() {
        let text = write(&targets(), Exposition::OpenMetrics);
        for line in [
            "# TYPE headwater_loader_stall_seconds counter",
            r#"headwater_loader_stall_seconds_total{rank="1",stage="source"} 1.5"#,
            r#"headwater_loader_stall_seconds_total{rank="1",stage="decode"} 0"#,
            r#"headwater_cache_hits_total{rank="1",tier="memory"} 3"#,
            r#"headwater_cache_hits_total{rank="1",tier="disk"} 4"#,
            r#"headwater_source_requests_total{rank="1",source="s3://bucket/a \"b\"\\c"} 7"#,
            r#"headwater_source_errors_total{rank="1",source="s3://bucket/a \"b\"\\c",kind="timeout"} 1"#,
            r#"headwater_loader_wait_seconds_bucket{rank="1",le="0.004194304"} 0"#,
            r#"headwater_loader_wait_seconds_bucket{rank="1",le="0.008388608"} 2"#,
            r#"headwater_loader_wait_seconds_bucket{rank="1",le="+Inf"} 2"#,
            r#"headwater_loader_wait_seconds_sum{rank="1"} 0.01"#,
            r#"headwater_loader_wait_seconds_count{rank="1"} 2"#,
            r#"headwater_source_request_seconds_count{rank="1",source="s3://bucket/a \"b\"\\c"} 1"#,
        ] {
            has(&text, line);
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn each_family_stands_in_one_place() {
        let text = write(&[targets(), targets()].concat(), Exposition::OpenMetrics);
        let heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let unique: std::collections::BTreeSet<_> = heads.iter().collect();
        assert_eq!(heads.len(), unique.len());
    }

    #[test]
    fn prometheus_own_format_names_counters_whole() {
        let text = write(&targets(), Exposition::accepted("text/plain"));
        has(&text, "# TYPE headwater_loader_stall_seconds_total counter");
        assert!(!text.contains("# EOF"));
        assert_eq!(Exposition::accepted("application/openmetrics-text;version=1.0.0,*/*"), Exposition::OpenMetrics);
    }
}
