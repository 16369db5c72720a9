//! Steps as they are told: a line each as soon as it is known, or one document of all.

use std::io::Write;
use std::time::{Duration, Instant};

use headwater::{Error, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value as Json, json};

use crate::{Failure, exit};

/// Every step there is, in order.
const STEPS: &[&str] =
    &["understood", "resolved", "connected", "credentials", "listed", "read", "range", "speed", "decodes"];
/// How often the sign of life on a terminal moves.
const TICK: Duration = Duration::from_millis(100);

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Good,
    Warn,
    Fail,
    Skip,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// What a step found.
#[derive(Debug)]
pub(super) struct Finding {
    status: Status,
    fact: String,
    advice: Option<String>,
    /// The same in numbers and names, for programs.
    facts: Map<String, Json>,
    kind: Option<ErrorKind>,
}

impl Finding {
    pub(super) fn good(fact: impl Into<String>) -> Self {
        Self { status: Status::Good, fact: fact.into(), advice: None, facts: Map::new(), kind: None }
    }

    pub(super) fn warn(fact: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warn, advice: Some(advice.into()), ..Self::good(fact) }
    }

    pub(super) fn fail(error: &Error, advice: impl Into<String>) -> Self {
        let kind = Some(error.kind());
        Self { status: Status::Fail, advice: Some(advice.into()), kind, ..Self::good(error.report()) }
    }

    /// A good finding, unless there is something to be said against it.
    pub(super) fn unless(objection: Option<(String, String)>, fact: String) -> Self {
        match objection {
            None => Self::good(fact),
            Some((words, advice)) => Self::warn(format!("{fact}; {words}"), advice),
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// A finding, and what later steps go on with: nothing where they cannot.
pub(super) type Found<T> = (Finding, Option<T>);

struct Step {
    name: &'static str,
    finding: Finding,
    seconds: f64,
}

/// What is known so far.
pub(super) struct Report<'a, W> {
    out: &'a mut W,
    is_json: bool,
    to_come: Vec<&'static str>,
    done: Vec<Step>,
}

impl<'a, W: Write> Report<'a, W> {
    pub(super) fn new(out: &'a mut W, is_json: bool, with_speed: bool) -> Self {
        let to_come = STEPS.iter().copied().filter(|&name| with_speed || name != "speed").collect();
        Self { out, is_json, to_come, done: Vec::new() }
    }

    /// Steps that make no sense here.
    pub(super) fn leave_out(&mut self, names: &[&str]) {
        self.to_come.retain(|name| !names.contains(name));
    }

    /// Takes a step, tells how it went, and gives what later ones go on with.
    pub(super) fn step<T>(
        &mut self,
        name: &'static str,
        take: impl FnOnce() -> Found<T>,
    ) -> Result<Option<T>, Failure> {
        let (sign, began) = (sign_of_life(name), Instant::now());
        let (finding, found) = take();
        let seconds = began.elapsed().as_secs_f64();
        sign.finish_and_clear();
        self.tell(Step { name, finding, seconds })?;
        Ok(found)
    }

    fn tell(&mut self, step: Step) -> Result<(), Failure> {
        self.leave_out(&[step.name]);
        if !self.is_json {
            let Finding { status, fact, advice, .. } = &step.finding;
            writeln!(self.out, "{:<5} {:<12} {}", status.word(), step.name, one_line(fact))?;
            if let Some(advice) = advice {
                writeln!(self.out, "{:<5} {:<12} -> {}", "", "", one_line(advice))?;
            }
            // Whoever waits for the next step reads this one.
            self.out.flush()?;
        }
        self.done.push(step);
        Ok(())
    }

    /// Tells what was not tried, and ends as the first failure says.
    pub(super) fn end(mut self, uri: &str) -> Result<(), Failure> {
        let last = self.done.last().map_or("", |step| step.name);
        for name in std::mem::take(&mut self.to_come) {
            let finding = Finding { status: Status::Skip, ..Finding::good(format!("needs more than `{last}` found")) };
            self.tell(Step { name, finding, seconds: 0.0 })?;
        }
        let code = self.done.iter().find_map(|step| step.finding.kind).map_or(exit::OK, exit::code_of);
        if self.is_json {
            let steps: Vec<_> = self.done.iter().map(as_json).collect();
            let version = env!("CARGO_PKG_VERSION");
            let document = json!({"uri": uri, "headwater": version, "exit_code": code, "steps": steps});
            serde_json::to_writer_pretty(&mut *self.out, &document)?;
            writeln!(self.out)?;
        }
        self.out.flush()?;
        if code == exit::OK { Ok(()) } else { Err(Failure::Told(code)) }
    }
}

fn as_json(step: &Step) -> Json {
    let Finding { status, fact, advice, facts, .. } = &step.finding;
    let status = status.word().to_ascii_lowercase();
    json!({
        "step": step.name, "status": status, "fact": one_line(fact), "advice": advice, "facts": facts, "seconds": step.seconds,
    })
}

/// Servers put line breaks into their words, and may put in what terminals obey.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn sign_of_life(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let sign = ProgressBar::new_spinner().with_style(style).with_message(name);
    sign.enable_steady_tick(TICK);
    sign
}
