"""Inside a running event loop, as in a notebook: all works as outside, and the loop goes on with what it does besides."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import headwater as hw
from clips import SAMPLES, check, indices, loader, write_clips

NEVER = hw.FetchConfig(throttle=hw.Throttle(first_byte="1h"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def test_samples_and_batches_are_those_of_a_plain_loop(folder: Path) -> None:
    async def work() -> list[list[int]]:
        dataset = hw.StreamingDataset(folder)
        assert dataset[3]["a"]["frames"] == 3
        assert [sample["__index__"] for sample in dataset[[5, 6]]] == [5, 6]
        made = loader(folder)
        seen = []
        for batch in made:
            check(batch)
            seen.append(batch["__index__"].tolist())
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(work()) == indices(loader(folder))


def test_batches_of_several_tasks_at_once(folder: Path) -> None:
    async def walk(size: int) -> list[int]:
        batches, seen = iter(loader(folder, size)), []
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            check(batch)
            seen += batch["__index__"].tolist()
        return sorted(seen)

    async def work() -> list[list[int]]:
        return await asyncio.gather(*(walk(size) for size in (2, 3, 5)))

    assert asyncio.run(work()) == [list(range(SAMPLES))] * 3


def test_the_loop_goes_on_while_a_thread_waits_and_closing_ends_the_wait(folder: Path) -> None:
    async def work() -> tuple[int, object]:
        made = loader(folder, fetch=NEVER)
        waiting = asyncio.create_task(asyncio.to_thread(next, iter(made), None))
        ticks = 0
        while ticks < 50:
            await asyncio.sleep(0.01)
            ticks += 1
        assert not waiting.done()
        made.close()
        return ticks, await asyncio.wait_for(waiting, 10)

    assert asyncio.run(work()) == (50, None)


@pytest.mark.parametrize("what", ["batch", "sample"])
def test_ctrl_c_ends_a_wait_in_a_coroutine(folder: Path, what: str) -> None:
    # The first one asks the coroutine to end where it next awaits, as `asyncio.run` has it; the second one interrupts it.
    def interrupt() -> None:
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    async def work() -> None:
        dataset = hw.StreamingDataset(folder, fetch=NEVER)
        asyncio.get_running_loop().run_in_executor(None, interrupt)
        if what == "batch":
            next(iter(hw.StreamingDataLoader(dataset, 4)))
        else:
            dataset[0]

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
