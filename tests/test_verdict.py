"""What the loader says that training waits for, where something is slow on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from servers.testkit import Testkit

SAMPLES = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    for number in range(SAMPLES):
        torch.save(torch.full((10_000,), float(number)), tmp_path / f"x/{number:02}.pt")
    return tmp_path / "x"


def verdict(
    source: Any,
    *,
    fetch: hw.FetchConfig | None = None,
    memory: str | int = 0,
    epochs: int = 1,
    step: float = 0.0,
    **loader: Any,
) -> dict[str, Any]:
    """What is said of the last of some epochs with steps of that many seconds."""
    dataset = hw.StreamingDataset({"x": source}, cache=hw.CacheConfig(memory=memory, compression="none"), fetch=fetch)
    made = hw.StreamingDataLoader(dataset, 2, shuffle=True, **loader)
    for epoch in range(epochs):
        if epoch == epochs - 1:
            dataset.reset_metrics()
        for _ in made:
            time.sleep(step)
    said = made.verdict()
    assert said["line"] == made.stats()["verdict"]
    return said


def slow(first_byte: str, **other: Any) -> hw.FetchConfig:
    """A remote that takes so long to answer, emulated."""
    return hw.FetchConfig(throttle=hw.Throttle(first_byte=first_byte), hedge=0, **other)


def test_a_source_that_may_be_asked_for_more_at_once(folder: Path) -> None:
    said = verdict(folder, fetch=slow("50ms", max_concurrency=2))
    assert said["bottleneck"] == "concurrency"
    assert "raise `max_concurrency`" in said["line"]
    assert str(folder) in said["line"]


def test_a_window_that_is_too_small_for_a_slow_source(folder: Path) -> None:
    said = verdict(folder, fetch=slow("50ms"), window_samples=2)
    assert said["bottleneck"] == "window"
    assert "raise `window_samples`" in said["line"]


def test_a_source_that_fails(tmp_path: Path, folder: Path, fault_servers: Callable[[Path], Testkit]) -> None:
    server = fault_servers(folder.parent)
    server.fault("status=503,share=0.5,on=get")
    said = verdict(server.source("s3", "x"))
    assert said["bottleneck"] == "failing_source"
    assert server.endpoint in said["line"]


def test_a_cache_that_is_too_small(folder: Path) -> None:
    # What the remote sends in all is the limit: neither more requests nor a larger window would help.
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="1ms", total_rate="1MB"), hedge=0)
    said = verdict(folder, fetch=fetch, memory=20 * 45_000, epochs=3)
    assert said["bottleneck"] == "cache"
    assert "raise its `memory`" in said["line"]


def test_a_function_of_the_users(folder: Path) -> None:
    def collate(samples: list[Any]) -> list[Any]:
        time.sleep(0.02)
        return samples

    said = verdict(folder, collate_fn=collate)
    assert said["bottleneck"] == "transform"
    assert "your own functions" in said["line"]


def test_nothing(folder: Path) -> None:
    said = verdict(folder, step=0.05)
    assert said["bottleneck"] == "balanced"
    assert said["running"] > 0.9


def test_too_little_to_tell(folder: Path) -> None:
    loader = hw.StreamingDataLoader(hw.StreamingDataset({"x": folder}), 2)
    assert loader.verdict()["bottleneck"] == "unknown"
    assert loader.verdict()["running"] is None
