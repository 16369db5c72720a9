"""A dataset's `transform` and a loader's `collate_fn`, called ahead of the training loop by threads of Python's."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from clips import SAMPLES, THROTTLE, indices, small, write_clips
from headwater.testing import assert_resumable
from waiting import until

THREADS = [0, 1, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def loader(folder: Path, transform: Any = None, batch_size: int = 4, **arguments: Any) -> hw.StreamingDataLoader:
    fetch, on_error = arguments.pop("fetch", None), arguments.pop("on_error", "raise")
    dataset = hw.StreamingDataset(folder, transform=transform, fetch=fetch, on_error=on_error)
    return hw.StreamingDataLoader(dataset, batch_size, **{"shuffle": True, "seed": 5, **arguments})


def plain(folder: Path, batch_size: int = 4, **arguments: Any) -> list[list[int]]:
    return indices(loader(folder, None, batch_size, **arguments))


def at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("headwater-transform")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not at_work(), f"threads are left: {at_work()}")


@contextmanager
def closed(made: hw.StreamingDataLoader) -> Iterator[hw.StreamingDataLoader]:
    with made:
        yield made
    until(lambda: not at_work(), "threads end with their loader")


class Gate:
    """A function that waits until it may go on."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.event, self.calls = threading.Event(), list[int]()
        if is_open:
            self.event.set()

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(sample["__index__"])
        assert self.event.wait(30)
        return sample


# ---- what comes, and where


@pytest.mark.parametrize("threads", THREADS)
def test_functions_are_called_on_threads_of_their_own_unless_there_are_none(folder: Path, threads: int) -> None:
    seen = set()

    def transform(sample: Any) -> Any:
        seen.add(threading.current_thread())
        return sample

    def collate(samples: Any) -> Any:
        seen.add(threading.current_thread())
        return len(samples)

    sizes = list(loader(folder, transform, collate_fn=collate, transform_threads=threads))
    assert sizes == [4] * 12 + [2]
    if threads == 0:
        assert seen == {threading.current_thread()}
    else:
        assert threading.current_thread() not in seen
        assert 1 <= len(seen) <= threads


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("fetch", [None, THROTTLE], ids=["local", "remote"])
def test_batches_come_in_order_however_long_each_sample_takes(folder: Path, threads: int, fetch: Any) -> None:
    def transform(sample: Any) -> Any:
        time.sleep(sample["__index__"] % 7 * 0.002)
        return {"index": sample["__index__"], "b": sample["b"], "key": sample["__key__"]}

    made = loader(folder, transform, 5, fetch=fetch, transform_threads=threads)
    for epoch in range(2):
        batches = list(made)
        expected = plain(folder, 5)
        if epoch == 0:
            assert [batch["index"].tolist() for batch in batches] == expected
        for batch in batches:
            assert batch["key"] == [f"{number:04}" for number in batch["index"].tolist()]
            assert batch["b"][:, 0].tolist() == batch["index"].tolist()


@pytest.mark.parametrize("transform", [None, lambda sample: sample])
def test_one_thread_calls_one_after_the_other_in_the_order_of_the_samples(folder: Path, transform: Any) -> None:
    calls = []

    def collate(samples: list[Any]) -> Any:
        calls.append([sample["__index__"] for sample in samples])
        return samples

    def seen(sample: Any) -> Any:
        calls.append(sample["__index__"])
        return sample

    list(loader(folder, transform and seen, collate_fn=collate, transform_threads=1, fetch=THROTTLE))
    expected: list[Any] = []
    for batch in plain(folder):
        expected += ([*batch] if transform else []) + [batch]
    assert calls == expected


def test_several_threads_are_at_one_batch(folder: Path) -> None:
    # None of four calls returns before all of them were begun: they are samples of the first batch.
    together = threading.Barrier(4, timeout=30)

    def transform(sample: Any) -> Any:
        together.wait()
        return sample

    assert indices(loader(folder, transform, 48, drop_last=True, transform_threads=4)) == plain(folder, 48, drop_last=True)


def test_pads_and_numpy_samples_reach_the_functions(folder: Path) -> None:
    def collate(samples: Any) -> Any:
        assert all(isinstance(sample["b"], np.ndarray) for sample in samples)
        return [sample["__pad__"] for sample in samples]

    last = []
    for rank in range(3):
        dataset = hw.StreamingDataset(folder, framework="numpy", transform=lambda sample: sample)
        made = hw.StreamingDataLoader(dataset, 16, collate_fn=collate, rank=rank, world_size=3)
        last.append(list(made)[-1])
    assert last == [[False], [False], [True]]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("device", [None, "meta"])
def test_a_batch_that_is_none_is_a_batch_like_any_other(folder: Path, threads: int, device: str | None) -> None:
    def collate(samples: list[Any]) -> Any:
        numbers = [sample["__index__"] for sample in samples]
        return None if 9 in numbers else numbers

    made = loader(folder, None, shuffle=False, collate_fn=collate, transform_threads=threads, device=device)
    assert list(made) == [None if 9 in batch else batch for batch in plain(folder, shuffle=False)]
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (1, 0)


def test_threads_that_cannot_be_meant_are_refused(folder: Path) -> None:
    for wrong, words in [(-1, "transform_threads"), (100_000, "more than 1024 cannot be meant")]:
        with pytest.raises(hw.ConfigError, match=words):
            loader(folder, transform_threads=wrong)


# ---- how far ahead


@pytest.mark.parametrize(("threads", "batch_size", "most"), [(1, 4, 3), (4, 4, 3), (4, 1, 6)])
def test_functions_are_called_only_so_many_batches_ahead(folder: Path, threads: int, batch_size: int, most: int) -> None:
    gate = Gate(is_open=True)
    with closed(loader(folder, gate, batch_size, transform_threads=threads, window_samples=48)) as made:
        batches = iter(made)
        until(lambda: len(gate.calls) == most * batch_size, "they are called ahead")
        time.sleep(0.2)
        assert len(gate.calls) == most * batch_size
        next(batches)
        until(lambda: len(gate.calls) == (most + 1) * batch_size, "and go on when a batch is taken")
        time.sleep(0.2)
        assert len(gate.calls) == (most + 1) * batch_size


def test_nothing_more_is_fetched_while_the_window_is_full_of_what_functions_made(folder: Path) -> None:
    gate = Gate(is_open=True)
    with closed(loader(folder, gate, 4, fetch=THROTTLE, window_samples=4, transform_threads=2)) as made:
        batches = iter(made)
        until(lambda: len(gate.calls) == 4, "the first batch is made")
        time.sleep(0.2)
        assert made.stats()["source_requests_total"] == 2 * 4
        next(batches)
        until(lambda: len(gate.calls) == 8, "the next one follows")


# ---- state


@pytest.mark.parametrize("threads", THREADS)
def test_what_is_ahead_but_not_handed_out_is_not_in_the_state(folder: Path, threads: int) -> None:
    gate = Gate(is_open=True)
    with closed(loader(folder, gate, transform_threads=threads)) as made:
        batches = iter(made)
        assert made.state_dict()["position"] == 0
        first = [next(batches)["__index__"].tolist() for _ in range(2)]
        until(lambda: len(gate.calls) > 8 or threads == 0, "the third batch is begun")
        state = made.state_dict()
    assert state["position"] == 8
    again = loader(folder, gate, transform_threads=threads)
    again.load_state_dict(state)
    assert first + indices(again) == plain(folder)


@pytest.mark.parametrize("threads", THREADS)
def test_a_run_goes_on_from_every_step_with_the_same_random_numbers(folder: Path, threads: int) -> None:
    def transform(sample: Any) -> Any:
        generator = np.random.default_rng(hw.sample_seed())
        return {"__index__": sample["__index__"], "drawn": generator.random(4)}

    def collate(samples: list[Any]) -> Any:
        batch: dict[str, Any] = torch.utils.data.default_collate(samples)
        return batch | {"noise": random.Random(hw.sample_seed()).random()}

    arguments: dict[str, Any] = {"collate_fn": collate, "transform_threads": threads}
    assert_resumable(loader(folder, transform, 8, **arguments), fresh=lambda: loader(folder, transform, 8, **arguments))


def test_the_seed_of_a_sample_depends_on_seed_epoch_and_sample_alone(folder: Path) -> None:
    def transform(sample: Any) -> Any:
        return {"index": sample["__index__"], "seed": hw.sample_seed()}

    def seeds(**arguments: Any) -> dict[int, int]:
        made = loader(folder, transform, **{"transform_threads": 4, **arguments})
        made.set_epoch(arguments.pop("epoch", 0))
        pairs = [zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True) for batch in made]
        return {index: seed for batch in pairs for index, seed in batch}

    first = seeds()
    assert len(set(first.values())) == SAMPLES
    assert all(0 <= seed < 2**63 for seed in first.values())
    for arguments in [{"transform_threads": 0}, {"batch_size": 7}, {"shuffle": False}, {"fetch": THROTTLE}]:
        assert seeds(**arguments) == first
    ranks = [seeds(rank=rank, world_size=3) for rank in range(3)]
    assert {index: seed for rank in ranks for index, seed in rank.items()} == first
    assert not set(seeds(seed=6).values()) & set(first.values())
    other = loader(folder, transform)
    other.set_epoch(1)
    assert not {seed for batch in other for seed in batch["seed"].tolist()} & set(first.values())


@pytest.mark.parametrize("threads", THREADS)
def test_the_seed_is_still_its_samples_after_another_loader_was_walked_in_between(folder: Path, threads: int) -> None:
    inner = loader(folder, lambda sample: hw.sample_seed(), 50, transform_threads=0, collate_fn=list)

    def transform(sample: Any) -> Any:
        before = hw.sample_seed()
        assert len(set(next(iter(inner)))) == SAMPLES
        return before == hw.sample_seed()

    with closed(loader(folder, transform, collate_fn=list, transform_threads=threads)) as made:
        assert next(iter(made)) == [True] * 4


def test_elsewhere_a_seed_is_drawn_from_pythons_generator(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, transform=lambda sample: hw.sample_seed())
    random.seed(3)
    drawn = [dataset[0], *dataset.__getitems__([0, 1])]
    random.seed(3)
    assert drawn == [random.getrandbits(63) for _ in range(3)]


# ---- what functions raise


class RefusedError(Exception):
    pass


def refusing(*keys: str) -> Any:
    def transform(sample: Any) -> Any:
        if sample["__key__"] in keys:
            raise RefusedError(sample["__key__"])
        return sample

    return transform


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_is_raised_in_the_place_of_its_batch_with_sample_and_traceback(folder: Path, threads: int) -> None:
    whole = plain(folder, shuffle=False)
    made = loader(folder, refusing("0009", "0010"), shuffle=False, transform_threads=threads)
    batches = iter(made)
    assert [next(batches)["__index__"].tolist() for _ in range(2)] == whole[:2]
    with pytest.raises(RefusedError, match="0009") as raised:
        next(batches)
    text = "".join(traceback.format_exception(raised.value))
    assert "in transform\n    raise RefusedError" in text
    assert "in the dataset's transform, of sample `0009`" in text
    # As in an iterator of torch's with worker processes: the next batch comes next, and the run goes on behind the error.
    assert made.state_dict()["position"] == 12
    again = loader(folder, None, shuffle=False)
    again.load_state_dict(made.state_dict())
    assert indices(batches) == indices(again) == whole[3:]


def test_of_several_samples_that_fail_the_first_counts_whichever_thread_was_first(folder: Path) -> None:
    def transform(sample: Any) -> Any:
        time.sleep(0.05 if sample["__index__"] == 1 else 0)
        raise RefusedError(sample["__key__"])

    for _ in range(3):
        with (
            closed(loader(folder, transform, 4, shuffle=False, transform_threads=4)) as made,
            pytest.raises(RefusedError, match="0000"),
        ):
            next(iter(made))


@pytest.mark.parametrize("threads", THREADS)
def test_what_collate_fn_raises_names_its_batch(folder: Path, threads: int) -> None:
    def collate(samples: Any) -> Any:
        raise RefusedError(len(samples))

    with (
        closed(loader(folder, None, shuffle=False, collate_fn=collate, transform_threads=threads)) as made,
        pytest.raises(RefusedError, match="4") as raised,
    ):
        next(iter(made))
    assert raised.value.__notes__ == ["in collate_fn, of sample `0000` and 3 others"]


@dataclass(frozen=True)
class FrozenError(Exception):
    key: str


@pytest.mark.parametrize("threads", THREADS)
def test_an_exception_that_takes_no_note_is_raised_as_it_is(folder: Path, threads: int) -> None:
    def transform(sample: Any) -> Any:
        if sample["__index__"] == 5:
            raise FrozenError(sample["__key__"])
        return sample

    batches = iter(loader(folder, transform, shuffle=False, transform_threads=threads, batch_deadline="30s"))
    whole = plain(folder, shuffle=False)
    assert next(batches)["__index__"].tolist() == whole[0]
    # Its traceback cannot be set either where Python code raises it again.
    with pytest.raises(FrozenError) as raised:
        next(batches)
    assert raised.value.key == "0005"
    assert indices(batches) == whole[2:]


@pytest.mark.parametrize("threads", THREADS)
def test_an_exception_object_raised_again_and_again_has_one_note(folder: Path, threads: int) -> None:
    one = RefusedError("always the same")
    one.add_note("the user's own")

    def transform(sample: Any) -> Any:
        raise one

    with closed(loader(folder, transform, 1, shuffle=False, transform_threads=threads)) as made:
        batches = iter(made)
        for _ in range(SAMPLES):
            with pytest.raises(RefusedError):
                next(batches)
    own, *ours = one.__notes__
    assert own == "the user's own"
    assert len(ours) == 1
    assert ours[0].startswith("in the dataset's transform, of sample `")


@pytest.mark.parametrize("threads", THREADS)
def test_a_stop_iteration_does_not_end_the_epoch_as_if_nothing_were_to_come(folder: Path, threads: int) -> None:
    def transform(sample: Any) -> Any:
        return next(iter([]))

    with (
        closed(loader(folder, transform, transform_threads=threads)) as made,
        pytest.raises(RuntimeError, match="transform raised StopIteration"),
    ):
        next(iter(made))


def test_an_object_that_cannot_be_read_ends_the_pass_after_the_batches_before_it(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 12, bad=(6,))
    batches = iter(loader(folder, lambda sample: sample, 2, shuffle=False))
    assert [next(batches)["__index__"].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(hw.CorruptDataError, match=r"0006\.pt"):
        next(batches)
    assert next(batches, None) is None


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("on_error", ["skip", "substitute", lambda *_: "skip"], ids=["skip", "substitute", "function"])
def test_bad_samples_are_spared_before_functions_see_them(tmp_path: Path, threads: int, on_error: Any) -> None:
    folder = small(tmp_path / "set", 20, bad=(3, 4, 17))
    made = loader(folder, lambda sample: sample, transform_threads=threads, on_error=on_error)
    seen = indices(made)
    assert seen == indices(loader(folder, None, on_error=on_error))
    assert not {index for batch in seen for index in batch} & {3, 4, 17}


def test_an_error_of_a_set_with_on_error_is_raised_all_the_same(folder: Path) -> None:
    with closed(loader(folder, refusing("0000"), shuffle=False, on_error="skip")) as made, pytest.raises(RefusedError):
        next(iter(made))


# ---- what is waited for


def test_what_functions_are_at_can_be_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    made = loader(folder, gate, shuffle=False, transform_threads=2, watchdog="200ms", batch_deadline="700ms")
    batches = iter(made)
    words = r"the transform has had sample `000[01]` for .* and for 1 other objects"
    with caplog.at_level("WARNING", "headwater"), pytest.raises(hw.DeadlineError, match=words):
        next(batches)
    waits = made.waits()
    assert [(wait["stage"], wait["object"]) for wait in waits if wait["ahead"] == 0] == [
        ("transform", "0000"),
        ("transform", "0001"),
    ]
    assert all(wait["seconds"] > 0.5 for wait in waits if wait["ahead"] == 0)
    assert {(wait["stage"], wait["object"]) for wait in waits if wait["ahead"] > 0} <= {("transform", None)}
    assert any("the transform has had sample `000" in record.message for record in caplog.records)
    gate.event.set()
    assert indices(batches) == plain(folder, shuffle=False), "after a deadline the batch is still to come"


def test_a_collate_fn_that_takes_long_is_named(folder: Path) -> None:
    gate = threading.Event()
    with closed(loader(folder, collate_fn=lambda samples: gate.wait(30), transform_threads=1, batch_deadline="300ms")) as made:
        batches = iter(made)
        with pytest.raises(hw.DeadlineError, match=r"collate_fn has had it for 0\.\d s"):
            next(batches)
        assert {wait["stage"] for wait in made.waits() if wait["ahead"] == 0} == {"collate_fn"}
        gate.set()


def test_figures_say_how_long_functions_took_and_were_waited_for(folder: Path) -> None:
    def transform(sample: Any) -> Any:
        time.sleep(0.005)
        return sample

    made = loader(folder, transform, transform_threads=2)
    assert len(list(made)) == 13
    stats = made.stats()
    assert stats["transform_seconds_total"] >= 0.005 * SAMPLES
    assert stats["loader_stall_transform_seconds_total"] >= 0.005
    assert (stats["loader_batches_total"], stats["samples_read_total"]) == (13, SAMPLES)
