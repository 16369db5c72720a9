"""What placing batches ahead must not change: what comes, what is counted, who is interrupted, and what closing does."""

# ruff: noqa: F811 - fixtures are arguments

from __future__ import annotations

import collections
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from clips import loader, write_clips
from headwater import device as placing
from test_loader_device import Streams, keys, pinning, streams  # noqa: F401 - fixtures

WHOLE = [f"{number:04}" for number in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def flat(batches: Any) -> list[str]:
    return [key for batch in keys(batches) for key in batch]


# ---- 1: the end of a pass that was closed is no end of its epoch


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("placed", [{}, {"pin_memory": True}])
def test_closing_while_another_thread_waits_does_not_end_the_epoch(folder: Path, placed: dict[str, Any]) -> None:
    made = loader(folder, fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="1h")), shuffle=False, **placed)
    before = {**made.state_dict(), "position": 8}
    made.load_state_dict(before)
    batches = iter(made)
    waiting = threading.Thread(target=lambda: next(batches, None))
    waiting.start()
    time.sleep(0.2)
    made.close()
    waiting.join(10)
    assert made.state_dict() == before


# ---- 2: closing from a signal handler


HANDLER = """
import signal, sys, time
import torch
import headwater as hw
from headwater import device as placing
placing._pins = lambda: True
placing._pinned_like = torch.empty_like
placing._is_pinned = lambda tensor: False
dataset = hw.StreamingDataset(sys.argv[1], fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="1h")))
loader = hw.StreamingDataLoader(dataset, 4, pin_memory=sys.argv[2] == "True")
signal.signal(signal.SIGALRM, lambda *_: loader.close())
signal.setitimer(signal.ITIMER_REAL, 0.3)
print(len(list(loader)), flush=True)
"""


@pytest.mark.parametrize("pins", [False, True])
def test_a_signal_handler_may_close_the_loader_that_the_thread_waits_for(folder: Path, pins: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLER, str(folder), str(pins)], timeout=15, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


@pytest.mark.usefixtures("pinning")
def test_a_signal_handler_may_close_while_a_batch_is_being_placed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = loader(folder, pin_memory=True)
    batches = iter(made)
    send = placing.Placed.send

    def interrupted(self: Any) -> None:
        send(self)
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(placing.Placed, "send", interrupted)
    old = signal.signal(signal.SIGUSR1, lambda *_: made.close())
    try:
        # A batch or the end, as for a plain loader; not an IndexError.
        next(batches, None)
    finally:
        signal.signal(signal.SIGUSR1, old)


# ---- 3: functions of the user's that are called on the consuming thread


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("placed", [{}, {"pin_memory": True}])
def test_random_transforms_do_not_depend_on_speed(folder: Path, placed: dict[str, Any]) -> None:
    def drawn(first_byte: str) -> list[float]:
        random.seed(7)
        dataset = hw.StreamingDataset(
            folder,
            transform=lambda sample: {"drawn": random.random()},
            fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte=first_byte)),
        )
        values: list[float] = []
        for batch in hw.StreamingDataLoader(dataset, 4, drop_last=True, transform_threads=0, **placed):
            values += batch["drawn"].tolist()
            random.random()  # the loop's own: noise, a time step
            if first_byte == "1ms":
                time.sleep(0.02)
        return values

    assert drawn("1ms") == drawn("30ms")


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("placed", [{}, {"pin_memory": True}])
def test_resuming_with_the_generators_state_draws_the_same(folder: Path, placed: dict[str, Any]) -> None:
    def made() -> hw.StreamingDataLoader:
        dataset = hw.StreamingDataset(folder, transform=lambda sample: {"drawn": random.random()})
        return hw.StreamingDataLoader(dataset, 4, transform_threads=0, **placed)

    random.seed(7)
    first = made()
    batches = iter(first)
    for _ in range(3):
        next(batches)
        time.sleep(0.02)
    state, generator = first.state_dict(), random.getstate()
    rest = [batch["drawn"].tolist() for batch in batches]
    again = made()
    again.load_state_dict(state)
    random.setstate(generator)
    assert [batch["drawn"].tolist() for batch in again] == rest


@pytest.mark.parametrize("kind", ["pinned", "numpy"])
def test_buffers_that_a_collate_fn_uses_again_are_right_when_handed_over(
    folder: Path, kind: str, pinning: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: Any = torch.empty(4) if kind == "pinned" else np.empty(4)
    monkeypatch.setattr(placing, "_is_pinned", lambda tensor: tensor is kept)

    def collate(samples: list[Any]) -> Any:
        for row, sample in enumerate(samples):
            kept[row] = sample["__index__"]
        return kept

    made = loader(folder, collate_fn=collate, transform_threads=0, pin_memory=True, shuffle=False, drop_last=True)
    for number, batch in enumerate(made):
        assert batch.tolist() == list(range(4 * number, 4 * number + 4))
        time.sleep(0.01)


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("placed", [{}, {"pin_memory": True}])
def test_inference_mode_of_one_step_is_not_that_of_later_batches(folder: Path, placed: dict[str, Any]) -> None:
    made = loader(folder, **placed)
    list(made)
    batches = iter(made)
    time.sleep(0.1)
    with torch.inference_mode():
        next(batches)
    assert not next(batches)["b"].is_inference()


# ---- 4: exceptions of signal handlers


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("own", [False, True])
def test_ctrl_c_while_a_batch_is_placed_loses_none(folder: Path, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def slow(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == (2 if own else 6):
            signal.raise_signal(signal.SIGINT)
        return torch.empty_like(tensor)

    monkeypatch.setattr(placing, "_pinned_like", slow)
    arguments: dict[str, Any] = {
        "collate_fn": lambda samples: {"b": samples[0]["b"], "__key__": [s["__key__"] for s in samples]}
    }
    made = loader(folder, shuffle=False, pin_memory=True, **(arguments if own else {}))
    list(loader(folder))
    batches, seen = iter(made), []
    time.sleep(0.2)
    while True:
        try:
            batch = next(batches, None)
        except KeyboardInterrupt:
            continue
        if batch is None:
            break
        seen += list(batch["__key__"])
        # Where it stands, everything before was handed out.
        assert len(seen) == (made.state_dict()["position"])
    assert seen == WHOLE


def test_a_batch_that_page_locked_memory_failed_for_is_not_counted(
    folder: Path,
    pinning: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing = True

    def full(tensor: torch.Tensor) -> torch.Tensor:
        if failing:
            raise torch.OutOfMemoryError
        return torch.empty_like(tensor)

    monkeypatch.setattr(placing, "_pinned_like", full)
    made = loader(folder, shuffle=False, pin_memory=True)
    batches = iter(made)
    with pytest.raises(torch.OutOfMemoryError):
        next(batches)
    assert made.state_dict()["position"] == 0
    failing = False
    assert list(next(batches)["__key__"]) == WHOLE[:4]


class PreemptedError(Exception):
    pass


def test_what_a_signal_handler_raises_is_raised(folder: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_loader_device import Stream

    record = Stream.record_event

    def recorded(self: Any) -> Any:
        event = record(self)
        if self.events == 5:
            signal.raise_signal(signal.SIGUSR1)
        return event

    def handler(*_: Any) -> None:
        raise PreemptedError

    monkeypatch.setattr(Stream, "record_event", recorded)
    old = signal.signal(signal.SIGUSR1, handler)
    made = loader(folder, device="meta")
    list(loader(folder))

    def walk() -> None:
        for _ in made:
            time.sleep(0.01)

    try:
        with pytest.raises(PreemptedError):
            walk()
    finally:
        signal.signal(signal.SIGUSR1, old)


# ---- 5: figures


@pytest.mark.usefixtures("pinning")
def test_figures_count_what_was_handed_over(folder: Path) -> None:
    made = loader(folder, pin_memory=True)
    batches = iter(made)
    time.sleep(0.2)
    next(batches)
    stats = made.stats()
    assert (stats["loader_batches_total"], stats["samples_read_total"]) == (1, 4)


@pytest.mark.usefixtures("pinning")
def test_figures_tell_of_waits_for_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As slow as page-locking memory, or as a link that is full.
    monkeypatch.setattr(placing, "_pinned_like", lambda tensor: (time.sleep(0.005), torch.empty_like(tensor))[1])
    made = loader(folder, pin_memory=True)
    began, waited = time.perf_counter(), 0.0
    for _ in made:
        waited += time.perf_counter() - began
        began = time.perf_counter()
    stats = made.stats()
    told = sum(stats[f"loader_stall_{stage}_seconds_total"] for stage in ("source", "decode", "collate", "placing"))
    assert told > 0.5 * waited


# ---- 6: kinds of tensors and containers


def pinned_like(tensor: torch.Tensor) -> torch.Tensor:
    """The real one, without page-locking."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["nested", "quantized"])
def test_tensors_of_other_kinds_are_left_to_torch(
    folder: Path, kind: str, pinning: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "_pinned_like", pinned_like)
    asked: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: asked.append(tensor) or tensor)
    made = {
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.5, 3, torch.quint8),
    }[kind]()
    batch = next(iter(loader(folder, collate_fn=lambda _: made, pin_memory=True)))
    assert batch is made
    assert len(asked) > 0


ADDRESSES = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
import headwater as hw
from headwater import device as placing
placing._pins = lambda: True
placing._pinned_like = lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
placing._is_pinned = lambda tensor: False
dataset = hw.StreamingDataset(sys.argv[1])
if sys.argv[2] == "fake mode":
    batches = iter(hw.StreamingDataLoader(dataset, 50, pin_memory=True))
    with FakeTensorMode():
        next(batches)
else:
    zeros = torch._efficientzerotensor(100_000)
    next(iter(hw.StreamingDataLoader(dataset, 4, pin_memory=True, collate_fn=lambda _: zeros)))
"""


@pytest.mark.parametrize("kind", ["fake mode", "zeros without memory"])
def test_nothing_is_copied_from_or_to_nowhere(folder: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ADDRESSES, str(folder), kind], timeout=60, check=False)
    assert done.returncode in (0, 1), "an answer or an exception"


@pytest.mark.usefixtures("pinning")
def test_a_deque_stays_one_as_in_torch(folder: Path) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    value = collections.deque([1, "x"], maxlen=5)
    theirs = pin_memory(value)
    mine = next(iter(loader(folder, collate_fn=lambda _: value, pin_memory=True)))
    assert (type(mine), mine.maxlen) == (type(theirs), theirs.maxlen)


@pytest.mark.parametrize("wrong", ["²", 10**20, 300, "cuda:300", -1, "vulkan", "xla", "mtia", "privateuseone", "mps", "xpu"])
def test_a_device_that_cannot_be_meant_is_refused(folder: Path, wrong: Any) -> None:
    with pytest.raises(hw.ConfigError, match="device="):
        loader(folder, device=wrong)


# ---- 7: Macs


def test_mps_of_a_torch_that_has_streams_for_it_is_walked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.mps, "Stream"):
        pytest.skip("this torch has none")
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: moved.append(tensor) or tensor)
    next(iter(loader(folder, device="mps")))
    assert len(moved) > 0
