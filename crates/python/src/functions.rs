//! Functions of the user's, asked through threads of Python's.

use std::time::Duration;

use headwater::engine::Questions;
use headwater::source::{Credentials, CredentialsProvider};
use headwater::{Error, ErrorKind};
use pyo3::prelude::*;

use crate::ending::detach;
use crate::error::checked;

/// A token service may be asked behind it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Has sources with `credentials = name` ask whoever takes questions.
#[pyfunction]
pub(crate) fn register_credentials(py: Python<'_>, name: &str) -> PyResult<()> {
    let asked = name.to_owned();
    let provider = CredentialsProvider::new(move || {
        let name = asked.clone();
        Box::pin(async move { Credentials::from_json(&Questions::current()?.ask(&name, DEADLINE).await?) })
    });
    checked(py, headwater::source::register_credentials(name, provider))
}

/// Has no more sources ask under that name.
#[pyfunction]
pub(crate) fn release_credentials(py: Python<'_>, name: &str) -> PyResult<()> {
    checked(py, headwater::source::release_credentials(name))
}

/// Waits for a question: its number and what it asks for.
#[pyfunction]
pub(crate) fn next_question(py: Python<'_>, seconds: f64) -> PyResult<Option<(u64, String)>> {
    let patience = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let next = detach(py, || Ok(Questions::current()?.next(patience)));
    checked(py, next)
}

/// Answers a question with JSON, or says whose failure it is that there is no answer, why, and whether asking again may help.
#[pyfunction]
#[pyo3(signature = (number, answer, subject="", failure=None, may_pass=false))]
pub(crate) fn answer_question(
    py: Python<'_>,
    number: u64,
    answer: String,
    subject: &str,
    failure: Option<String>,
    may_pass: bool,
) -> PyResult<()> {
    let kind = if may_pass { ErrorKind::Unavailable } else { ErrorKind::Denied };
    let answer = match failure {
        None => Ok(answer),
        Some(words) => Err(Error::new(kind, "call", subject).because(words)),
    };
    checked(py, Questions::current().map(|questions| questions.answer(number, answer)))
}

/// Nobody will answer any more.
#[pyfunction]
pub(crate) fn close_questions(py: Python<'_>) -> PyResult<()> {
    checked(py, Questions::current().map(Questions::close))
}
