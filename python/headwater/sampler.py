"""The loader's order, ranks and state for a ``DataLoader`` of torch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from headwater import _headwater, workers
from headwater.config import as_json
from headwater.dataset import StreamingDataset
from headwater.distributed import Group, join, told
from headwater.errors import ConfigError


class Sampler:
    """Batches of indices for torch's ``DataLoader``: the very ones that a :class:`StreamingDataLoader` would hand out.

    ::

        sampler = hw.Sampler(dataset, batch_size=8, shuffle=True)
        dataloader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
        for batch in sampler.track(dataloader):
            ...
            state = sampler.state_dict()

    A ``DataLoader`` with worker processes draws batches ahead, so only who sees them come out knows where the run stands:
    :meth:`track`. It also marks pads, and without worker processes it has the coming samples fetched ahead. torchdata's
    ``StatefulDataLoader`` keeps the state of this sampler by itself, and needs no tracking.

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
        ranks, place = join(dataset._compare_with_first_rank, rank, world_size, replication, process_group)
        config = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self._native = _headwater.Sampler(dataset._native, as_json(config | place))
        self._ranks = ranks
        self._drawn: _Drawn | None = None
        self._is_tracked = False

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch; the same on every rank."""
        return len(self._native)

    def __iter__(self) -> Iterator[list[int]]:
        """Begins a pass: where a restored state or :meth:`set_epoch` says, else the next epoch from its start."""
        self._ranks.check(told())
        self._drawn, self._is_tracked = _Drawn(self._native), False
        return self._drawn

    def track(self, dataloader: Iterable[Any], *, look_ahead: int | None = None) -> Tracked:
        """One pass over a ``DataLoader`` that draws from this sampler, counting what it hands out.

        Args:
            dataloader: one with ``batch_sampler=`` this sampler, or what wraps such a one.
            look_ahead: steps whose samples are fetched ahead, where there are no worker processes to do so; by default those of
                64 samples. They take memory as ``PrefetchConfig`` says.

        Raises:
            ConfigError: the loader hands out batches in another order than it draws them, or ``look_ahead`` cannot be meant.

        """
        if getattr(dataloader, "in_order", True) is False:
            raise ConfigError("cannot track a DataLoader with in_order=False: nobody knows which batch it hands out")
        has_workers = getattr(dataloader, "num_workers", 1) > 0
        return Tracked(self, dataloader, self._native.steps_ahead(look_ahead, has_workers))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a state restored for that very epoch keeps its place in it."""
        self._native.set_epoch(epoch)
        if not self._is_tracked:
            # What was drawn of the pass before is no longer where the run stands.
            self._drawn = None

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, as :meth:`StreamingDataLoader.state_dict`: either can go on with the other's.

        Behind it is what :meth:`track` handed out. Of a pass that is not tracked it is what was drawn, which without worker
        processes is the same.

        Raises:
            ConfigError: worker processes read ahead in a pass that is not tracked, so that nobody knows what was handed out. Of
                torchdata's ``StatefulDataLoader`` it is the loader's own state that does.

        """
        if self._drawn is not None and not self._is_tracked:
            self._drawn.refuse_workers()
            return self._drawn.state_dict()
        return self._native.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next pass begin where the state was taken, also under another batch size or world size.

        Raises:
            ConfigError: the state is of other samples or another order; the message says what differs.
            ObjectChangedError: objects were replaced since, and the dataset has ``on_changed="error"``.

        """
        self._native.restore(state_dict)
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
        self._sampler._drawn = None
        batches = iter(self._dataloader)
        # A generator around the loader begins with the first batch.
        drawn = self._begin()
        try:
            for batch in batches:
                drawn = drawn or self._begin()
                if drawn is None:
                    raise ConfigError("this loader does not draw from this sampler: give it batch_sampler=sampler")
                yield self._handed_out(batch, drawn)
            drawn = drawn or self._begin()
            if drawn is not None:
                drawn.end()
        finally:
            if drawn is not None:
                drawn.forget_ahead()

    def _begin(self) -> _Drawn | None:
        drawn = self._sampler._drawn
        if drawn is not None:
            self._sampler._is_tracked = True
            drawn.track(self._look_ahead)
        return drawn

    def _handed_out(self, batch: Any, drawn: _Drawn) -> Any:
        index = batch.get("__index__") if isinstance(batch, dict) else None
        samples: list[int] | None = None
        if index is not None and not getattr(index, "is_cuda", False):
            samples = index.tolist() if hasattr(index, "tolist") else list(index)
        pads = drawn.hand_out(samples)
        if pads is not None and "__pad__" not in batch:
            batch["__pad__"] = _like(index, pads)
        return batch


class _Drawn(Iterator[list[int]]):
    """The steps of one pass, as a loader draws them."""

    def __init__(self, native: _headwater.Sampler) -> None:
        self._native, self._walk = native, native.begin()
        # Known with the first that is drawn.
        self._is_for_workers: bool | None = None

    def __next__(self) -> list[int]:
        if self._is_for_workers is None:
            self._is_for_workers = workers.draw_this()
        step = self._walk.draw()
        if step is None:
            raise StopIteration
        return step

    def refuse_workers(self) -> None:
        # torchdata's loader counts what it hands out by itself, and asks as it draws.
        if self._is_for_workers and not workers.keep_this():
            raise ConfigError(
                "cannot tell where this run stands: worker processes have drawn more than was handed out, and nobody counts; "
                "iterate sampler.track(dataloader), or use the state of torchdata's StatefulDataLoader itself"
            )

    def track(self, steps_ahead: int) -> None:
        self._walk.track(steps_ahead)

    def forget_ahead(self) -> None:
        self._walk.forget_ahead()

    def hand_out(self, samples: list[int] | None) -> list[bool] | None:
        return self._walk.hand_out(samples)

    def end(self) -> None:
        self._walk.end()

    # What torchdata's loader keeps of whatever it draws from.
    def state_dict(self) -> dict[str, Any]:
        return self._walk.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._native.restore(state_dict)
        self._walk = self._native.begin()


def _like(index: Any, pads: list[bool]) -> Any:
    """In the form that the batch's own numbers have."""
    kind = type(index).__module__.partition(".")[0]
    if kind == "torch":
        import torch

        return torch.tensor(pads)
    if kind == "numpy":
        import numpy as np

        return np.array(pads)
    return pads
