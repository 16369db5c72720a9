"""A small set of numbered samples behind the fault server, and a dataset that keeps them on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

import headwater as hw
from servers import testkit

SAMPLES = 24


def served(folder: Path, fault_servers: Callable[[Path], testkit.Testkit]) -> testkit.Testkit:
    """A server of the samples, which are written to the folder `x` of another."""
    (folder / "x").mkdir(parents=True)
    for sample in range(SAMPLES):
        torch.save({"value": torch.full((64, 64), float(sample)), "n": sample}, folder / "x" / f"{sample:02}.pt")
    return fault_servers(folder)


def opened(server: testkit.Testkit, cache: Path) -> hw.StreamingDataset:
    """A dataset that keeps nothing in memory."""
    config = hw.CacheConfig(memory=0, disk=cache, disk_capacity="1GB")
    return hw.StreamingDataset({"x": server.source("s3", "x")}, cache=config)


def read_all(dataset: hw.StreamingDataset) -> None:
    """Compares every sample with what was written."""
    for number, sample in enumerate(dataset):
        assert torch.equal(sample["x"]["value"], torch.full((64, 64), float(number)))
        assert sample["x"]["n"] == number
