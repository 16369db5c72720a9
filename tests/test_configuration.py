"""The reference of settings: what Python takes, the environment that is read, and what it says of both."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import headwater as hw
from headwater import adapter

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs/configuration.md").read_text()
# What takes its place in a file, or is an object of Python's to begin with.
NOT_SETTINGS = {"self", "fields", "dataset", "storage_options"}


def settings(title: str) -> set[str]:
    """The first column of a section's table."""
    [section] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (hw.StreamingDataset, "The dataset"),
        (hw.CacheConfig, "`[cache]`"),
        (hw.PrefetchConfig, "`[prefetch]`"),
        (hw.FetchConfig, "`[fetch]`"),
        (hw.Throttle, "`[fetch.throttle]`"),
        (hw.StreamingDataLoader, "`[loader]`"),
    ],
)
def test_every_argument_is_in_the_reference(kind: type, title: str) -> None:
    if dataclasses.is_dataclass(kind):
        taken = {field.name for field in dataclasses.fields(kind)}
    else:
        taken = set(inspect.signature(kind).parameters)
    tables = {"cache", "fetch", "prefetch", "throttle"}
    missing = taken - NOT_SETTINGS - tables - settings(title) - settings("In Python alone")
    assert not missing


@pytest.mark.parametrize(
    "kind",
    [adapter.DataSourceConfig, adapter.StreamingDatasetAdapter, adapter.PrecomputedDataset, adapter.SmartLRUCache,
     adapter.AsyncPrefetcher],
)  # fmt: skip
def test_every_argument_of_the_adapter_is_in_the_reference_with_its_default(kind: type) -> None:
    rows = re.findall(rf"^\| `(\w+)` \| `{kind.__name__}` \| (.*?) \|", REFERENCE, re.MULTILINE)
    taken = {
        name: "–" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    assert dict(rows) == taken


def test_every_variable_that_is_read_is_in_the_reference() -> None:
    read = set()
    for path in (ROOT / "crates/core/src").rglob("*.rs"):
        if not {"tests", "tests.rs"} & set(path.parts):
            text = path.read_text().split("#[cfg(test)]")[0]
            read |= set(re.findall(r'"((?:HEADWATER|XDG|AWS|GOOGLE|AZURE|HF|HUGGING|SLURM|OMPI|PMI|MPI)_[A-Z0-9_]+)"', text))
    assert read
    assert read <= set(re.findall(r"`([A-Z0-9_]+)`", REFERENCE))


def test_links_of_the_reference_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", REFERENCE):
        assert (ROOT / "docs" / link).exists(), link
