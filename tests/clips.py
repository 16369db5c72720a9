"""A small set of clips of two fields, a loader over it, and what its batches must be."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from same import assert_same

SAMPLES = 50
THROTTLE = hw.FetchConfig(throttle=hw.Throttle(first_byte="2ms", stream_rate="50MB"))


def value(number: int) -> dict[str, Any]:
    return {"x": torch.arange(24.0).reshape(2, 3, 4) + number, "fps": 24.0, "frames": number, "name": f"clip {number}"}


def loader(
    folder: Path, batch_size: int = 4, *, cache: Any = None, fetch: Any = None, **arguments: Any
) -> hw.StreamingDataLoader:
    dataset = hw.StreamingDataset(folder, cache=cache, fetch=fetch)
    return hw.StreamingDataLoader(dataset, batch_size, **{"shuffle": True, "seed": 5, **arguments})


def indices(batches: Any) -> list[list[int]]:
    return [batch["__index__"].tolist() for batch in batches]


def check(batch: dict[str, Any]) -> None:
    numbers = batch["__index__"].tolist()
    assert_same(batch["a"]["x"], torch.stack([value(number)["x"] for number in numbers]))
    assert_same(batch["a"]["fps"], torch.tensor([24.0] * len(numbers), dtype=torch.float64))
    assert_same(batch["a"]["frames"], torch.tensor(numbers))
    assert batch["a"]["name"] == [f"clip {number}" for number in numbers]
    assert_same(batch["b"], torch.tensor([[number] * 5 for number in numbers], dtype=torch.int16))
    assert list(batch["__key__"]) == [f"{number:04}" for number in numbers]


def write_clips(root: Path) -> Path:
    """Writes the set, fields `a` and `b`."""
    for name in ("a", "b"):
        (root / name).mkdir()
    for number in range(SAMPLES):
        torch.save(value(number), root / f"a/{number:04}.pt")
        torch.save(torch.full((5,), number, dtype=torch.int16), root / f"b/{number:04}.pt")
    return root


def closed_while_two_wait(made: hw.StreamingDataLoader) -> list[Any]:
    """What two threads get that wait for a batch while their loader is closed."""
    batches = iter(made)
    ended: list[Any] = []
    threads = [threading.Thread(target=lambda: ended.append(next(batches, None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    made.close()
    for thread in threads:
        thread.join(10)
    return ended


def small(root: Path, count: int, bad: Any = ()) -> Path:
    """Writes a set of one small field, some of whose objects cannot be decoded."""
    (root / "a").mkdir(parents=True)
    for number in range(count):
        path = root / f"a/{number:04}.pt"
        if number in bad:
            path.write_bytes(b"no tensor at all")
        else:
            torch.save(torch.full((4,), number), path)
    return root
