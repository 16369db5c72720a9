"""How threads for functions of the user's live and die: leaving, closing, forks, signals, the end of the process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from clips import SAMPLES, THROTTLE, check, closed_while_two_wait, indices, write_clips
from forks import in_child
from test_loader_device import pinning  # noqa: F401 - fixture
from test_transforms import Gate, at_work, loader, no_thread_is_left, plain  # noqa: F401 - fixture
from waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def same(sample: Any) -> Any:
    return sample


# ---- leaving


def test_leaving_a_loop_ends_its_threads(folder: Path) -> None:
    made = loader(folder, same, transform_threads=3)
    first = plain(folder)
    for batch in made:
        assert batch["__index__"].tolist() == first[0]
        assert len(at_work()) == 3
        break
    until(lambda: not at_work(), "the iterator is gone")

    def train() -> None:
        for _ in made:
            raise ZeroDivisionError

    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            train()
    until(lambda: not at_work(), "the iterators are gone")


def test_the_end_of_an_epoch_ends_its_threads_though_the_iterator_lives(folder: Path) -> None:
    batches = iter(loader(folder, same))
    assert len(list(batches)) == 13
    until(lambda: not at_work(), "nothing is left to do")
    assert next(batches, None) is None


def test_many_passes_leave_no_thread_and_no_sample(folder: Path) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def transform(sample: Any) -> Any:
        alive.add(sample["b"])
        return sample

    made = loader(folder, transform, transform_threads=2)
    for number in range(100):
        for step, _batch in enumerate(made):
            if step == number % 13:
                break
    del _batch
    until(lambda: not at_work(), "all are over")
    gc.collect()
    assert not alive


@pytest.mark.parametrize("threads", [1, 4])
def test_closing_ends_the_waits_of_other_threads(folder: Path, threads: int) -> None:
    gate = Gate()
    try:
        assert closed_while_two_wait(loader(folder, gate, transform_threads=threads)) == [None, None]
    finally:
        gate.event.set()


def test_closing_while_a_function_is_at_work_forgets_what_it_makes(folder: Path) -> None:
    gate = Gate()
    made = loader(folder, gate, transform_threads=1)
    batches = iter(made)
    until(lambda: gate.calls, "it is called")
    made.close()
    assert next(batches, None) is None
    gate.event.set()
    until(lambda: not at_work(), "its thread ends when it returns")
    assert len(gate.calls) == 1
    assert made.state_dict()["position"] == 0
    assert indices(made) == plain(folder), "the loader can be used again"


@pytest.mark.parametrize("placed", [{}, {"device": "meta"}])
def test_a_pass_that_handed_out_nothing_is_begun_anew_with_new_threads(folder: Path, placed: dict[str, str]) -> None:
    keys = [[list(batch["__key__"]) for batch in epochs] for epochs in [loader(folder)] for _ in range(3)]
    made = loader(folder, same, transform_threads=2, **placed)
    batches = iter(made)
    made.set_epoch(2)
    until(lambda: len(at_work()) == 2, "those of the pass before end")
    assert [list(batch["__key__"]) for batch in batches] == keys[2]
    batches = iter(made)
    made.load_state_dict({**made.state_dict(), "epoch": 1, "position": 8})
    assert [list(batch["__key__"]) for batch in batches] == keys[1][2:]


def test_set_epoch_in_the_middle_leaves_the_pass_as_it_is(folder: Path) -> None:
    made = loader(folder, same)
    batches = iter(made)
    first = [next(batches)["__index__"].tolist()]
    made.set_epoch(7)
    assert first + indices(batches) == plain(folder)
    assert made.state_dict()["epoch"] == 7


def test_passes_of_several_loaders_and_consumers_run_side_by_side(folder: Path) -> None:
    made = [loader(folder, same, size, transform_threads=2) for size in (2, 3, 5)]
    seen: list[list[list[int]]] = [[] for _ in made]

    def work(number: int) -> None:
        seen[number] = indices(made[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(made))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [plain(folder, size) for size in (2, 3, 5)]
    shared = iter(loader(folder, same, 1, transform_threads=3))
    taken: list[int] = []

    def take() -> None:
        while (batch := next(shared, None)) is not None:
            taken.extend(batch["__index__"].tolist())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(SAMPLES))


def test_where_no_thread_can_be_started_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = 0
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        nonlocal started
        if thread.name.startswith("headwater-transform") and started == limit:
            raise RuntimeError("can't start new thread")
        started += 1
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    limit = 0
    with pytest.raises(RuntimeError, match="can't start new thread"):
        iter(loader(folder, same))
    limit = 1
    assert indices(loader(folder, same)) == plain(folder), "one is enough"


# ---- placing


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("threads", [0, 3])
def test_batches_are_placed_after_the_functions(folder: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater import device as placing

    pinned: list[tuple[threading.Thread, tuple[int, ...]]] = []

    def pinned_like(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append((threading.current_thread(), tuple(tensor.shape)))
        return torch.empty_like(tensor)

    monkeypatch.setattr(placing, "_pinned_like", pinned_like)
    made = loader(
        folder, lambda sample: {"y": sample["b"].repeat(2)}, transform_threads=threads, pin_memory=True, drop_last=True
    )
    batches = [batch["y"] for batch in made]
    assert [shape for _, shape in pinned] == [(4, 10)] * 12, "what functions made is placed, once"
    assert {thread for thread, _ in pinned} == {threading.current_thread()}, "page-locked memory is the consumer's thread's"
    assert [batch[:, 0].tolist() for batch in batches] == plain(folder, drop_last=True)
    assert made.stats()["loader_batches_total"] == 12


@pytest.mark.usefixtures("pinning")
def test_errors_of_functions_keep_their_place_where_batches_are_placed_ahead(folder: Path) -> None:
    def transform(sample: Any) -> Any:
        if sample["__index__"] == 9:
            raise ZeroDivisionError
        return sample

    made = loader(folder, transform, shuffle=False, pin_memory=True)
    batches = iter(made)
    time.sleep(0.2)
    assert next(batches)["__index__"].tolist() == [0, 1, 2, 3]
    assert next(batches)["__index__"].tolist() == [4, 5, 6, 7]
    assert made.state_dict()["position"] == 8
    with pytest.raises(ZeroDivisionError):
        next(batches)
    assert made.state_dict()["position"] == 12
    assert next(batches)["__index__"].tolist() == [12, 13, 14, 15]


# ---- forks


def test_a_fork_in_the_middle_of_an_epoch_has_no_threads_and_begins_its_own(folder: Path) -> None:
    made = loader(folder, same, transform_threads=2, fetch=THROTTLE)
    batches = iter(made)
    first = next(batches)["__index__"].tolist()
    parent = os.getpid()

    def work() -> None:
        assert made.waits() == []
        with pytest.raises(hw.ConfigError, match=f"belongs to process {parent}"):
            next(batches)
        made.set_epoch(0)
        walked = list(made)
        for batch in walked:
            check(batch)
        assert indices(walked) == whole
        until(lambda: not at_work(), "they end in the child, too")

    whole = plain(folder)
    for _ in range(10):
        in_child(work)
    assert [first, *indices(batches)] == whole


def test_children_that_are_forked_while_functions_are_at_work_end(folder: Path) -> None:
    gate = Gate()
    made = loader(folder, gate, transform_threads=2)
    batches = iter(made)
    until(lambda: len(gate.calls) == 2, "both are at work")

    def work() -> None:
        # As the end of a child does, whatever it leaves behind.
        made.close()
        gate.event.set()
        made.set_epoch(0)
        assert indices(made) == plain(folder)

    for _ in range(5):
        in_child(work)
    gate.event.set()
    assert indices(batches) == plain(folder)


@pytest.mark.slow
def test_children_forked_at_any_moment_read_the_same(folder: Path) -> None:
    def transform(sample: Any) -> Any:
        return {"index": sample["__index__"], "sum": float(sample["a"]["x"].sum()), "seed": hw.sample_seed()}

    made = loader(folder, transform, transform_threads=3, fetch=THROTTLE)
    walked = [[batch["seed"].tolist() for batch in epochs] for epochs in [made]]
    is_over = threading.Event()

    def walk() -> None:
        other = loader(folder, transform, transform_threads=2)
        while not is_over.is_set():
            for _ in other:
                pass

    threads = [threading.Thread(target=walk) for _ in range(2)]
    for thread in threads:
        thread.start()

    def work() -> None:
        made.set_epoch(0)
        assert [[batch["seed"].tolist() for batch in made]] == walked

    try:
        for _ in range(17):
            in_child(work)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


# ---- signals and the end of the process

SCRIPT = """
import sys, threading, time
import headwater as hw
called = threading.Event()
def transform(sample):
    called.set()
    {body}
    return sample
dataset = hw.StreamingDataset({folder!r}, framework="numpy", transform=transform)
loader = hw.StreamingDataLoader(dataset, 4, collate_fn=list, transform_threads={threads})
batches = iter(loader)
"""
BODIES = {"sleeps": "time.sleep(3600)", "computes": "while True: pass", "waits": "threading.Event().wait()", "returns": "pass"}
ENDS = {"": 0, "raise ValueError": 1, "sys.exit(3)": 3, "loader.close()": 0, "del batches": 0}


def script(folder: Path, body: str, threads: int, end: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT.format(folder=str(folder), body=BODIES[body], threads=threads) + end]


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("end", ENDS)
def test_the_process_ends_whatever_functions_are_at(folder: Path, body: str, end: str) -> None:
    command = script(folder, body, 2, f"assert called.wait(30)\ntime.sleep(0.05)\n{end}\n")
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == ENDS[end], done.stderr
    assert "Fatal" not in done.stderr
    assert "panicked" not in done.stderr


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_ends_a_wait_for_a_function(folder: Path, threads: int) -> None:
    code = "print('waiting', flush=True)\nnext(batches)\n"
    process = subprocess.Popen(
        script(folder, "sleeps", threads, code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert stderr.rstrip().endswith("KeyboardInterrupt")


class PreemptedError(Exception):
    pass


def test_what_a_signal_handler_raises_costs_no_batch(folder: Path) -> None:
    def handler(*_: Any) -> None:
        raise PreemptedError

    gate = Gate()
    batches = iter(loader(folder, gate, transform_threads=2))
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(PreemptedError):
                next(batches)
    finally:
        signal.signal(signal.SIGALRM, old)
    gate.event.set()
    assert indices(batches) == plain(folder)


LATE = """
import atexit, sys
def late():
    print("late", next(batches, None), flush=True)
atexit.register(late)
import headwater as hw
dataset = hw.StreamingDataset(sys.argv[1], framework="numpy", transform=lambda sample: sample)
batches = iter(hw.StreamingDataLoader(dataset, 2, collate_fn=len))
print(next(batches), flush=True)
"""


def test_what_asks_for_a_batch_when_the_process_has_ended_its_threads_gets_none(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LATE, str(folder)], timeout=60, check=False, capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.returncode, done.stderr) == (["2", "late None"], 0, "")
