"""What a loader says about what it waits for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from clips import indices, loader, small, write_clips
from forks import in_child
from waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def never(folder: Path, **arguments: Any) -> hw.StreamingDataLoader:
    """A loader whose source takes half a minute for each object."""
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="30s"), hedge=0)
    return loader(folder, 4, shuffle=False, fetch=fetch, **arguments)


def test_a_wait_is_told_to_the_log_and_ends_at_its_deadline_with_what_it_was_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = never(folder, watchdog="200ms", batch_deadline="1s")
    with caplog.at_level(logging.WARNING, "headwater"):
        with pytest.raises(hw.DeadlineError, match=r"waiting for `.*/[ab]/000[0-3]\.pt` for .* s and for 7 other objects"):
            next(iter(made))
        made.close()
    told = [record.message for record in caplog.records if "the next batch is not there" in record.message]
    assert len(told) in (2, 3), "after 0.2, 0.4 and 0.8 s"
    assert all("waiting for `" in words for words in told)


@contextmanager
def handled(handler: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            handler(record)

    log, made = logging.getLogger("headwater"), Handler()
    log.addHandler(made)
    try:
        yield
    finally:
        log.removeHandler(made)


def test_the_log_is_told_while_the_wait_lasts(folder: Path) -> None:
    told: list[str] = []
    made = never(folder, watchdog="100ms")
    with handled(lambda record: told.append(record.getMessage())):
        thread = threading.Thread(target=lambda: next(iter(made), None))
        thread.start()
        try:
            until(lambda: any("the next batch is not there" in words for words in told), "the log is told")
            assert thread.is_alive(), "it still waits"
        finally:
            made.close()
            thread.join(10)


def spared(folder: Path) -> tuple[Iterator[Any], list[list[int]]]:
    """Batches of a set with bad samples, of which a record each is logged, and what they must be."""

    def made() -> hw.StreamingDataLoader:
        dataset = hw.StreamingDataset(folder, on_error="skip")
        return hw.StreamingDataLoader(dataset, 2, window_samples=2)

    return iter(made()), indices(made())


def seen_by(batches: Iterator[Any]) -> tuple[list[list[int]], int]:
    seen, raised = [], 0
    while True:
        try:
            seen.append(next(batches)["__index__"].tolist())
        except StopIteration:
            return seen, raised
        except KeyError:
            raised += 1


def test_what_a_handler_of_records_raises_costs_no_batch_and_no_other_record(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 40, bad=range(0, 40, 3))
    told: list[str] = []

    def handler(record: logging.LogRecord) -> None:
        told.append(record.getMessage())
        raise KeyError("of the handler")

    batches, expected = spared(folder)
    with handled(handler):
        seen, raised = seen_by(batches)
        next(batches, None)
    assert seen == expected
    assert raised == len(told) > 0


def test_a_signal_that_comes_while_a_record_is_handed_on_costs_no_batch(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 40, bad=range(0, 40, 3))

    def preempted(*_: Any) -> None:
        raise KeyError("preempted")

    def handler(_: logging.LogRecord) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.001)

    batches, expected = spared(folder)
    before = signal.signal(signal.SIGUSR1, preempted)
    try:
        with handled(handler):
            seen, raised = seen_by(batches)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == expected
    assert raised > 0


def test_what_is_waited_for_can_be_asked_at_any_time(folder: Path) -> None:
    made = never(folder, watchdog=0)
    assert made.waits() == []
    batches = iter(made)
    thread = threading.Thread(target=lambda: next(batches, None))
    thread.start()
    ends = time.monotonic() + 10
    while len(waits := made.waits()) < 16 and time.monotonic() < ends:
        time.sleep(0.01)
    made.close()
    thread.join(10)
    assert not thread.is_alive()
    first = [wait for wait in waits if wait["ahead"] == 0]
    assert sorted(Path(wait["object"]).name for wait in first) == sorted(f"{number:04}.pt" for number in range(4) for _ in "ab")
    assert {wait["ahead"] for wait in waits} >= {0, 1}
    assert {wait["stage"] for wait in waits} == {"source"}
    assert all(0 <= wait["seconds"] < 20 for wait in waits)
    assert made.waits() == []


def test_a_healthy_pass_says_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        made = loader(folder, watchdog="5s")
        assert len(list(made)) == 13
    assert not caplog.records
    assert made.waits() == []


def test_watchdog_names_the_function_that_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "set", 8, bad=(0,))

    def decide(key: str, _: Any) -> Any:
        time.sleep(2)
        return "skip"

    made = hw.StreamingDataLoader(hw.StreamingDataset(folder, on_error=decide), 4, watchdog="300ms")
    seen: list[Any] = []

    def watch() -> None:
        time.sleep(1)
        seen.extend(made.waits())

    thread = threading.Thread(target=watch)
    thread.start()
    with caplog.at_level(logging.WARNING, "headwater"):
        next(iter(made))
    thread.join()
    told = [record.message for record in caplog.records]
    assert seen, "the function is waited for"
    assert not any("nothing of it has begun" in words for words in told)


def test_watchdog_names_nothing_of_another_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "set", 8, bad=(0,))
    torch.save(torch.rand(1_000_000), folder / "a/0006.pt")

    def decide(key: str, _: Any) -> Any:
        time.sleep(1)
        return "skip"

    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="1ms", stream_rate="1MB"), hedge=0, part_size=0)
    dataset = hw.StreamingDataset(folder, fetch=fetch, on_error=decide)
    made = hw.StreamingDataLoader(dataset, 1, watchdog="300ms", window_samples=8)
    with caplog.at_level(logging.WARNING, "headwater"):
        next(iter(made))
    told = [record.message for record in caplog.records if "the next batch is not there" in record.message]
    assert told
    assert not any("0006" in words for words in told), "that is of the seventh batch"


def test_ahead_counts_ready_batches(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 8)
    torch.save(torch.rand(1_000_000), folder / "a/0005.pt")
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="1ms", stream_rate="1MB"), hedge=0, part_size=0)
    made = hw.StreamingDataLoader(hw.StreamingDataset(folder, fetch=fetch), 1, window_samples=8)
    batches = iter(made)
    next(batches)
    time.sleep(1)
    waits = made.waits()
    made.close()
    assert [wait["ahead"] for wait in waits if wait["object"] and "0005" in wait["object"]] == [4]


def test_a_forked_child_waits_for_nothing_of_its_parents(folder: Path) -> None:
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="30s"), hedge=0)
    made = loader(folder, fetch=fetch)
    batches = iter(made)
    ends = time.monotonic() + 10
    while not made.waits() and time.monotonic() < ends:
        time.sleep(0.01)

    def work() -> None:
        assert made.waits() == []

    try:
        in_child(work)
    finally:
        made.close()
        del batches
