//! What was simulated, for people and for programs.

use std::io::{self, Write};
use std::iter;

use headwater::config::ByteSize;
use headwater::simulate::{Epoch, Outcome, Plan, Sizes};
use serde_json::{Value as Json, json};

use crate::Failure;

/// A plan and what became of it under other policies and with other disks.
pub(super) struct Report<'a> {
    pub(super) sizes: &'a Sizes,
    pub(super) plan: &'a Plan,
    pub(super) policy_name: &'a str,
    /// By policy.
    pub(super) policies: Vec<(&'a str, &'a Outcome)>,
    /// By bytes of disk per node, under the plan's policy.
    pub(super) disks: Vec<(u64, &'a Outcome)>,
}

impl Report<'_> {
    pub(super) fn text(&self, out: &mut impl Write) -> Result<(), Failure> {
        self.assumed(out)?;
        self.by_policy(out)?;
        self.by_disk(out)?;
        Ok(self.filling(out)?)
    }

    fn assumed(&self, out: &mut impl Write) -> io::Result<()> {
        let (plan, sizes) = (self.plan, self.sizes);
        writeln!(
            out,
            "dataset   {} of {}, {} stored, {} when all is kept (ratio {})",
            counted(sizes.samples(), "sample"),
            counted(sizes.objects_per_sample() as u64, "object"),
            ByteSize(sizes.stored_bytes()),
            ByteSize(plan.packed_bytes(sizes)),
            plan.ratio
        )?;
        writeln!(
            out,
            "cluster   {} of {}; {} of memory per rank, {} of disk per node",
            counted(plan.nodes as u64, "node"),
            counted(plan.ranks_per_node as u64, "rank"),
            ByteSize(plan.memory_bytes),
            ByteSize(plan.disk_bytes)
        )?;
        let order = if plan.shuffle { "a new order every epoch" } else { "in the order of keys" };
        writeln!(out, "training  {} epochs, {order}, batches of {}", plan.epochs, plan.batch_size)?;
        if self.walked_samples() < sizes.samples() {
            let walked = grouped(self.walked_samples());
            writeln!(out, "          {walked} of the samples stand for all, with memory and disk to match")?;
        }
        Ok(())
    }

    fn by_policy(&self, out: &mut impl Write) -> io::Result<()> {
        let nodes = self.plan.nodes as u64;
        let row = |(name, outcome): &(&str, &Outcome)| {
            let Outcome { usual, memory_kept_bytes, disk_kept_bytes, .. } = outcome;
            vec![
                (*name).to_owned(),
                percent(usual.reuse()),
                percent(usual.memory_reuse),
                percent(usual.disk_reuse),
                read(usual.bytes / nodes, usual.requests / nodes),
                read(usual.bytes, usual.requests),
                ByteSize(*memory_kept_bytes).to_string(),
                ByteSize(*disk_kept_bytes).to_string(),
                filling(outcome),
            ]
        };
        let head = ["policy", "reuse", "in memory", "on disk", "read per node", "read in all", "memory", "disk"];
        writeln!(out, "\nper epoch: reuse, bytes read (requests), and what a node's memory and disk hold in the end")?;
        table(out, &head, self.policies.iter().map(row))?;
        let Some(first) = self.policies.first().and_then(|(_, outcome)| outcome.epochs.first()) else { return Ok(()) };
        let (bytes, requests) = (ByteSize(first.bytes), grouped(first.requests));
        writeln!(out, "besides, the first epoch reads everything: {bytes} in {requests} requests")
    }

    fn by_disk(&self, out: &mut impl Write) -> io::Result<()> {
        let everything = self.plan.packed_bytes(self.sizes);
        let remark = |disk: u64| match self.plan.disk_bytes {
            planned if planned == disk => "as planned  ",
            planned if planned > everything && disk == everything => "less than is planned  ",
            _ => "",
        };
        let row = |(disk, outcome): &(u64, &Outcome)| {
            vec![
                ByteSize(*disk).to_string(),
                percent(*disk as f64 / everything as f64),
                percent(outcome.usual.reuse()),
                read(outcome.usual.bytes, outcome.usual.requests),
                format!("{}{}", remark(*disk), filling(outcome)),
            ]
        };
        writeln!(out, "\nper epoch with other disks, policy {}", self.policy_name)?;
        table(out, &["disk per node", "of the dataset", "reuse", "read in all"], self.disks.iter().map(row))
    }

    fn filling(&self, out: &mut impl Write) -> io::Result<()> {
        let mut outcomes = self.policies.iter().map(|(_, it)| it).chain(self.disks.iter().map(|(_, it)| it));
        if outcomes.any(|outcome| outcome.is_filling) {
            writeln!(out, "\n* still filling: this is epoch {}, later ones reuse more", self.plan.epochs)?;
        }
        Ok(())
    }

    fn walked_samples(&self) -> u64 {
        self.policies.first().map_or(0, |(_, outcome)| outcome.walked_samples)
    }

    pub(super) fn json(&self, out: &mut impl Write) -> Result<(), Failure> {
        let (plan, sizes) = (self.plan, self.sizes);
        let policies: Vec<_> = self.policies.iter().map(|(name, it)| self.of("policy", &json!(name), it)).collect();
        let disks: Vec<_> = self.disks.iter().map(|(disk, it)| self.of("disk_bytes", &json!(disk), it)).collect();
        let document = json!({
            "samples": sizes.samples(), "objects_per_sample": sizes.objects_per_sample(), "bytes": sizes.stored_bytes(),
            "packed_bytes": plan.packed_bytes(sizes), "walked_samples": self.walked_samples(),
            "nodes": plan.nodes, "ranks_per_node": plan.ranks_per_node, "memory_bytes": plan.memory_bytes,
            "disk_bytes": plan.disk_bytes, "ratio": plan.ratio, "policy": self.policy_name, "batch_size": plan.batch_size,
            "shuffle": plan.shuffle, "seed": plan.seed, "epochs": plan.epochs, "policies": policies, "disks": disks,
        });
        serde_json::to_writer_pretty(&mut *out, &document)?;
        Ok(writeln!(out)?)
    }

    fn of(&self, what: &str, value: &Json, outcome: &Outcome) -> Json {
        let mut document = json!({what: value});
        let nodes = self.plan.nodes as u64;
        let Outcome { epochs, usual, is_filling, memory_kept_bytes, disk_kept_bytes, .. } = outcome;
        let facts = json!({
            "usual_epoch": as_json(usual), "is_filling": is_filling,
            "node_bytes": usual.bytes / nodes, "node_requests": usual.requests / nodes,
            "node_memory_kept_bytes": memory_kept_bytes, "node_disk_kept_bytes": disk_kept_bytes,
            "epochs": epochs.iter().map(as_json).collect::<Vec<_>>(),
        });
        if let (Some(document), Json::Object(facts)) = (document.as_object_mut(), facts) {
            document.extend(facts);
        }
        document
    }
}

fn as_json(epoch: &Epoch) -> Json {
    json!({
        "reuse": epoch.reuse(), "memory_reuse": epoch.memory_reuse, "disk_reuse": epoch.disk_reuse,
        "bytes": epoch.bytes, "requests": epoch.requests,
    })
}

/// Right-aligned columns, the first left-aligned; what has no heading is a remark.
fn table(out: &mut impl Write, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
    let head = head.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let padded = row.iter().enumerate().map(|(column, cell)| match widths.get(column) {
            Some(&width) if column == 0 => format!("{cell:<width$}"),
            Some(&width) => format!("  {cell:>width$}"),
            None => format!("  {cell}"),
        });
        writeln!(out, "{}", padded.collect::<String>().trim_end())?;
    }
    Ok(())
}

fn read(bytes: u64, requests: u64) -> String {
    format!("{} ({})", ByteSize(bytes), grouped(requests))
}

fn filling(outcome: &Outcome) -> String {
    if outcome.is_filling { "*".to_owned() } else { String::new() }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Digits in threes: `1,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}
