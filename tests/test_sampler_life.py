"""`Sampler` where passes end, fail, are wrapped or not tracked."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import headwater as hw
from clips import THROTTLE, indices, loader, small, write_clips
from waiting import until

# torchdata calls what torch has since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def plain(folder: Path, batch_size: int = 4, workers: int = 0, **arguments: Any) -> tuple[hw.Sampler, Any]:
    dataset = hw.StreamingDataset(folder)
    sampler = hw.Sampler(dataset, batch_size, shuffle=True, seed=5, **arguments)
    return sampler, DataLoader(dataset, batch_sampler=sampler, num_workers=workers)


def test_untracked_state_at_the_end_of_an_epoch_goes_on(folder: Path) -> None:
    sampler, dl = plain(folder)
    list(dl)
    state = sampler.state_dict()
    again, dl2 = plain(folder)
    again.load_state_dict(state)
    # `while step < steps: for batch in dl` would turn for ever.
    assert any(len(list(dl2)) for _ in range(3))


def test_untracked_state_of_a_dropped_tail_goes_on(folder: Path) -> None:
    sampler, dl = plain(folder, 8, drop_last=True)
    list(dl)
    state = sampler.state_dict()
    again, dl2 = plain(folder, 8, drop_last=True)
    again.load_state_dict(state)
    assert any(len(list(dl2)) for _ in range(3))


def test_untracked_state_with_workers_is_refused_since_nobody_knows_it(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)
    sampler = hw.Sampler(dataset, 4, shuffle=True, seed=5)
    dl: Any = DataLoader(dataset, batch_sampler=sampler, num_workers=1)
    assert sampler.state_dict()["position"] == 0, "nothing is drawn"
    batches = iter(dl)
    next(batches)
    for _ in range(2):
        with pytest.raises(hw.ConfigError, match=r"sampler\.track\(dataloader\).*StatefulDataLoader"):
            sampler.state_dict()
    del batches
    # What is chosen is known again.
    sampler.set_epoch(3)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (3, 0)
    tracked = sampler.track(dl)
    for _batch in tracked:
        break
    assert sampler.state_dict()["position"] == 4


@pytest.mark.slow
def test_the_samplers_own_state_under_torchdatas_workers_is_refused_and_the_loaders_is_not(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)
    sampler = hw.Sampler(dataset, 4, shuffle=True, seed=5)
    dl = StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=2)
    batches = iter(dl)
    first = [next(batches)["__index__"].tolist()]
    with pytest.raises(hw.ConfigError, match=r"sampler\.track\(dataloader\).*StatefulDataLoader itself"):
        sampler.state_dict()
    state = dl.state_dict()
    assert len(indices(batches)) == 12
    again = hw.Sampler(dataset, 4, shuffle=True, seed=5)
    resumed = StatefulDataLoader(dataset, batch_sampler=again, num_workers=2)
    resumed.load_state_dict(state)
    assert first + indices(resumed) == indices(loader(folder))


class Held:
    pass


@pytest.mark.parametrize("is_tracked", [False, True])
def test_what_the_loop_holds_is_let_go_with_it(folder: Path, is_tracked: bool) -> None:
    sampler, dl = plain(folder)

    def step() -> weakref.ref[Held]:
        held = Held()
        batches = iter(sampler.track(dl) if is_tracked else dl)
        next(batches)
        kept.append(batches)
        gone = weakref.ref(held)
        del held
        assert gone() is None, "the sampler looked at it when it was asked who draws"
        return gone

    kept: list[Any] = []
    assert step()() is None


def test_untracked_state_is_no_affair_of_other_child_processes(folder: Path) -> None:
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    other.start()
    try:
        sampler, dl = plain(folder)
        next(iter(dl))
        assert sampler.state_dict()["position"] == 4
    finally:
        other.terminate()
        other.join()


def test_untracked_state_follows_set_epoch(folder: Path) -> None:
    sampler, dl = plain(folder)
    list(dl)
    sampler.set_epoch(5)
    assert sampler.state_dict()["epoch"] == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_goes_on_after_the_end_of_an_epoch(folder: Path, workers: int) -> None:
    def made() -> Any:
        dataset = hw.StreamingDataset(folder)
        return StatefulDataLoader(dataset, batch_sampler=hw.Sampler(dataset, 8, shuffle=True, seed=5), num_workers=workers)

    first = made()
    epochs = []
    for _ in range(3):
        epochs.append(indices(first))
        if len(epochs) == 1:
            state = first.state_dict()
    fresh = made()
    fresh.load_state_dict(state)
    got = [indices(fresh) for _ in range(3)]
    got = [epoch for epoch in got if epoch]
    assert got[:2] == epochs[1:]


def test_tracked_pass_that_failed_before_it_handed_out_anything_is_begun_again(folder: Path) -> None:
    fails = [True]

    def transform(sample: Any) -> Any:
        if fails[0]:
            raise OSError("once")
        return sample

    dataset = hw.StreamingDataset(folder, transform=transform)
    sampler = hw.Sampler(dataset, 4, shuffle=True, seed=5)
    dl = DataLoader(dataset, batch_sampler=sampler)
    with pytest.raises(OSError, match="once"):
        list(sampler.track(dl))
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (0, 0)
    fails[0] = False
    assert indices(sampler.track(dl)) == indices(loader(folder)), "epoch 0 was left out"


def test_restored_tracked_pass_that_failed_at_once_keeps_the_rest_of_its_epoch(folder: Path) -> None:
    fails = [True]

    def transform(sample: Any) -> Any:
        if fails[0]:
            raise OSError("once")
        return sample

    dataset = hw.StreamingDataset(folder, transform=transform)
    sampler = hw.Sampler(dataset, 4, shuffle=True, seed=5)
    dl = DataLoader(dataset, batch_sampler=sampler)
    whole = indices(loader(folder))
    sampler.load_state_dict({**sampler.state_dict(), "position": 8})
    with pytest.raises(OSError, match="once"):
        list(sampler.track(dl))
    fails[0] = False
    assert indices(sampler.track(dl)) == whole[2:]


def test_track_with_a_collate_fn_that_lists_indices(folder: Path) -> None:
    def collate(samples: list[Any]) -> Any:
        return {"__index__": [sample["__index__"] for sample in samples], "b": torch.stack([sample["b"] for sample in samples])}

    dataset = hw.StreamingDataset(folder)
    sampler = hw.Sampler(dataset, 4)
    assert len(list(sampler.track(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)))) == 13


def test_pads_are_right_when_some_are_skipped_and_some_substituted(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 5, bad=(3, 4))

    def decide(key: str, _: Any) -> Any:
        return "substitute" if key == "0003" else "skip"

    # Rank 1 of 2, batch 3: positions 3, 4, 5, of which the last is a pad.
    arguments: dict[str, Any] = {"rank": 1, "world_size": 2}
    own = hw.StreamingDataLoader(hw.StreamingDataset(folder, on_error=decide), 3, **arguments)
    [expected] = [batch["__pad__"].tolist() for batch in own]
    dataset = hw.StreamingDataset(folder, on_error=decide)
    sampler = hw.Sampler(dataset, 3, **arguments)
    [batch] = list(sampler.track(DataLoader(dataset, batch_sampler=sampler)))
    assert batch["__pad__"].tolist() == expected


class EverySecond:
    """Draws all, and hands out every second batch: as Accelerate's `BatchSamplerShard` and its like do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Any:
        return itertools.islice(iter(self.inner), 0, None, 2)


def test_track_notices_batches_that_are_not_the_ones_drawn(folder: Path) -> None:
    sampler, _ = plain(folder)
    sharded = DataLoader(sampler.dataset, batch_sampler=EverySecond(sampler))
    with pytest.raises(hw.ConfigError, match="something shards or reorders batches"):
        list(sampler.track(sharded))


def test_end_of_a_tracked_pass_keeps_what_the_user_queued(folder: Path) -> None:
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="20ms"), hedge=0)
    dataset = hw.StreamingDataset(folder, fetch=fetch)
    sampler = hw.Sampler(dataset, 4)
    dl = DataLoader(dataset, batch_sampler=sampler)
    tracked = iter(sampler.track(dl))
    next(tracked)
    dataset.prefetch(range(40, 50))
    time.sleep(0.5)
    tracked.close()
    before = dataset.stats()["source_requests_total"]
    dataset[list(range(40, 50))]
    assert dataset.stats()["source_requests_total"] == before


def test_a_sampler_made_before_its_rank_is_refused_as_a_loader_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = hw.StreamingDataset(folder)
    made, sampler = hw.StreamingDataLoader(dataset, 4), hw.Sampler(dataset, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(hw.ConfigError, match="rank 0 of 1"):
        iter(made)
    with pytest.raises(hw.ConfigError):
        next(iter(sampler))


class Wrapper:
    """What Accelerate's `DataLoaderShard`, tqdm and most wrappers are: `__iter__` is a generator."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Any:
        yield from self.inner


def test_track_goes_through_a_wrapper(folder: Path) -> None:
    sampler, dl = plain(folder)
    assert len(list(sampler.track(Wrapper(dl)))) == 13


def test_no_state_is_refused_in_words(folder: Path) -> None:
    for made in (loader(folder), plain(folder)[0]):
        with pytest.raises((hw.ConfigError, TypeError)):
            made.load_state_dict(None)  # type: ignore[arg-type]


def test_pads_are_of_the_kind_of_the_batch(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, framework="numpy")
    sampler = hw.Sampler(dataset, 4)
    for batch in sampler.track(DataLoader(dataset, batch_sampler=sampler)):
        assert type(batch["__pad__"]) is type(batch["__index__"])


def test_looking_ahead_is_refused_where_workers_read(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, fetch=THROTTLE)
    sampler = hw.Sampler(dataset, 5)
    dl = DataLoader(dataset, batch_sampler=sampler, num_workers=1)
    with pytest.raises(hw.ConfigError, match="for a DataLoader without workers"):
        sampler.track(dl, look_ahead=2)
    assert dataset.stats()["prefetch_queued_total"] == 0


@pytest.mark.parametrize("look_ahead", [-1, 2.5])
def test_a_look_ahead_that_cannot_be_meant_is_refused_at_once(folder: Path, look_ahead: Any) -> None:
    sampler, dl = plain(folder)
    with pytest.raises(hw.ConfigError):
        sampler.track(dl, look_ahead=look_ahead)


class PreemptedError(Exception):
    pass


def test_what_a_handler_raises_as_a_step_is_drawn_costs_no_step(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 400, bad=range(0, 400, 3))
    expected = list(hw.Sampler(hw.StreamingDataset(folder), 3, shuffle=True))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise PreemptedError

    sampler = hw.Sampler(hw.StreamingDataset(folder), 3, shuffle=True)
    drawn, seen, raised = iter(sampler), [], 0
    # Has records of its own under way, which the log is told of whenever anything is asked of the core.
    others = hw.StreamingDataLoader(hw.StreamingDataset(folder, on_error="skip"), 2, window_samples=400)
    _batches, log, handler = iter(others), logging.getLogger("headwater"), Handler()
    until(lambda: others.stats()["samples_skipped_total"] >= 128, "samples of the window are skipped")
    log.addHandler(handler)
    try:
        while len(seen) < len(expected):
            try:
                seen.append(next(drawn))
            except PreemptedError:
                raised += 1
    finally:
        log.removeHandler(handler)
    assert seen == expected
    assert raised > 0
    assert sampler.state_dict()["position"] == 400
