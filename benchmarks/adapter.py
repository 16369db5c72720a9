"""The dataset of existing trainers, sample by sample, against ``torch.load`` of the same files.

Two sources of a hundred samples in local folders, in the page cache: latents ``[128, 5, 32, 32]``, embeddings ``[256, 4096]``,
what bf16 holds kept in fp32. Each round walks three epochs, each in another order, beside as many of ``torch.load``; one thread
asks for a sample after the other and touches every tensor. The first epoch is walked twice, beside the same without a cache:
as fast as samples come, and with a step of a fast trainer's length, which leaves the time to fill the cache for later epochs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headwater.adapter import DataSourceConfig, StreamingDatasetAdapter
from measure import RESULTS, Row, aimed, figure, report

SAMPLES, EPOCHS, BATCH = 100, 3, 8
LATENTS, EMBEDDINGS = (128, 5, 32, 32), (256, 4096)
# What is aimed at: against `torch.load` from memory and in the first epoch, which with a step is to be as fast as without any,
# but for what a busy machine is off by; and the share that is found.
WARM, FIRST, FIRST_STEP, HITS_FIRST, HITS_LATER = 2.0, 1.0, 0.97, 0.20, 0.85
STEP_SECONDS = 0.01
SOURCES = {"latents": "latent", "conditions": "condition"}


def sample_set() -> Path:
    """Writes the samples, if they are not there yet."""
    folder = RESULTS / "sets/adapter"
    for name in SOURCES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(SAMPLES):
        latents = folder / f"latents/latent_{number:04}.pt"
        conditions = folder / f"conditions/condition_{number:04}.pt"
        if conditions.exists():
            continue
        torch.save({"latents": torch.randn(LATENTS, generator=generator).bfloat16().float()}, latents)
        embeddings = torch.randn(EMBEDDINGS, generator=generator).bfloat16().float()
        # Prompts are shorter than what they are padded to.
        embeddings[int(torch.randint(32, 256, (), generator=generator)) :] = 0
        torch.save({"prompt_embeds": embeddings}, conditions)
    return folder


class Files:
    """The plain way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {
            "latent_conditions": torch.load(self.folder / f"latents/latent_{number:04}.pt", weights_only=True),
            "text_conditions": torch.load(self.folder / f"conditions/condition_{number:04}.pt", weights_only=True),
        }


def order(epoch: int) -> list[int]:
    """Another one for each epoch."""
    numbers: list[int] = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist()
    return numbers


def walk(dataset: Any, numbers: list[int], coming: Callable[[list[int]], object] = lambda _: None, step: float = 0.0) -> float:
    """Samples per second of one epoch, of which a batch ahead is told what comes."""
    began = time.perf_counter()
    coming(numbers[:BATCH])
    for place, number in enumerate(numbers):
        if place % BATCH == 0:
            coming(numbers[place + BATCH : place + 2 * BATCH])
        sample = dataset[number]
        sample["latent_conditions"]["latents"][-1, -1, -1, -1].item()
        sample["text_conditions"]["prompt_embeds"][-1, -1].item()
        time.sleep(step)
    return len(numbers) / (time.perf_counter() - began)


def adapter(folder: Path, size_gb: float) -> StreamingDatasetAdapter:
    """The dataset, with a cache of that size."""
    sources = [DataSourceConfig(name, "local", str(folder / name)) for name in SOURCES]
    return StreamingDatasetAdapter(sources, cache_size_gb=size_gb, prefetch_ahead=0)


def settle(dataset: StreamingDatasetAdapter) -> None:
    """Waits until what was read is packed: nothing more comes for a while."""
    items = -1.0
    while items != (items := dataset.get_cache_stats()["num_items"]):
        time.sleep(0.5)


class Rates:
    """What one kind of cache came to, a figure for each round."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        self.ours: list[list[float]] = [[] for _ in range(EPOCHS)]
        self.hits: list[list[float]] = [[] for _ in range(EPOCHS)]
        # In the first epoch: without a cache, and both with a step.
        self.without: list[float] = []
        self.stepping: list[float] = []
        self.stepping_without: list[float] = []
        self.hits_ahead: list[float] = []

    def round(self, folder: Path, size_gb: float) -> None:
        """Adds a round."""
        self.ours[0].append(walk(adapter(folder, size_gb), order(0)))
        self.plain.append(walk(Files(folder), order(0)))
        self.without.append(walk(adapter(folder, 0.0), order(0)))
        told = adapter(folder, size_gb)
        walk(told, order(0), told.prefetch_batch)
        self.hits_ahead.append(float(told.get_cache_stats()["hit_rate"]))
        del told
        dataset = adapter(folder, size_gb)
        self.stepping.append(walk(dataset, order(0), step=STEP_SECONDS))
        self.stepping_without.append(walk(adapter(folder, 0.0), order(0), step=STEP_SECONDS))
        settle(dataset)
        for epoch in range(1, EPOCHS):
            dataset.reset_metrics()
            self.ours[epoch].append(walk(dataset, order(epoch)))
            self.hits[epoch].append(float(dataset.get_cache_stats()["hit_rate"]))
            self.plain.append(walk(Files(folder), order(epoch)))


def against(name: str, ours: list[float], baseline: list[float], baseline_name: str) -> Row:
    """A row of medians."""
    mine = statistics.median(ours)
    spread = (max(ours) - min(ours)) / 2 / mine
    return figure(name, "samples/s", mine, statistics.median(baseline), baseline_name, len(ours), spread)


def share(name: str, found: list[float], wanted: float) -> Row:
    """A row of hits."""
    return aimed(figure(name, "", statistics.median(found), wanted, "wanted", len(found)), "ours", at_least=wanted)


def rows(kind: str, size_gb: float, rounds: int) -> list[Row]:
    """Rates and hits of each epoch."""
    folder, rates = sample_set(), Rates()
    walk(Files(folder), order(0))
    walk(adapter(folder, 0.0), order(0))
    for _ in range(rounds):
        rates.round(folder, size_gb)
    made = []
    for epoch in range(EPOCHS):
        row = against(f"epoch {epoch + 1}, {kind}", rates.ours[epoch], rates.plain, "torch.load")
        made.append(aimed(row, at_least=WARM if epoch else FIRST))
    made.append(against(f"epoch 1, {kind}", rates.ours[0], rates.without, "no cache"))
    row = against(f"epoch 1, step of 10 ms, {kind}", rates.stepping, rates.stepping_without, "no cache")
    made.append(aimed(row, at_least=FIRST_STEP))
    made.append(share(f"hits of epoch 1, a batch ahead told, {kind}", rates.hits_ahead, HITS_FIRST))
    made += [share(f"hits of epoch {epoch + 1}, {kind}", rates.hits[epoch], HITS_LATER) for epoch in range(1, EPOCHS)]
    return made


def main() -> None:
    """Runs the suite, or the parts named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="raw, packed; both by default")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Room for all as it is, and for all only once it is compressed.
    kinds = {"raw": 1.0, "packed": 0.45}
    made = [row for kind in given.parts or kinds for row in rows(kind, kinds[kind], given.rounds)]
    report("adapter", made)


if __name__ == "__main__":
    main()
