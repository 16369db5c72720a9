"""One sequence of samples, whoever reads it with how many threads, processes and ranks, from where."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch.utils.data import DataLoader

import headwater as hw
from clips import SAMPLES, THROTTLE, check, write_clips
from same import bits

pytestmark = pytest.mark.slow

SEED, EPOCHS = 5, 2


class Cell(NamedTuple):
    """Who reads."""

    threads: int | None = None
    workers: int | None = None
    context: str | None = None
    cache: int | str = 0
    fetch: hw.FetchConfig | None = None

    def __str__(self) -> str:
        reader = f"{self.threads} threads" if self.workers is None else f"DataLoader of {self.workers} {self.context or ''}"
        return f"{reader}, cache {self.cache}, {'remote' if self.fetch else 'local'}"


CELLS = [
    Cell(threads=threads, cache=cache, fetch=fetch)
    for threads in (1, 2, 8)
    # Off, too small for all, and on.
    for cache in (0, "5kB", "10MB")
    for fetch in (None, THROTTLE)
]
CELLS += [Cell(workers=workers, cache=cache) for workers in (0, 2) for cache in (0, "10MB")]
CELLS += [Cell(workers=2, context=context, cache="10MB") for context in ("spawn", "forkserver")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def opened(folder: Path, cell: Cell, batch_size: int, **arguments: Any) -> Any:
    """Something to iterate once per epoch."""
    dataset = hw.StreamingDataset(folder, cache=hw.CacheConfig(memory=cell.cache), fetch=cell.fetch)
    settings = {"shuffle": True, "seed": SEED, **arguments}
    if cell.workers is None:
        return hw.StreamingDataLoader(dataset, batch_size, num_threads=cell.threads, **settings)
    sampler = hw.Sampler(dataset, batch_size, **settings)
    context = cell.context or ("fork" if cell.workers else None)
    return sampler.track(DataLoader(dataset, batch_sampler=sampler, num_workers=cell.workers, multiprocessing_context=context))


class Step(NamedTuple):
    """What a batch was, bit for bit."""

    indices: list[int]
    pads: list[bool]
    content: str


def walked(batches: Any) -> list[Step]:
    steps = []
    for batch in batches:
        check(batch)
        content = hashlib.blake2b(b"".join(bits(tensor) for tensor in (batch["a"]["x"], batch["b"], batch["a"]["fps"])))
        content.update(repr((list(batch["__key__"]), batch["a"]["name"], batch["a"]["frames"].tolist())).encode())
        pads = batch["__pad__"].tolist() if "__pad__" in batch else [False] * len(batch["__index__"])
        steps.append(Step(batch["__index__"].tolist(), pads, content.hexdigest()))
    return steps


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[Step]]:
    made = opened(folder, Cell(threads=1), 4)
    return [walked(made) for _ in range(EPOCHS)]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_one_global_sequence_over_threads_dataloader_workers_and_cache(
    folder: Path, expected: list[list[Step]], cell: Cell
) -> None:
    made = opened(folder, cell, 4)
    assert [walked(made) for _ in range(EPOCHS)] == expected
    # That it is a sequence of all samples, and another one in each epoch, is what makes that worth something.
    epochs = [[index for step in epoch for index in step.indices] for epoch in expected]
    assert all(sorted(epoch) == list(range(SAMPLES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != list(range(SAMPLES))


@pytest.mark.parametrize("drop_last", [False, True], ids=["pads", "drop_last"])
@pytest.mark.parametrize("cell", [Cell(threads=2), Cell(workers=0)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_one_global_sequence_over_world_sizes_in_equal_steps_and_exactly_once_apart_from_marked_pads(
    folder: Path, expected: list[list[Step]], cell: Cell, world_size: int, batch_size: int, drop_last: bool
) -> None:
    whole = [index for step in expected[0] for index in step.indices]
    ranks = [
        walked(opened(folder, cell, batch_size, rank=rank, world_size=world_size, drop_last=drop_last))
        for rank in range(world_size)
    ]
    assert len({len(steps) for steps in ranks}) == 1, "equal steps"
    assert all(len({len(step.indices) for step in steps}) == 1 for steps in zip(*ranks, strict=True)), "of equal size"
    together = [
        index
        for steps in zip(*ranks, strict=True)
        for step in steps
        for index, pad in zip(step.indices, step.pads, strict=True)
        if not pad
    ]
    of_step = batch_size * world_size
    assert together == (whole[: SAMPLES - SAMPLES % of_step] if drop_last else whole)
    pads = sum(sum(step.pads) for steps in ranks for step in steps)
    assert pads == 0 if drop_last else pads < world_size
