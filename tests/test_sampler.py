"""`Sampler`: the loader's order and state under torch's and torchdata's loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import headwater as hw
from clips import SAMPLES, THROTTLE, check, indices, loader, write_clips
from headwater.testing import assert_resumable
from same import assert_same

# torchdata calls what torch has since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


class Tracking:
    """A `DataLoader` with a sampler, as one loader."""

    def __init__(
        self, folder: Path, batch_size: int = 4, workers: int = 0, context: str | None = None, **arguments: Any
    ) -> None:
        self.dataset = hw.StreamingDataset(folder, fetch=arguments.pop("fetch", None))
        self.sampler = hw.Sampler(self.dataset, batch_size, **{"shuffle": True, "seed": 5, **arguments})
        self.loader = DataLoader(self.dataset, batch_sampler=self.sampler, num_workers=workers, multiprocessing_context=context)
        self.state_dict, self.load_state_dict = self.sampler.state_dict, self.sampler.load_state_dict

    def __iter__(self) -> Any:
        return iter(self.sampler.track(self.loader))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn"), (2, "forkserver")])
def test_what_torchs_loader_hands_out_is_what_ours_does(folder: Path, workers: int, context: str | None) -> None:
    tracked, own = Tracking(folder, workers=workers, context=context), loader(folder)
    assert len(tracked.sampler) == len(tracked.loader) == len(own)
    for _ in range(2):
        for batch, expected in zip(tracked, own, strict=True):
            check(batch)
            assert list(batch.pop("__key__")) == list(expected.pop("__key__"))
            assert_same(batch, expected)
        assert tracked.state_dict() == own.state_dict()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_get_what_the_loaders_ranks_get(folder: Path, world_size: int, drop_last: bool) -> None:
    for rank in range(world_size):
        arguments: dict[str, Any] = {"rank": rank, "world_size": world_size, "drop_last": drop_last}
        assert indices(Tracking(folder, 3, **arguments)) == indices(loader(folder, 3, **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_from_every_tracked_step(folder: Path, workers: int) -> None:
    assert_resumable(Tracking(folder, 12, workers), fresh=lambda: Tracking(folder, 12, workers), every=2 if workers else 1)


def test_states_go_from_one_kind_of_loader_to_the_other(folder: Path) -> None:
    own, tracked = loader(folder, 8), Tracking(folder, 2)
    whole = [index for batch in indices(loader(folder, 8)) for index in batch]
    batches = iter(own)
    next(batches)
    tracked.load_state_dict(json.loads(json.dumps(own.state_dict())))
    taken = []
    for batch in tracked:
        taken += batch["__index__"].tolist()
        if len(taken) == 6:
            break
    assert tracked.state_dict()["position"] == 14
    other = loader(folder, 8)
    other.load_state_dict(tracked.state_dict())
    assert whole[8:] == taken + [index for batch in indices(other) for index in batch]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_keeps_the_samplers_state(folder: Path, workers: int) -> None:
    def made() -> StatefulDataLoader[Any]:
        dataset = hw.StreamingDataset(folder)
        sampler = hw.Sampler(dataset, 8, shuffle=True, seed=5)
        return StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=workers)

    assert indices(made()) == indices(loader(folder, 8))
    assert_resumable(made(), fresh=made, every=3 if workers else 1, epochs=1)


def test_without_workers_the_coming_samples_are_fetched_ahead(folder: Path) -> None:
    tracked = Tracking(folder, 5, fetch=THROTTLE)
    for batch in tracked:
        check(batch)
    stats = tracked.dataset.stats()
    assert stats["prefetch_queued_total"] == SAMPLES - 5
    assert stats["source_requests_total"] == 2 * SAMPLES, "nothing is fetched twice"
    assert stats["prefetch_fetched_total"] == 2 * (SAMPLES - 5)
    off = Tracking(folder, 5, fetch=THROTTLE)
    assert len(list(off.sampler.track(off.loader, look_ahead=0))) == 10
    assert off.dataset.stats()["prefetch_queued_total"] == 0


def test_a_pass_that_is_not_tracked_says_what_was_drawn(folder: Path) -> None:
    tracked = Tracking(folder, 5)
    batches = iter(tracked.loader)
    next(batches)
    next(batches)
    assert tracked.state_dict()["position"] == 10


def test_what_cannot_be_tracked_is_refused_in_words(folder: Path) -> None:
    tracked = Tracking(folder)
    with pytest.raises(hw.ConfigError, match="batch_sampler=sampler"):
        list(tracked.sampler.track(DataLoader(tracked.dataset, 4)))
    unordered = DataLoader(tracked.dataset, batch_sampler=tracked.sampler, num_workers=1, in_order=False)
    with pytest.raises(hw.ConfigError, match="in_order=False"):
        tracked.sampler.track(unordered)
    with pytest.raises(hw.ConfigError, match=r"headwater\.StreamingDataset"):
        hw.Sampler([1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(hw.ConfigError, match="a batch holds at least one sample"):
        hw.Sampler(tracked.dataset, 0)
    with pytest.raises(hw.ConfigError, match="seed is 5 in the state and 6 here"):
        hw.Sampler(tracked.dataset, 4, shuffle=True, seed=6).load_state_dict(tracked.state_dict())
