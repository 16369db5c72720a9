"""The reference of settings: what Python takes, the environment that is read, and what it says of both."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from headwater import adapter

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs/configuration.md").read_text()
# What takes its place in a file, or is an object of Python's to begin with.
NOT_SETTINGS = {"self", "fields", "dataset", "storage_options"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for name in "ab":
        torch.save(torch.zeros(2), root / f"{name}.pt")
    return root


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


# What is no word or number to begin with.
NO_SCALARS = {"fields", "dataset", "transform", "collate_fn", "process_group", "storage_options", "pairs", "rename"}
NO_SCALARS |= {"cache", "fetch", "prefetch", "manifest"}
CLASSES: dict[Any, Callable[[Path, dict[str, Any]], Any]] = {
    hw.StreamingDataset: lambda folder, given: hw.StreamingDataset(folder, **given),
    hw.CacheConfig: lambda folder, given: hw.StreamingDataset(folder, cache=hw.CacheConfig(**given)),
    hw.PrefetchConfig: lambda folder, given: hw.StreamingDataset(folder, prefetch=hw.PrefetchConfig(**given)),
    hw.FetchConfig: lambda folder, given: hw.StreamingDataset(folder, fetch=hw.FetchConfig(**given)),
    hw.Throttle: lambda folder, given: hw.StreamingDataset(folder, fetch=hw.FetchConfig(throttle=hw.Throttle(**given))),
    hw.StreamingDataLoader: lambda folder, given: hw.StreamingDataLoader(hw.StreamingDataset(folder), **given),
    hw.Sampler: lambda folder, given: hw.Sampler(hw.StreamingDataset(folder), **given),
}
# Words of Rust's, of JSON's and of whoever reads either.
FOREIGN = re.compile(
    r"\b([ui](8|16|32|64|size)|f64|boolean|null|struct|enum|variant identifier|unit value|map|sequence|string|floating point"
    r"|unknown field|at line \d)\b"
)


@pytest.mark.filterwarnings("ignore:pin_memory=True does nothing here")
@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_wrong_with_a_setting_is_said_in_words_of_pythons(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    # Text is a folder to some.
    monkeypatch.chdir(tmp_path)
    settings = {name: parameter for name, parameter in inspect.signature(kind).parameters.items() if name not in NO_SCALARS}
    refused = 0
    for name in settings:
        for wrong in (-1, 1.5, "wörong", True, 2**40, 2**70, {"a": -1}, None):
            try:
                CLASSES[kind](folder, {name: wrong})
            except hw.ConfigError as error:
                refused += 1
                words = str(error).replace(str(folder), "")
                assert not FOREIGN.search(words), f"{name}={wrong!r}: {words}"
                assert not words.endswith(("expected", ":")), f"{name}={wrong!r}: {words}"
    assert refused >= len(settings), "each is refused something"


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
