"""Credentials from a user's function: asked for when needed, again when refused, in forked and spawned workers too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from servers import testkit

SAMPLES = 4
ASKED: list[float] = []


def keys() -> dict[str, Any]:
    ASKED.append(time.monotonic())
    return {"access_key_id": "a", "secret_access_key": "hunter2", "expires_at": datetime.now(UTC) + timedelta(hours=1)}


def raising() -> dict[str, Any]:
    raise LookupError("the vault is sealed")


def no_dict() -> Any:
    return "token"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[testkit.Testkit]:
    folder = tmp_path / "data" / "x"
    folder.mkdir(parents=True)
    for sample in range(SAMPLES):
        torch.save({"value": torch.full((3,), float(sample))}, folder / f"{sample}.pt")
    with testkit.serving(tmp_path / "data") as server:
        ASKED.clear()
        yield server


def opened(server: testkit.Testkit, credentials: Any, **options: str) -> hw.StreamingDataset:
    source = hw.Source(f"s3://{server.bucket}/x", endpoint=server.endpoint, region="test", credentials=credentials, **options)
    return hw.StreamingDataset({"x": source})


def test_a_function_is_asked_once_while_its_answer_holds(server: testkit.Testkit) -> None:
    dataset = opened(server, keys)
    assert [float(dataset[index]["x"]["value"][0]) for index in range(SAMPLES)] == [0.0, 1.0, 2.0, 3.0]
    assert len(ASKED) == 1


def test_a_function_is_asked_again_when_what_it_gave_is_refused_as_expired(server: testkit.Testkit) -> None:
    dataset = opened(server, keys)
    server.fault("expired,times=1")
    assert float(dataset[1]["x"]["value"][0]) == 1.0
    assert len(ASKED) == 2


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_ask_by_themselves(server: testkit.Testkit, method: str) -> None:
    loader = DataLoader(opened(server, keys), batch_size=2, num_workers=1, multiprocessing_context=method)
    assert [batch["x"]["value"][:, 0].tolist() for batch in loader] == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("function", "words"),
    [(raising, "LookupError: the vault is sealed"), (no_dict, "it must return a dict"), (dict, "there are no credentials")],
)
def test_a_function_that_gives_none_is_an_error_in_words(server: testkit.Testkit, function: Any, words: str) -> None:
    with pytest.raises(hw.AccessDeniedError, match=words) as error:
        opened(server, function)
    assert "the function in the source's options" in str(error.value)


def test_what_is_no_function_is_refused(server: testkit.Testkit) -> None:
    with pytest.raises(hw.ConfigError, match="give a function"):
        opened(server, "hunter2")
