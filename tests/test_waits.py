"""What a loader says about what it waits for."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from clips import loader, write_clips


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
