"""`assert_resumable`: every step of every kind of dataset can be gone on from; and what it finds out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import zstandard

import headwater as hw
from clips import loader, write_clips
from headwater.testing import assert_resumable
from servers import testkit

SAMPLES, BAD = 11, (0, 4, 5)


def pt(value: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save({"x": value, "n": int(value[0])}, file)
    return file.getvalue()


def npy(value: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, value.numpy())
    return file.getvalue()


FORMATS: dict[str, Callable[[torch.Tensor], bytes]] = {
    "pt": pt,
    "pt.zst": lambda value: zstandard.compress(pt(value)),
    "safetensors": lambda value: safetensors.torch.save({"x": value}),
    "npy": npy,
}
KINDS = [*FORMATS, "all joined"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fields of every format, some of whose objects cannot be decoded."""
    root = tmp_path_factory.mktemp("sets")
    for field, (suffix, encoded) in enumerate(FORMATS.items()):
        for name in ("whole", "damaged"):
            folder = root / name / suffix
            folder.mkdir(parents=True)
            for number in range(SAMPLES):
                is_bad = name == "damaged" and number in BAD
                data = b"no tensor at all" if is_bad else encoded(torch.arange(6.0) + 100 * field + number)
                (folder / f"{number:02}.{suffix}").write_bytes(data)
    return root


@pytest.fixture(scope="module")
def server(sets: Path) -> Iterator[testkit.Testkit]:
    with testkit.serving(sets) as running:
        yield running


def places(of: Callable[[str], Any], kind: str) -> Any:
    """Where the fields of such a dataset are."""
    return {suffix: of(suffix) for suffix in FORMATS} if kind == "all joined" else of(kind)


def drawn(sample: dict[str, Any]) -> dict[str, Any]:
    """A transform that draws at random about its sample."""
    return {**sample, "drawn": torch.rand(3, generator=torch.Generator().manual_seed(hw.sample_seed()))}


def keys_of(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A function of a batch that draws at random as well, and keeps what was drawn about its samples."""
    whole = torch.rand(2, generator=torch.Generator().manual_seed(hw.sample_seed()))
    return {"samples": [(sample["__key__"], sample.get("drawn")) for sample in samples], "drawn": whole}


def taken_in_turns(key: str, _: hw.HeadwaterError) -> Any:
    return "skip" if int(key) % 2 else "substitute"


FUNCTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "as they are": (None, {}),
    "transform": (drawn, {"transform_threads": 2}),
    "transform on the consumer": (drawn, {"transform_threads": 0}),
    "collate_fn": (None, {"collate_fn": keys_of}),
    "both": (drawn, {"collate_fn": keys_of}),
}


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute", taken_in_turns])
@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_of_any_kind_is_gone_on_with_from_every_step(sets: Path, kind: str, on_error: Any, functions: str) -> None:
    folder = sets / ("whole" if on_error == "raise" else "damaged")
    transform, arguments = FUNCTIONS[functions]

    def made() -> hw.StreamingDataLoader:
        dataset = hw.StreamingDataset(places(folder.joinpath, kind), on_error=on_error, transform=transform)
        return hw.StreamingDataLoader(dataset, 3, shuffle=True, seed=5, **arguments)

    # In the process that goes on, and in one that begins anew.
    whole = made()
    assert_resumable(whole)
    assert_resumable(made(), fresh=made)
    is_left_out = whole.stats()["samples_skipped_total"] + whole.stats()["samples_substituted_total"] > 0
    assert is_left_out == (on_error != "raise")


@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute"])
@pytest.mark.parametrize("memory", [0, "1MB"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_on_disk_is_gone_on_with_from_every_step(
    server: testkit.Testkit, tmp_path: Path, kind: str, memory: Any, on_error: Any
) -> None:
    folder = "whole" if on_error == "raise" else "damaged"
    cache = hw.CacheConfig(memory=memory, disk=tmp_path / "cache", disk_capacity="100MB")
    fields = places(lambda suffix: server.source("s3", f"{folder}/{suffix}"), kind)

    def made() -> hw.StreamingDataLoader:
        return hw.StreamingDataLoader(hw.StreamingDataset(fields, cache=cache, on_error=on_error), 3, shuffle=True, seed=5)

    assert_resumable(made())
    resumed = made()
    assert_resumable(resumed, fresh=made, epochs=1)
    assert resumed.stats()["cache_disk_hits_total"] > 0, "what the first one wrote"


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rank", range(3))
def test_every_rank_is_gone_on_with_from_every_step(sets: Path, rank: int, drop_last: bool) -> None:
    def made() -> hw.StreamingDataLoader:
        dataset = hw.StreamingDataset(sets / "damaged/pt", on_error="skip", framework="numpy")
        return hw.StreamingDataLoader(dataset, 2, shuffle=True, rank=rank, world_size=3, drop_last=drop_last)

    assert_resumable(made(), fresh=made, epochs=3)


# ---- what it finds out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


@pytest.mark.parametrize("arguments", [{}, {"drop_last": True}, {"collate_fn": list}, {"shuffle": False}], ids=str)
def test_our_loader_is_resumable_at_every_step(folder: Path, arguments: Any) -> None:
    made = loader(folder, 8, **arguments)
    before = made.state_dict()
    assert_resumable(made)
    assert made.state_dict() == before
    assert_resumable(made, fresh=lambda: loader(folder, 8, **arguments), epochs=1)


class Forgetful:
    """Resumes at the beginning, or wherever `wrong` says."""

    def __init__(self, folder: Path, wrong: Any) -> None:
        self.made, self.wrong = loader(folder, 10), wrong
        self.state_dict = self.made.state_dict

    def __iter__(self) -> Any:
        return iter(self.made)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made.load_state_dict(self.wrong(state))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda state: {**state, "position": 0}, "resumed after 1 steps, step 2 is the batch of samples"),
        (lambda state: {**state, "position": max(state["position"] - 10, 0)}, "step 2 is"),
        (lambda state: {**state, "position": min(state["position"] + 10, 50)}, "step 1 is"),
        (lambda state: {**state, "epoch": 9}, "step 1 is"),
        (lambda state: {**state, "position": 50}, "nothing came instead of"),
    ],
)
def test_a_loader_that_resumes_elsewhere_is_found_out(folder: Path, wrong: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_resumable(Forgetful(folder, wrong))


def test_a_batch_with_another_value_is_another(folder: Path) -> None:
    calls = iter(range(1000))

    def collate(samples: list[Any]) -> Any:
        return {"x": torch.full((1,), float(next(calls)))}

    with pytest.raises(AssertionError, match="step 1 is a batch instead of a batch"):
        assert_resumable(loader(folder, 10, collate_fn=collate))


@dataclass
class Batch:
    x: torch.Tensor


class Wrong:
    def __init__(self, folder: Path, make: Any) -> None:
        self.made = loader(folder, 10)
        self.make, self.first = make, True
        self.state_dict, self.load_state_dict = self.made.state_dict, self.restore

    def restore(self, state: Any) -> None:
        self.first = False
        self.made.load_state_dict(state)

    def __iter__(self) -> Any:
        for batch in self.made:
            x = torch.zeros(5000)
            x[:10] = batch["__index__"][:1]
            x[2500] = 0.0 if self.first else 1.0
            yield self.make(x)


def test_assert_resumable_sees_into_objects(folder: Path) -> None:
    with pytest.raises(AssertionError):
        assert_resumable(Wrong(folder, Batch))


class Opaque:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Right(Wrong):
    def __iter__(self) -> Any:
        for batch in self.made:
            yield Opaque(batch["b"])


def test_assert_resumable_does_not_compare_addresses(folder: Path) -> None:
    assert_resumable(Right(folder, None))
