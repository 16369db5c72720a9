"""Forks at every moment of a dataset's and a loader's life: children read the same, and nothing hangs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from clips import SAMPLES, THROTTLE, check, indices, write_clips
from forks import in_child

pytestmark = pytest.mark.slow
# Six cells of so many forks each: over a hundred.
FORKS = 17


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_clips(tmp_path_factory.mktemp("set"))
    (root / "b/0003.pt").write_bytes(b"no tensor at all")
    return root


@pytest.fixture(scope="module", autouse=True)
def _no_streams() -> Iterator[None]:
    """Python's file objects stay locked in a child that is forked while another thread writes a record."""
    logger = logging.getLogger("headwater")
    logger.propagate = False
    yield
    logger.propagate = True


def skip(_: str, __: hw.HeadwaterError) -> Any:
    return "skip"


def made(folder: Path) -> hw.StreamingDataLoader:
    """A loader with everything that a fork might leave behind: remote, cached, with a function that is asked."""
    dataset = hw.StreamingDataset(folder, fetch=THROTTLE, cache=hw.CacheConfig(memory="100kB"), on_error=skip)
    return hw.StreamingDataLoader(dataset, 5, shuffle=True, seed=5)


def walk(loader: hw.StreamingDataLoader) -> None:
    loader.set_epoch(0)
    batches = list(loader)
    for batch in batches:
        check(batch)
    assert sum(len(batch) for batch in indices(batches)) == SAMPLES - 1
    assert loader.dataset.__getitems__([3, 4])[0]["__index__"] == 4
    loader.dataset.prefetch([7])
    assert loader.dataset[7]["__index__"] == 7


@contextmanager
def under_load(loader: hw.StreamingDataLoader) -> Iterator[None]:
    """Other threads walk, read, queue and ask meanwhile."""
    is_over = threading.Event()
    dataset = loader.dataset

    def until_over(work: Callable[[int], Any]) -> None:
        number = 0
        while not is_over.is_set():
            work(number)
            number += 1

    other = hw.StreamingDataLoader(dataset, 4, shuffle=True)
    works: list[Callable[[int], Any]] = [
        lambda _: [batch["b"] for batch in other],
        lambda number: dataset.__getitems__([number % SAMPLES, 3]),
        lambda number: (dataset.prefetch([number * 7 % SAMPLES]), number % 5 or dataset.stop_prefetch()),
        lambda _: (dataset.stats(), other.waits(), other.state_dict()),
    ]
    threads = [threading.Thread(target=until_over, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("was_used", [False, True], ids=["not used before", "used before"])
@pytest.mark.parametrize("how", ["idle", "under load", "nested"])
def test_children_read_the_same_whenever_they_are_forked(folder: Path, how: str, was_used: bool) -> None:
    loader = made(folder)
    if was_used:
        walk(loader)

    def nested() -> None:
        walk(loader)
        in_child(lambda: walk(loader))

    if how == "under load":
        with under_load(loader if was_used else made(folder)):
            for _ in range(FORKS):
                in_child(lambda: walk(loader))
    else:
        for _ in range(FORKS):
            in_child(nested if how == "nested" else lambda: walk(loader))
    walk(loader)


def test_a_live_iterator_raises_in_a_child_and_goes_on_in_its_parent(folder: Path) -> None:
    loader = made(folder)
    batches = iter(loader)
    first = [next(batches)["__index__"].tolist() for _ in range(2)]
    parent = os.getpid()

    def work() -> None:
        with pytest.raises(hw.ConfigError, match=f"belongs to process {parent}"):
            next(batches)

    for _ in range(5):
        in_child(work)
    rest = [batch["__index__"].tolist() for batch in batches]
    loader.set_epoch(0)
    assert first + rest == indices(loader)
