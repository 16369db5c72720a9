"""The loader's order, ranks and state for a ``DataLoader`` of torch's."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from typing import Any

from headwater import _headwater
from headwater.config import as_json
from headwater.dataset import StreamingDataset
from headwater.distributed import Group, join
from headwater.errors import ConfigError

# How many samples a loader without worker processes has fetched ahead.
_SAMPLES_AHEAD = 64


class Sampler:
    """Batches of indices for torch's ``DataLoader``: the very ones that a :class:`StreamingDataLoader` would hand out.

    ::

        sampler = hw.Sampler(dataset, batch_size=8, shuffle=True)
        dataloader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
        for batch in sampler.track(dataloader):
            ...
            state = sampler.state_dict()

    A ``DataLoader`` draws batches ahead, so only who sees them come out knows where the run stands: :meth:`track`. It also
    marks pads, and without worker processes it has the coming samples fetched ahead. torchdata's ``StatefulDataLoader`` keeps
    the state of this sampler by itself, and needs no tracking.

    Args:
        dataset: what to walk.
        batch_size, shuffle, seed, drop_last, rank, world_size, replication, process_group: as for :class:`StreamingDataLoader`.

    Raises:
        ConfigError: an argument cannot be meant.

    """

    def __init__(
        self,
        dataset: StreamingDataset,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        replication: int = 1,
        process_group: Group | None = None,
    ) -> None:
        if not isinstance(dataset, StreamingDataset):
            raise ConfigError(f"cannot sample from a `{type(dataset).__name__}`: give a headwater.StreamingDataset")
        ranks = join(dataset._compare_with_first_rank, rank, world_size, replication, process_group)
        config = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
            "rank": ranks.rank,
            "world_size": ranks.world_size,
            "replication": replication,
        }
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self._native = _headwater.Sampler(dataset._native, as_json(config))
        self._drawn: _Drawn | None = None
        self._is_tracked = False

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch; the same on every rank."""
        return len(self._native)

    def __iter__(self) -> Iterator[list[int]]:
        """Begins a pass: where a restored state or :meth:`set_epoch` says, else the next epoch from its start."""
        self._drawn, self._is_tracked = _Drawn(self._native), False
        return self._drawn

    def track(self, dataloader: Iterable[Any], *, look_ahead: int | None = None) -> Tracked:
        """One pass over a ``DataLoader`` that draws from this sampler, counting what it hands out.

        Args:
            dataloader: one with ``batch_sampler=`` this sampler, or what wraps such a one.
            look_ahead: steps whose samples are fetched ahead, where there are no worker processes to do so; by default those of
                64 samples. They take memory as ``PrefetchConfig`` says.

        Raises:
            ConfigError: the loader hands out batches in another order than it draws them.

        """
        if getattr(dataloader, "in_order", True) is False:
            raise ConfigError("cannot track a DataLoader with in_order=False: nobody knows which batch it hands out")
        if look_ahead is None:
            has_workers = getattr(dataloader, "num_workers", 1) > 0
            look_ahead = 0 if has_workers else max(2, -(-_SAMPLES_AHEAD // self.batch_size))
        return Tracked(self, dataloader, look_ahead)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a state restored for that very epoch keeps its place in it."""
        if not 0 <= epoch < 2**63:
            raise ConfigError(f"cannot use epoch {epoch}: epochs count from 0")
        self._native.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, as :meth:`StreamingDataLoader.state_dict`: either can go on with the other's.

        Behind it is what :meth:`track` handed out. Of a pass that is not tracked it is what was drawn, which without worker
        processes is the same.
        """
        if self._drawn is not None and not self._is_tracked and not self._drawn.is_over:
            return self._drawn.state_dict()
        state: dict[str, Any] = json.loads(self._native.state())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next pass begin where the state was taken, also under another batch size or world size.

        Raises:
            ConfigError: the state is of other samples or another order; the message says what differs.
            ObjectChangedError: objects were replaced since, and the dataset has ``on_changed="error"``.

        """
        self._native.restore(as_json(state_dict))
        self._drawn = None

    def __repr__(self) -> str:
        return f"<Sampler of {len(self)} batches of {self.batch_size}, {self.dataset!r}>"


class Tracked(Iterable[Any]):
    """What a ``DataLoader`` hands out in one pass, counted by its :class:`Sampler`."""

    def __init__(self, sampler: Sampler, dataloader: Iterable[Any], look_ahead: int) -> None:
        self._sampler, self._dataloader, self._look_ahead = sampler, dataloader, look_ahead

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        """Begins the pass.

        Raises while iterating:
            ConfigError: the loader does not draw from this sampler.

        """
        sampler = self._sampler
        sampler._drawn = None
        batches = iter(self._dataloader)
        drawn = sampler._drawn
        if drawn is None:
            raise ConfigError("this loader does not draw from this sampler: give it batch_sampler=sampler")
        sampler._is_tracked, drawn.steps_ahead = True, self._look_ahead
        try:
            for batch in batches:
                indices, pads = drawn.hand_out()
                yield _with_pads(batch, indices, pads, sampler.dataset._framework)
            drawn.end()
        finally:
            if self._look_ahead:
                sampler.dataset.stop_prefetch()


class _Drawn(Iterator[list[int]]):
    """The steps of one pass, as a loader draws them."""

    def __init__(self, native: _headwater.Sampler) -> None:
        self._native, self._walk = native, native.begin()
        self._under_way: collections.deque[tuple[list[int], list[bool] | None]] = collections.deque()
        self.steps_ahead = 0
        self.is_over = False

    def __next__(self) -> list[int]:
        step = self._walk.draw()
        if step is None:
            raise StopIteration
        self._under_way.append(step)
        if self.steps_ahead:
            self._walk.look_ahead(self.steps_ahead)
        return step[0]

    def hand_out(self) -> tuple[list[int], list[bool] | None]:
        if not self._under_way:
            raise ConfigError("the loader handed out a batch that this sampler did not draw")
        self._walk.hand_out()
        return self._under_way.popleft()

    def end(self) -> None:
        self._walk.end()
        self.is_over = True

    # What torchdata's loader keeps of whatever it draws from.
    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._walk.state())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._native.restore(as_json(state_dict))
        self._walk = self._native.begin()
        self._under_way.clear()


def _with_pads(batch: Any, indices: list[int], pads: list[bool] | None, framework: str) -> Any:
    """The batch, saying which of its samples are pads as the loader's own do; of another kind of batch it stays unsaid."""
    if pads is None or not isinstance(batch, dict) or "__pad__" in batch or "__index__" not in batch:
        return batch
    handed = batch["__index__"].tolist()
    if len(handed) != len(pads):
        # Samples that could not be read were left out.
        drawn = iter(zip(indices, pads, strict=True))
        pads = [next((pad for index, pad in drawn if index == sample), False) for sample in handed]
    if framework == "torch":
        import torch

        batch["__pad__"] = torch.tensor(pads)
    else:
        import numpy as np

        batch["__pad__"] = np.array(pads)
    return batch
